"""What the contract tests of assigners and objectives share: finding them, and scenes to try."""

import importlib
import inspect
import pathlib
import pkgutil
import re

import jax
import numpy as np

from anchors_jax.types import Targets

# Whatever a slot holds that is not valid: nothing may change.
RUBBISH = {
    "nan": {"boxes": np.nan, "labels": -1},
    "inf": {"boxes": np.inf, "labels": 0},
    "huge": {"boxes": [-1e30, -1e30, 1e30, 1e30], "labels": 2**31 - 1},
    "turned": {"boxes": [90.0, 70.0, 20.0, 10.0], "labels": -(2**31)},
    "crowd": {"boxes": [0.0, 0.0, 500.0, 500.0], "labels": 1, "crowd": True},
    "object": {"boxes": [40.0, 40.0, 90.0, 80.0], "labels": 0, "crowd": False},
}


def public(package, name):
    """{module name: function} for every module of a package that defines a public `name`."""
    found = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        function = getattr(module, name, None)
        if inspect.isfunction(function) and function.__module__ == info.name:
            found[info.name.removeprefix(f"{package.__name__}.")] = function
    return found


def documented(name):
    """The function called `name` of the first Python example in CONTRIBUTING.md that defines it."""
    page = (pathlib.Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    namespace = {}
    exec(next(block for block in blocks if f"def {name}(" in block), namespace)
    return namespace[name]


def required(function):
    """Names of the parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.default is p.empty)


def targets(boxes, *, labels=None, crowd=(), slots=8, order=None):
    """Numpy targets of one image: the boxes (crowd flags at `crowd`), then empty slots.

    `order` moves slots around: empty ones need not come last.
    """
    boxes = np.reshape(np.asarray(boxes, np.float32), (-1, 4))
    count = len(boxes)
    index = np.arange(slots)
    result = Targets(
        boxes=np.concatenate([boxes, np.zeros((slots - count, 4), np.float32)]),
        labels=np.resize(np.arange(count) % 3 if labels is None else labels, slots).astype(np.int32)
        * (index < count).astype(np.int32),
        valid=index < count,
        crowd=np.isin(index, crowd) & (index < count),
    )
    return result if order is None else permuted(result, order)


def permuted(tree, order):
    """Every leaf's leading axis in another order."""
    return jax.tree.map(lambda leaf: leaf[np.asarray(order)], tree)


def with_rubbish(scenes, kind):
    """The same targets [..., G] with other content in the slots that are not valid."""
    content = RUBBISH[kind]
    empty = ~scenes.valid
    return scenes.replace(
        boxes=np.where(empty[..., None], np.float32(content["boxes"]), scenes.boxes),
        labels=np.where(empty, np.int32(content["labels"]), scenes.labels),
        crowd=np.where(empty, content.get("crowd", True), scenes.crowd),
    )


def stack(*trees):
    """Trees of equal shapes as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def row(tree, index):
    """One entry of `stack`, or several."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
