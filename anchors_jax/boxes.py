"""Geometry of axis-aligned boxes: sizes, centres, clipping and the family of overlaps.

Boxes are `x0, y0, x1, y1` with width = x1 - x0. Every overlap is elementwise over broadcast leading
axes; `pairwise` lifts any of them to all pairs, so that a loss and an assigner share one formula.
Divisors are floored rather than left at zero: boxes without area have finite overlaps and
gradients.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Num


def sizes(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Width and height in pixels; negative for inverted boxes."""
    return boxes[..., 2:] - boxes[..., :2]


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Area in square pixels; 0 for boxes without width or height, inverted ones included."""
    extent = jnp.maximum(sizes(boxes), 0.0)
    return extent[..., 0] * extent[..., 1]


def clip(boxes: Float[Array, "*n 4"], image_size: Num[Array, "2"]) -> Float[Array, "*n 4"]:
    """Boxes with x limited to 0..width and y to 0..height; `image_size` is (height, width)."""
    height, width = image_size[0].astype(boxes.dtype), image_size[1].astype(boxes.dtype)
    x = jnp.clip(boxes[..., 0::2], 0.0, width)
    y = jnp.clip(boxes[..., 1::2], 0.0, height)
    return jnp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)


def to_centres(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners to (centre x, centre y, width, height)."""
    return jnp.concatenate([(boxes[..., :2] + boxes[..., 2:]) * 0.5, sizes(boxes)], axis=-1)


def to_corners(centres: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """(centre x, centre y, width, height) to corners."""
    middle, half = centres[..., :2], centres[..., 2:] * 0.5
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def pairwise(
    overlap: Callable[..., Array],
    a: Float[Array, "N 4"],
    b: Float[Array, "M 4"],
    **keywords: Any,
) -> Float[Array, "N M"]:
    """An elementwise overlap of this module for all pairs: `pairwise(iou, anchors, objects)`."""
    return overlap(a[:, None], b[None], **keywords)


def intersection(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*#n"]:
    """Area shared by two boxes, in square pixels."""
    corner = jnp.maximum(a[..., :2], b[..., :2])
    extent = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - corner, 0.0)
    return extent[..., 0] * extent[..., 1]


def iou(
    a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"], *, eps: float = 1e-6
) -> Float[Array, "*#n"]:
    """Intersection over union, in 0..1; the union is floored at `eps` square pixels.

    0 where both boxes have no area (as in MMDetection; torchvision returns NaN there).
    """
    shared, union = _shared_and_union(a, b)
    return shared / jnp.maximum(union, eps)


def iof(
    a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"], *, eps: float = 1e-6
) -> Float[Array, "*#n"]:
    """Intersection over the area of `a` (floored at `eps`), in 0..1: the share of `a` in `b`."""
    return intersection(a, b) / jnp.maximum(area(a), eps)


def giou(
    a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"], *, eps: float = 1e-6
) -> Float[Array, "*#n"]:
    """Generalised IoU, in -1..1 (Rezatofighi et al. 2019, Algorithm 1)."""
    shared, union = _shared_and_union(a, b)
    union = jnp.maximum(union, eps)
    hull = _hull(a, b)
    hull_area = jnp.maximum(hull[..., 0] * hull[..., 1], eps)
    return shared / union - (hull_area - union) / hull_area


def diou(
    a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"], *, eps: float = 1e-7
) -> Float[Array, "*#n"]:
    """Distance IoU, in -1..1: IoU minus squared centre distance over squared hull diagonal.

    Zheng et al. 2020 (Distance-IoU Loss), Eq. 7. `eps` floors the union and the diagonal.
    """
    return iou(a, b, eps=eps) - _centre_penalty(a, b, eps)


def ciou(
    a: Float[Array, "*#n 4"],
    b: Float[Array, "*#n 4"],
    *,
    eps: float = 1e-7,
    aspect_above: float = 0.5,
    clamp: bool = True,
) -> Float[Array, "*#n"]:
    """Complete IoU: DIoU minus the disagreement of the aspect ratios (Zheng et al. 2020, Eq. 10).

    The weight of the aspect term is a constant for the gradient, as in all references.

    Args:
        a: boxes.
        b: boxes.
        eps: floor of every divisor.
        aspect_above: the aspect term counts only where IoU > aspect_above. 0.5 is the rule of the
            authors' later version and of MMDetection; a negative value applies it everywhere, as
            the first version and torchvision do.
        clamp: limit the result to -1..1 (MMDetection); torchvision does not.
    """
    overlap = iou(a, b, eps=eps)
    v = (4.0 / math.pi**2) * jnp.square(_aspect_angle(b, eps) - _aspect_angle(a, eps))
    weight = jnp.where(overlap > aspect_above, v / jnp.maximum(1.0 - overlap + v, eps), 0.0)
    value = overlap - _centre_penalty(a, b, eps) - lax.stop_gradient(weight) * v
    return jnp.clip(value, -1.0, 1.0) if clamp else value


def _shared_and_union(a: Array, b: Array) -> tuple[Array, Array]:
    shared = intersection(a, b)
    return shared, area(a) + area(b) - shared


def _hull(a: Array, b: Array) -> Array:
    """Width and height of the smallest box that holds all corners, also those of inverted boxes."""
    low = jnp.minimum(jnp.minimum(a[..., :2], a[..., 2:]), jnp.minimum(b[..., :2], b[..., 2:]))
    high = jnp.maximum(jnp.maximum(a[..., :2], a[..., 2:]), jnp.maximum(b[..., :2], b[..., 2:]))
    return high - low


def _centre_penalty(a: Array, b: Array, eps: float) -> Array:
    offset = ((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])) * 0.5
    diagonal = jnp.sum(jnp.square(_hull(a, b)), axis=-1)
    return jnp.sum(jnp.square(offset), axis=-1) / jnp.maximum(diagonal, eps)


def _aspect_angle(boxes: Array, eps: float) -> Array:
    extent = sizes(boxes)
    return jnp.arctan(extent[..., 0] / jnp.maximum(extent[..., 1], eps))
