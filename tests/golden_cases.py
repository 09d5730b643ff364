"""Access to the reference values: every test reads its cases, parameters and arrays from the index.

The folder is `tests/golden`, or the one named by the environment variable ANCHORS_GOLDEN_DIR, which
may hold another draw of the same cases: other numbers, shapes and parameters under the same names.
"""

import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pytest

FOLDER = pathlib.Path(
    os.environ.get("ANCHORS_GOLDEN_DIR", pathlib.Path(__file__).parent / "golden")
)
INDEX_FILES = ("index.json", "index_heads.json", "index_models.json")


class Case(NamedTuple):
    """One reference case: `arrays[name]` are numpy arrays, `params` the settings they hold for."""

    name: str
    op: str | None
    params: dict[str, Any]
    arrays: dict[str, np.ndarray]
    json_files: dict[str, str]  # role -> file name, for the evaluation cases


@functools.cache
def _index() -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = {}
    for file in INDEX_FILES:
        if (FOLDER / file).exists():
            index.update(json.loads((FOLDER / file).read_text()))
    return index


def load(name: str) -> Case:
    """The case called `name`."""
    entry = _index()[name]
    with np.load(FOLDER / entry["file"]) as stored:
        arrays = {key: stored[key] for key in stored.files}
    return Case(name, entry.get("op"), entry.get("params", {}), arrays, entry.get("json_files", {}))


def cases(*ops: str) -> pytest.MarkDecorator:
    """Parametrise a test over every case of the given ops; the argument is called `case`."""
    names = [name for name, entry in _index().items() if entry.get("op") in ops]
    if not names:
        reason = f"no golden case of {', '.join(ops)} in {FOLDER}"
        return pytest.mark.parametrize("case", [pytest.param(None, marks=pytest.mark.skip(reason))])
    return pytest.mark.parametrize("case", [pytest.param(load(n), id=n) for n in names])
