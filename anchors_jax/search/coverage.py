"""How well a grid of anchors covers a set of boxes, before anything is trained.

The best IoU of a box over all anchors needs no table of anchors x boxes. For one shape (w, h) at a
centre (dx, dy) away from that of a box (W, H), the intersection is i(dx; w, W) * i(dy; h, H) with

    i(d; w, W) = max(0, min(w, W, (w + W) / 2 - |d|)),

which never grows with |d|; the union shrinks as the intersection grows. Hence each shape overlaps
the box most at the cell whose centre is nearest, in x and in y apart, and with the centres of a
level on a product grid that cell is found by rounding. The best of A anchors is the best of
S * L candidates: 45 instead of 201,600 for RetinaNet at 800 x 1344.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry
from anchors_jax.types import Anchors

_BLOCK = 8192  # boxes per step; 45 shapes then take a few MB
IOUS = tuple(round(0.3 + 0.05 * n, 2) for n in range(14))  # 0.3, 0.35 .. 0.95
COCO_IOUS = IOUS[4:]


class Level(NamedTuple):
    """The anchors of one level: `shapes` at the centres origin + (row, column) * step."""

    origin: tuple[float, float]  # y, x
    step: tuple[float, float]  # y, x
    cells: tuple[int, int]  # rows, columns
    stride: tuple[float, float]  # y, x, as the anchors say
    shapes: Float[np.ndarray, "S 2"]  # width, height
    first: int  # index of the level's first anchor


class Best(NamedTuple):
    """The best anchor of every box."""

    iou: Float[np.ndarray, "n"]
    anchor: Int[np.ndarray, "n"]  # index on the canvas, as in Anchors
    shape: Int[np.ndarray, "n"]  # prototype, as in Anchors
    level: Int[np.ndarray, "n"]


def levels_of(anchors: Anchors, *, tolerance: float = 2e-3) -> tuple[Level, ...]:
    """The levels of a grid, read off its boxes.

    Args:
      anchors: from `anchors.grid`, or any with the same shapes at all cells of a level.
      tolerance: pixels by which corners may differ from those of the product grid.

    Raises:
      ValueError: the anchors of a level are not the same shapes on a product grid.
    """
    found, first = [], 0
    boxes = np.asarray(anchors.boxes, np.float64)
    for number, ((rows, columns, count), stride) in enumerate(
        zip(anchors.level_sizes, anchors.strides, strict=True)
    ):
        level = boxes[first : first + rows * columns * count].reshape(rows, columns, count, 4)
        shapes = level[0, 0, :, 2:] - level[0, 0, :, :2] if level.size else np.zeros((0, 2))
        origin, step = (0.0, 0.0), (1.0, 1.0)
        if level.size:
            centre = (level[:, :, 0, :2] + level[:, :, 0, 2:]) / 2
            (y, dy), (x, dx) = _axis(centre[:, 0, 1]), _axis(centre[0, :, 0])
            origin, step = (y, x), (dy, dx)
            row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
            middle = np.stack([x + column * dx, y + row * dy], -1)[:, :, None]
            expected = np.concatenate([middle - shapes / 2, middle + shapes / 2], -1)
            if not np.allclose(level, expected, rtol=0, atol=tolerance):
                raise ValueError(f"level {number}: anchors are not the same shapes at every cell")
        found.append(Level(origin, step, (rows, columns), tuple(stride), shapes, first))
        first += rows * columns * count
    return tuple(found)


def usable_cells(
    levels: Sequence[Level], sizes: Int[np.ndarray, "N 2"], *, divisor: int | None = 32
) -> Int[np.ndarray, "N L 2"]:
    """Rows and columns of each level that count as inside images of (height, width) `sizes`.

    The rule of `anchors.inside`.
    """
    cells = np.array([level.cells for level in levels], np.int64).reshape(1, -1, 2)
    if divisor is None:
        return np.broadcast_to(cells, (len(sizes), *cells.shape[1:]))
    padded = np.ceil(np.asarray(sizes, np.float64) / divisor)[:, None] * divisor
    strides = np.array([level.stride for level in levels]).reshape(1, -1, 2)
    return np.minimum(cells, np.ceil(padded / strides)).astype(np.int64)


def best_anchors(
    boxes: Float[np.ndarray, "n 4"],
    levels: Sequence[Level],
    cells: Int[np.ndarray, "n L 2"],
) -> Best:
    """Each box's largest IoU with any anchor, and that anchor; exact (see the head of the file).

    Ties go to the lower prototype. A box that meets no anchor has IoU 0; the index is then
    arbitrary.

    Args:
      boxes: n boxes on one canvas, in network pixels.
      levels: of the anchors of that canvas.
      cells: usable rows and columns of each box's image on each level.

    Raises:
      ValueError: there are no anchors.
    """
    counts = [len(level.shapes) for level in levels]
    if not sum(counts):
        raise ValueError("there are no anchors: every level is without shapes")
    owner = np.repeat(np.arange(len(levels)), counts)
    if not len(boxes):
        none = np.zeros(0, np.int64)
        return Best(np.zeros(0, np.float32), none, none, none)
    block = min(_BLOCK, 1 << (len(boxes) - 1).bit_length())
    padding = -len(boxes) % block
    padded = np.pad(np.asarray(boxes, np.float32), ((0, padding), (0, 0)))
    limits = np.pad(np.asarray(cells, np.float32), ((0, padding), (0, 0), (0, 0)))
    iou, shape, place = _search(
        jnp.asarray(padded.reshape(-1, block, 4)),
        jnp.asarray(limits.reshape(-1, block, len(levels), 2)),
        jnp.asarray([(*level.origin, *level.step) for level in levels], jnp.float32),
        jnp.asarray(np.concatenate([level.shapes for level in levels]), jnp.float32),
        owner=tuple(owner.tolist()),
    )
    iou, shape = np.asarray(iou)[: len(boxes)], np.asarray(shape)[: len(boxes)].astype(np.int64)
    place = np.asarray(place)[: len(boxes)].astype(np.int64)  # row, column
    level = owner[shape]
    columns = np.array([level.cells[1] for level in levels])[level]
    first = np.array([level.first for level in levels])[level]
    slot = shape - np.concatenate([[0], np.cumsum(counts)])[level]
    anchor = first + (place[:, 0] * columns + place[:, 1]) * np.array(counts)[level] + slot
    return Best(iou, anchor, shape, level)


@functools.partial(jax.jit, static_argnames="owner")
def _search(
    boxes: Float[Array, "T b 4"],
    cells: Float[Array, "T b L 2"],
    lattice: Float[Array, "L 4"],
    shapes: Float[Array, "M 2"],
    *,
    owner: tuple[int, ...],
) -> tuple[Float[Array, "n"], Int[Array, "n"], Int[Array, "n 2"]]:
    """IoU, prototype and (row, column) of the best anchor of each box, a block at a time."""
    half = shapes * 0.5

    def block(part: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        box, limit = part
        # Boxes last: short trailing axes are slow.
        middle = (geometry.to_centres(box)[:, 1::-1]).T[:, None]  # [2, 1, b], y first
        origin, step = lattice[:, :2].T[:, :, None], lattice[:, 2:].T[:, :, None]
        index = jnp.round((middle - origin) / step)  # [2, L, b]
        index = jnp.clip(index, 0.0, jnp.maximum(limit.transpose(2, 1, 0) - 1.0, 0.0))
        centre = (origin + index * step)[:, jnp.asarray(owner)]  # [2, M, b]
        anchor = jnp.stack(
            [
                centre[1] - half[:, :1],
                centre[0] - half[:, 1:],
                centre[1] + half[:, :1],
                centre[0] + half[:, 1:],
            ],
            axis=-1,
        )
        overlap = geometry.iou(box[None], anchor)  # [M, b]
        exists = jnp.all(limit.transpose(2, 1, 0) > 0.0, axis=0)[jnp.asarray(owner)]
        overlap = jnp.where(exists, overlap, 0.0)
        shape = jnp.argmax(overlap, axis=0)
        level = jnp.asarray(owner)[shape][None, None]
        place = jnp.take_along_axis(index, jnp.broadcast_to(level, (2, 1, box.shape[0])), axis=1)
        return jnp.max(overlap, axis=0), shape, place[:, 0].T.astype(jnp.int32)

    iou, shape, place = lax.map(block, (boxes, cells))
    return iou.reshape(-1), shape.reshape(-1), place.reshape(-1, 2)


def served(
    iou: Float[np.ndarray, "n"], anchor: Int[np.ndarray, "n"], group: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Objects whose best anchor is theirs alone: the one with the largest IoU of those that share.

    Args:
      iou: of each object with its best anchor.
      anchor: that anchor.
      group: objects of different groups (images, classes) share nothing.
    """
    order = np.lexsort((-iou, anchor, group))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(anchor[order]) != 0) | (np.diff(group[order]) != 0)
    kept = np.zeros(len(order), bool)
    kept[order[new]] = True
    return kept


def recall(iou: Float[np.ndarray, "n"], thresholds: Sequence[float] = IOUS) -> list[float]:
    """Share of objects with at least that IoU, for each threshold; 0 without objects."""
    ascending = np.sort(iou)
    missed = np.searchsorted(ascending, np.asarray(thresholds, ascending.dtype), side="left")
    return [float(1.0 - m / max(len(iou), 1)) if len(iou) else 0.0 for m in missed]


def _axis(centres: np.ndarray) -> tuple[float, float]:
    """Origin and step of equally spaced centres."""
    if len(centres) < 2:
        return float(centres[0]), 1.0
    step = float(centres[-1] - centres[0]) / (len(centres) - 1)
    return float(centres[0]), step if math.isfinite(step) and step > 0 else 1.0
