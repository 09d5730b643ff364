"""Adaptive Training Sample Selection (ATSS).

    S. Zhang, C. Chi, Y. Yao, Z. Lei, S. Z. Li, "Bridging the Gap Between Anchor-based and
    Anchor-free Detection via Adaptive Training Sample Selection", CVPR 2020, arXiv:1912.02424.

For every object (Algorithm 1):

1. candidates: on each level the k anchors whose centres are nearest to the object's centre;
2. threshold = mean + standard deviation of the candidates' IoU with the object;
3. positive: candidates with IoU >= threshold whose centre lies inside the object;
4. an anchor that is positive for several objects goes to the one it overlaps most.

An object may end up without an anchor. Constants: k = 9 (Section 4.3); one square anchor per cell
with a side of 8 strides (Table 7).

Differs from the paper, like its official code: k counts cells, so that several anchors per cell
multiply it (`topk_per_shape`); a level with fewer anchors gives all it has; the deviation is the
unbiased one; a centre must be more than 0.01 pixels inside. Beyond both: IoUs equal to the
threshold but for rounding pass (`tie_tolerance`).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from anchors_jax import boxes as geometry
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Targets

_BLOCK = 4


class _Candidates(NamedTuple):
    """Slots of every object, on all levels together."""

    anchor: Array  # [G, n] index of the anchor
    overlap: Array  # [G, n] its IoU with the object
    positive: Array  # [G, n] whether the slot holds an anchor that passes


def assign(
    anchors: Anchors,
    targets: Targets,
    *,
    topk: int = 9,
    topk_per_shape: bool = True,
    centre_margin: float = 0.01,
    tie_tolerance: float = 1e-5,
) -> Assignment:
    """Positives and negatives of one image, by the statistics of each object's candidates.

    Invalid anchors are no candidates.

    Args:
        anchors: A anchors.
        targets: G slots.
        topk: candidates per level, k.
        topk_per_shape: take `topk` times the anchors per cell (official code); False: `topk`,
            however many anchors a cell has (MMDetection).
        centre_margin: centres must lie more than this inside the object, in pixels.
        tie_tolerance: IoUs pass that fall short of the threshold by this share of it.
    """
    boxes = anchors.boxes
    sizes = tuple(
        min(topk * (shapes if topk_per_shape else 1), rows * columns * shapes)
        for rows, columns, shapes in anchors.level_sizes
    )

    def candidates(objects: Array, slots: Array) -> _Candidates:
        del slots
        anchor, valid = _nearest(objects, boxes, anchors.valid, anchors.level_counts, sizes)
        overlap = geometry.iou(objects[:, None], boxes[anchor])
        enough = _above_threshold(overlap, valid, tie_tolerance)
        inside = primitives.centre_inside(boxes[anchor], objects[:, None], margin=centre_margin)
        return _Candidates(anchor, overlap, valid & enough & inside)

    shape = (targets.valid.shape[0], sum(sizes))
    none = _Candidates(jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.zeros(shape, bool))
    found = primitives.per_object(candidates, none, targets.boxes, targets.objects, block=_BLOCK)
    gt, positive = _owners(found, boxes.shape[0])
    return Assignment(gt=gt, positive=positive, ignored=jnp.zeros_like(positive))


def _nearest(
    objects: Array,
    boxes: Array,
    usable: Array,
    level_counts: tuple[int, ...],
    sizes: tuple[int, ...],
) -> tuple[Array, Array]:
    """The nearest usable anchors of each level [b, n], and which of the slots hold one.

    Of equally near anchors those with the lower index.
    """
    # x and y apart: a trailing axis of two is slow.
    x, y = (geometry.to_centres(boxes)[None, :, axis] for axis in (0, 1))
    centre = geometry.to_centres(objects)
    near = -(jnp.square(x - centre[:, :1]) + jnp.square(y - centre[:, 1:2]))
    near = jnp.where(usable[None], near, -jnp.inf)
    values, indices, start = [], [], 0
    for count, size in zip(level_counts, sizes, strict=True):
        value, index = lax.top_k(near[:, start : start + count], size)
        values.append(value)
        indices.append(index + start)
        start += count
    return jnp.concatenate(indices, axis=1), jnp.concatenate(values, axis=1) > -jnp.inf


def _above_threshold(overlap: Array, valid: Array, tolerance: float) -> Array:
    """IoUs [b, n] that reach mean + deviation of the valid ones of their row."""
    count = jnp.sum(valid, axis=1, keepdims=True, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(valid, overlap, 0.0), axis=1, keepdims=True) / jnp.maximum(count, 1.0)
    spread = jnp.sum(jnp.where(valid, jnp.square(overlap - mean), 0.0), axis=1, keepdims=True)
    threshold = mean + jnp.sqrt(spread / jnp.maximum(count - 1.0, 1.0))
    return overlap >= threshold * (1.0 - tolerance)


def _owners(found: _Candidates, count: int) -> tuple[Array, Array]:
    """(object, positive) of each of `count` anchors: the largest IoU, then the lower index."""
    slots = found.anchor.shape[0]
    overlap = jnp.where(found.positive, found.overlap, -1.0)
    best = jnp.full(count, -1.0).at[found.anchor].max(overlap)
    wins = found.positive & (overlap == best[found.anchor])
    rank = jnp.where(wins, jnp.arange(slots, dtype=jnp.int32)[:, None], slots)
    owner = jnp.full(count, slots, jnp.int32).at[found.anchor].min(rank)
    positive = owner < slots
    return jnp.where(positive, owner, 0), positive
