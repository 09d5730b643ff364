"""Clustered shapes on the levels of a pyramid.

Three rules. `chunks` (YOLOv3) sorts by area and gives each level an equal share, small shapes to
the finest. `nearest` (SSD) gives each shape to the level whose own side is closest on a log scale;
levels may stay empty. Heads that are shared by all levels need the same shapes on each of them,
relative to its side: for these boxes are `folded` onto one level before they are clustered, and
the clusters `unfolded` onto all.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

RULES = ("chunks", "nearest", "folded")
Shapes = tuple[np.ndarray, ...]  # (width, height) of the shapes of each level


def chunks(shapes: Float[np.ndarray, "k 2"], levels: int) -> Shapes:
    """Equal shares by area, the smallest on the first level; the first ones get what is over."""
    ordered = shapes[np.argsort(shapes.prod(1), kind="stable")]
    return tuple(np.array_split(ordered, levels))


def nearest(shapes: Float[np.ndarray, "k 2"], sides: Float[np.ndarray, "L"]) -> Shapes:
    """Each shape on the level that minimises |ln sqrt(w h) - ln side|; the lower one on ties."""
    level = nearest_level(shapes, sides)
    return tuple(shapes[level == number] for number in range(len(sides)))


def nearest_level(
    wh: Float[np.ndarray, "n 2"], sides: Float[np.ndarray, "L"]
) -> Int[np.ndarray, "n"]:
    """The level whose side is closest to sqrt(w h) on a log scale, the lower one on ties."""
    own = 0.5 * np.log(np.maximum(wh, 1e-6)).sum(1, dtype=np.float64)
    apart = np.abs(own[:, None] - np.log(np.asarray(sides, np.float64))[None])
    # Halfway is a tie, whatever the rounding of the logarithms.
    return np.argmax(apart <= apart.min(1, keepdims=True) + 1e-9, axis=1)


def fold(wh: Float[np.ndarray, "n 2"], sides: Float[np.ndarray, "L"]) -> Float[np.ndarray, "n 2"]:
    """Box sizes in units of the side of their nearest level."""
    return (wh / np.asarray(sides)[nearest_level(wh, sides)][:, None]).astype(np.float32)


def unfold(shapes: Float[np.ndarray, "k 2"], sides: Float[np.ndarray, "L"]) -> Shapes:
    """The same shapes on every level, times its side."""
    return tuple(shapes * side for side in np.asarray(sides))


def sides_of(present: Sequence[Float[np.ndarray, "_ 2"]]) -> Float[np.ndarray, "L"]:
    """Side of each level: the geometric mean of sqrt(w h) over its present shapes.

    For RetinaNet base * stride * 2^(1/3), which doubles from level to level.

    Raises:
      ValueError: a level has no shape from which to tell its side.
    """
    for number, level in enumerate(present):
        if not len(level):
            raise ValueError(f"level {number} has no shape now, which would say its size")
    return np.array([np.exp(0.5 * np.log(level).sum(1).mean()) for level in present])
