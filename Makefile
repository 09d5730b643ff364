# Every target sets up .venv by itself: needs Python >= 3.11, make and a package index.
#
#   make train       train, evaluate and draw the quick-start detector (runs/quickstart)
#   make test        lint and the quick tests        make test-slow   the slow tests too
#   make bench       speed and memory of the parts   make parity      distance from the references
#   make clean       remove what make wrote

PYTHON ?= python3
WORKDIR ?= runs/quickstart
BIN := .venv/bin
STAMP := .venv/.installed
# XLA's buffers come and go with every step; on Linux huge pages make that cheap (README, Speed).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train test test-slow lint format bench parity clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

$(STAMP): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "anchors_jax needs Python >= 3.11, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

train: $(STAMP)
	$(BIN)/python -m anchors_jax train --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(STAMP) lint
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not gpu"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

parity: $(STAMP)
	$(BIN)/python -m benchmarks.parity

clean:
	rm -rf .venv .cache runs build
