"""The space of a sweep: config keys, and the values that each may take.

    train.learning_rate=log:1e-4:1e-2,detector.objective.classify.loss.gamma=float:0.5:3:0.5

log:LOW:HIGH                 any number, evenly in its logarithm
float:LOW:HIGH[:STEP]        any number, or multiples of STEP from LOW
int:LOW:HIGH[:STEP]          whole numbers
choice:A|B|...               these words, as they would be written on the command line
"""

import itertools
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from anchors_jax.spec import nearest

Space = dict[str, BaseDistribution]
KINDS = ("log", "float", "int", "choice")
# A comma starts a new range only where a key and a kind follow: choices may hold commas.
_NEXT = re.compile(r",(?=[^,=]+=\s*\w+:)")


class SpaceError(ValueError):
    """A range that is not understood."""


def parse(text: str) -> Space:
    """Ranges by config key, from inline text or from a JSON file {key: range}.

    Raises:
      SpaceError: naming the file, key or range.
    """
    if text.endswith(".json"):
        pairs = _read(pathlib.Path(text))
    else:
        pairs = [word.partition("=")[::2] for word in _NEXT.split(text) if word]
    space: Space = {}
    for key, words in pairs:
        key = key.strip().removeprefix("config.")
        if key in space:
            raise SpaceError(f"--space: {key!r} stands twice")
        space[key] = _distribution(key, words)
    if not space:
        raise SpaceError("--space is empty: name at least one KEY=KIND:...")
    return space


def overrides(params: Mapping[str, Any]) -> list[str]:
    """The command-line words that set these values in a config."""
    return [f"--config.{key}={value}" for key, value in params.items()]


def corners(space: Space) -> list[dict[str, Any]]:
    """Points that together hold every end and every choice: what takes them takes the space."""
    ends = {
        key: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]
        for key, d in space.items()
    }
    longest = max(len(values) for values in ends.values())
    return [{key: ends[key][min(n, len(ends[key]) - 1)] for key in ends} for n in range(longest)]


def grid(space: Space, *, points: int) -> dict[str, list[Any]]:
    """The values of each key on a grid: all where they can be counted, else `points` of them."""
    return {key: values(d, points=points) for key, d in space.items()}


def values(distribution: BaseDistribution, *, points: int) -> list[Any]:
    """All values of a range that can be counted, else `points`, evenly placed, ends included."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        return list(range(low, high + 1, step))
    if step is not None:
        return [low + n * step for n in range(round((high - low) / step) + 1)]
    spaced = np.geomspace if distribution.log else np.linspace
    inner = spaced(low, high, points)[1:-1].tolist()
    return list(dict.fromkeys([low, *inner, high] if points > 1 else [low]))


def size(space: Space) -> int | None:
    """How many points there are; None where a range is continuous."""
    if any(isinstance(d, FloatDistribution) and d.step is None for d in space.values()):
        return None
    return math.prod(len(values(d, points=0)) for d in space.values())


def product(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All points of a grid."""
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _distribution(key: str, words: Any) -> BaseDistribution:
    where = f"--space: {key}={words}"
    kind, colon, rest = str(words).strip().partition(":")
    if not colon or kind not in KINDS:
        raise SpaceError(f"{where}: no kind {kind!r}{nearest(kind, KINDS)}")
    if kind == "choice":
        choices = [word.strip() for word in rest.split("|")]
        if len(set(choices)) < len(choices) or "" in choices:
            raise SpaceError(f"{where}: choices must differ and say something")
        return CategoricalDistribution(choices)
    try:
        numbers = [(int if kind == "int" else float)(word) for word in rest.split(":")]
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from None
    low, high, step = (*numbers, None, None, None)[:3]
    if len(numbers) not in ((2,) if kind == "log" else (2, 3)) or not low < high:
        raise SpaceError(f"{where}: want {kind}:LOW:HIGH with LOW < HIGH")
    if step is not None and not 0 < step <= high - low:
        raise SpaceError(f"{where}: the step does not fit between the ends")
    if kind == "log" and low <= 0:
        raise SpaceError(f"{where}: the logarithm needs LOW > 0")
    if step is not None:  # the last multiple that is inside, as optuna would take it with a warning
        high = low + math.floor((high - low) / step * (1 + 1e-9)) * step
    if kind == "int":
        return IntDistribution(low, high, step=step or 1)
    return FloatDistribution(low, high, log=kind == "log", step=step)


def _read(path: pathlib.Path) -> list[tuple[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise SpaceError(f"--space={path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SpaceError(f"--space={path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SpaceError(f'--space={path}: want {{"train.learning_rate": "log:1e-4:1e-2", ...}}')
    return list(content.items())
