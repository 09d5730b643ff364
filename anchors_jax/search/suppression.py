"""Greedy NMS of many masked groups of boxes, from one compiled program per size of group.

The mask is an argument: nothing is compiled again as configurations change, and the rows of a call
may belong to different images, classes and configurations.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry
from anchors_jax.search.flat import Flat

SMALLEST, STEP = 8, 4  # widths of the programs: 8, 32, 128, ...
SLOTS = 1 << 14  # boxes that one call works on
MAX_ROWS = 512


def masked_nms(
    boxes: Float[Array, "C 4"],
    alive: Bool[Array, "C"],
    *,
    iou_threshold: float,
    max_detections: int,
) -> Bool[Array, "C"]:
    """Which boxes greedy NMS keeps; they are sorted best first.

    The first box that is alive is always the best of them, so that its position is all that is
    looked for. No C x C matrix: one row of overlaps per box that is kept.

    Args:
        boxes: of one class.
        alive: boxes that take part.
        iou_threshold: IoU strictly above it suppresses.
        max_detections: stop after so many.
    """
    position = jnp.arange(boxes.shape[0], dtype=jnp.int32)
    none = jnp.int32(boxes.shape[0])

    def best(alive: Array) -> Array:
        return jnp.min(jnp.where(alive, position, none))

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, first, alive, kept = state
        chosen = position == first
        overlap = geometry.iou(boxes, lax.dynamic_slice_in_dim(boxes, first, 1))
        # A row whose boxes are all gone has first = none: it chooses nothing, whatever it drops.
        alive = alive & ~((overlap > iou_threshold) | chosen)
        return count + 1, best(alive), alive, kept | chosen

    def more(state: tuple[Array, ...]) -> Array:
        return (state[0] < max_detections) & (state[1] < none)

    nothing = jnp.zeros_like(alive)
    return lax.while_loop(more, step, (jnp.int32(0), best(alive), alive, nothing))[3]


class Suppressor:
    """NMS within any groups of a flat list of candidates, under any mask."""

    def __init__(self, flat: Flat) -> None:
        self._rule, self._total = flat.source.rule, len(flat.image)
        size = np.diff(flat.start)
        steps = np.ceil(np.log2(np.maximum(size, SMALLEST) / SMALLEST) / np.log2(STEP))
        self._bucket = steps.astype(np.int64)
        self._row = np.zeros(flat.groups, np.int64)
        self._buckets: dict[int, tuple[np.ndarray, Array, int]] = {}
        for bucket in np.unique(self._bucket).tolist():
            groups = np.flatnonzero(self._bucket == bucket)
            self._row[groups] = np.arange(len(groups))
            width = SMALLEST * STEP**bucket
            members = flat.start[groups][:, None] + np.arange(width)
            members = np.where(members < flat.start[groups + 1][:, None], members, self._total)
            boxes = np.concatenate([flat.box, np.zeros((1, 4), np.float32)])[members]
            rows = int(np.clip(SLOTS // width, 4, MAX_ROWS))
            self._buckets[bucket] = members, jnp.asarray(boxes), rows

    def __call__(
        self, groups: Int[np.ndarray, "R"], alive: Bool[np.ndarray, "N"]
    ) -> Int[np.ndarray, "n"]:
        """Numbers of the candidates of these groups that NMS keeps, ascending."""
        alive = np.append(alive, False)
        waiting = []
        for bucket, (members, boxes, rows) in self._buckets.items():
            mine = self._row[groups[self._bucket[groups] == bucket]]
            mine = mine[alive[members[mine]].any(axis=1)]
            for begin in range(0, len(mine), rows):
                chunk = mine[begin : begin + rows]
                filled = np.zeros(rows, np.int32)
                filled[: len(chunk)] = chunk
                mask = np.zeros((rows, members.shape[1]), bool)
                mask[: len(chunk)] = alive[members[chunk]]
                kept = _suppress(
                    boxes,
                    filled,
                    mask,
                    iou_threshold=self._rule.iou_threshold,
                    max_detections=self._rule.max_detections,
                )
                waiting.append((members[chunk], kept))
        found = [numbers[np.asarray(kept)[: len(numbers)]] for numbers, kept in waiting]
        return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


@functools.partial(jax.jit, static_argnames=("iou_threshold", "max_detections"))
def _suppress(
    boxes: Float[Array, "G C 4"],
    rows: Int[Array, "R"],
    alive: Bool[Array, "R C"],
    *,
    iou_threshold: float,
    max_detections: int,
) -> Bool[Array, "R C"]:
    run = functools.partial(masked_nms, iou_threshold=iou_threshold, max_detections=max_detections)
    return jax.vmap(run)(boxes[rows], alive)
