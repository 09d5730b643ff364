"""Every config builds, is plain JSON, and trains a step at smoke scale."""

import importlib
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from anchors_jax import experiment, inference, parallel, spec, train
from configs import voc

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "anchors_jax"
FILES = sorted(
    path.stem
    for path in (REPOSITORY / "configs").glob("*.py")
    if path.stem not in ("__init__", "common", "parity")  # parity: tests/weights
)
SSD = ("paper", "paper512", "voc300", "voc512", "bench", "smoke")
VARIANTS = {
    "quickstart": ("bench", "smoke"),
    "bccd": ("bench", "smoke", "bench_semi_anchored"),
    "voc": tuple(voc.VARIANTS),
    "freeanchor": ("paper", "official", "bench", "smoke"),
    "coco": ("paper", "coco128", "overfit16", "smoke"),
    "ssd": SSD,
    "semi_anchored_ssd": SSD,
    "overanchorized": ("paper", "bench", "smoke", "ssd_paper", "ssd_bench", "ssd_smoke"),
    "fcos": ("paper", "bench", "smoke", "improved", "bench_improved", "smoke_improved"),
}
ALL = [
    (name, variant) for name in FILES for variant in VARIANTS.get(name, ("paper", "bench", "smoke"))
]


def config_of(name, variant):
    return importlib.import_module(f"configs.{name}").get_config(variant)


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_builds_and_survives_json(name, variant):
    config = config_of(name, variant)
    again = json.loads(json.dumps(spec.plain(config)))
    assert again == spec.plain(config)
    experiment.load(config)
    spec.build(again["detector"])
    assert config.name
    assert config.num_classes == spec.plain(config)["detector"]["model"]["head"]["num_classes"]


@pytest.mark.parametrize("name", FILES)
def test_the_docstring_says_what_and_how(name):
    doc = importlib.import_module(f"configs.{name}").__doc__
    assert "Run:" in doc
    read = re.search(r"^Read:(.*?)^\S", doc.replace("\n  ", " "), re.MULTILINE | re.DOTALL)
    named = re.findall(r"[\w/]+\.py", read.group(1)) if read else ()
    for file in named:
        assert [*PACKAGE.rglob(file), *REPOSITORY.glob(file)], f"{name} names {file}"
    assert "Variants:" in doc or name in ("quickstart", "bccd")


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_variant_is_named(name):
    with pytest.raises(ValueError, match="has no variant 'smok'; did you mean 'smoke'"):
        config_of(name, "smok")


def test_class_count_must_fit_the_data():
    config = config_of("retinanet", "smoke")
    config.num_classes = 4
    with pytest.raises(ValueError, match=r"num_classes = 4, but config.data.train has 5 classes"):
        experiment.load(config).source("train")


SHAPES = [name for name in FILES if name not in ("bccd", "coco", "prepared", "voc")]


@pytest.mark.parametrize("name", SHAPES)
def test_trains_a_step_and_detects(name):
    run = experiment.load(config_of(name, "smoke"))
    source = run.source("train")
    batches, plan = run.train_batches(source), run.plan(run.training_images(source))
    state, update = train.create_state(
        run.detector, run.canvases[0], run.rule(plan), seed=0, average=False
    )
    step = parallel.pmap(
        train.bound_step(run.detector, update, ema_decay=0.0, normaliser_group=None)
    )
    state = parallel.replicate(state)
    for _ in range(2):
        state, scalars, _ = step(state, parallel.shard(next(batches)))
    scalars = parallel.unreplicate(scalars)
    assert all(np.isfinite(value) for value in scalars.values()), scalars
    variables = jax.tree.map(np.asarray, parallel.unreplicate(state.variables))
    table = inference.detect(
        inference.make_predict(run.detector),
        variables,
        run.eval_batches(run.source("eval")),
        category_ids=source.category_ids,
    )
    assert np.isfinite(table.score).all()
