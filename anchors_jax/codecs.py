"""Pairs of inverse maps between boxes and what a network regresses.

Each factory takes the constants and returns a `Codec(encode, decode)`; both functions broadcast
over leading axes and take the anchors last. Boxes and anchors are corners in pixels. Encoders are
guarded: degenerate boxes or anchors give large but finite codes and gradients.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num

from anchors_jax import boxes as geometry
from anchors_jax.types import Codec

# Sides are floored here before a division or a logarithm, in pixels: far below any real side, far
# above where float32 would overflow.
_SMALLEST_SIDE = 1e-6
# exp of this times any real side is still finite in float32.
_LARGEST_LOG_RATIO = 60.0

Four = tuple[float, float, float, float]


def _row(values: Four, like: Array) -> Array:
    """Constants [4] with the rank of `like` [..., 4]."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (like.ndim - 1) + (4,))


def deltas(
    *,
    means: Four = (0.0, 0.0, 0.0, 0.0),
    stds: Four = (1.0, 1.0, 1.0, 1.0),
    log_size_limit: float = math.log(1000 / 16),
    limit_both_sides: bool = True,
) -> Codec:
    """Centre shift in anchor sides and log size ratio (Girshick et al. 2014, appendix C).

    `code = ((x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha))`, then (code - mean) / std.

    Args:
        means: subtracted from the codes.
        stds: divide the codes. RetinaNet 1; two-stage heads and FreeAnchor (0.1, 0.1, 0.2, 0.2);
            torchvision's weights are 1 / stds.
        log_size_limit: decoded log size ratios are limited to this value.
        limit_both_sides: also from below (MMDetection). False: from above only (torchvision,
            Detectron).
    """

    def encode(
        boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        box, anchor = geometry.to_centres(boxes), geometry.to_centres(anchors)
        side = jnp.maximum(anchor[..., 2:], _SMALLEST_SIDE)
        shift = (box[..., :2] - anchor[..., :2]) / side
        ratio = jnp.log(jnp.maximum(box[..., 2:], _SMALLEST_SIDE) / side)
        codes = jnp.concatenate([shift, ratio], axis=-1)
        return (codes - _row(means, codes)) / _row(stds, codes)

    def decode(
        codes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        anchor = geometry.to_centres(anchors)
        raw = codes.astype(jnp.float32) * _row(stds, codes) + _row(means, codes)
        lowest = -log_size_limit if limit_both_sides else None
        ratio = jnp.clip(raw[..., 2:], lowest, log_size_limit)
        middle = anchor[..., :2] + raw[..., :2] * anchor[..., 2:]
        half = 0.5 * anchor[..., 2:] * jnp.exp(ratio)
        return jnp.concatenate([middle - half, middle + half], axis=-1)

    return Codec(encode, decode)


def shapes(*, std: float = 1.0, log_size_limit: float = -math.log(1e-6)) -> Codec:
    """Log size ratio alone, [..., 2]: a box with the anchor's centre (Guided Anchoring, Eq. 2).

    `code = (log(w / wa), log(h / ha)) / std`.

    Args:
        std: divides the codes. The paper has 1; MMDetection 0.14 in GA-RPN, 1 in GA-RetinaNet.
        log_size_limit: decoded log size ratios are limited to +- this value.
    """

    def encode(
        boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 2"]:
        side = jnp.maximum(geometry.sizes(boxes), _SMALLEST_SIDE)
        return jnp.log(side / jnp.maximum(geometry.sizes(anchors), _SMALLEST_SIDE)) / std

    def decode(
        codes: Float[Array, "*#n 2"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        anchor = geometry.to_centres(anchors)
        ratio = jnp.clip(codes.astype(jnp.float32) * std, -log_size_limit, log_size_limit)
        side = anchor[..., 2:] * jnp.exp(ratio)
        return geometry.to_corners(jnp.concatenate([anchor[..., :2], side], axis=-1))

    return Codec(encode, decode)


def distances(
    *,
    relative: bool = False,
    unit: float = 1.0,
    limits: tuple[float, float] | None = None,
    activation: Literal["exp", "relu"] | None = None,
    log_limit: float = math.log(1e4),
) -> Codec:
    """Distances from the anchor's centre to the left, top, right and bottom side (FCOS, Eq. 1).

    Args:
        relative: divide left and right by the anchor's width, top and bottom by its height. With
            the boxes of `anchors.locations`, whose side is the stride, these are FCOS's
            stride-normalised distances.
        unit: divides all codes.
        limits: encoded distances are limited to this range; None keeps negative distances of
            centres outside their box.
        activation: how codes become distances, in the units above. None: they are distances. "exp":
            exp(code) (FCOS, Section 3.1). "relu": max(code, 0), whose gradient is 0 at and below 0
            (FCOS with normalised targets); encoding does not undo it.
        log_limit: codes are limited to this value before exp; beyond, they have no gradient.
    """

    def scale(anchors: Array) -> Array:
        side = jnp.maximum(geometry.sizes(anchors), _SMALLEST_SIDE)
        side = side if relative else jnp.ones_like(side)
        return unit * jnp.concatenate([side, side], axis=-1)

    def encode(
        boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        point = geometry.to_centres(anchors)[..., :2]
        codes = jnp.concatenate([point - boxes[..., :2], boxes[..., 2:] - point], axis=-1)
        codes = codes / scale(anchors)
        codes = codes if limits is None else jnp.clip(codes, *limits)
        return jnp.log(jnp.maximum(codes, _SMALLEST_SIDE)) if activation == "exp" else codes

    def decode(
        codes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        point = geometry.to_centres(anchors)[..., :2]
        codes = codes.astype(jnp.float32)
        if activation == "exp":
            codes = jnp.exp(jnp.minimum(codes, log_limit))
        elif activation == "relu":
            codes = jax.nn.relu(codes)
        reach = codes * scale(anchors)
        return jnp.concatenate([point - reach[..., :2], point + reach[..., 2:]], axis=-1)

    return Codec(encode, decode)


def tblr(*, relative: bool = True, unit: float = 4.0) -> Codec:
    """`distances` in the order top, bottom, left, right (FSAF, Zhu et al. 2019, Section 3.2).

    The paper divides by 4 on an anchor-free grid; MMDetection by the anchor's sides, then by 4.
    """
    inner = distances(relative=relative, unit=unit)

    def encode(
        boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        return inner.encode(boxes, anchors)[..., np.array([1, 3, 0, 2])]

    def decode(
        codes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        return inner.decode(codes[..., np.array([2, 0, 3, 1])], anchors)

    return Codec(encode, decode)


def yolo(*, stride: Num[Array, "*#n"] | float, eps: float = 1e-6) -> Codec:
    """Position in the cell (0..1, 0.5 = anchor centre) and log size ratio (YOLOv3, Section 2.1).

    Args:
        stride: side of a cell in pixels, one number or one per anchor.
        eps: encoded positions are limited to eps..1-eps, size ratios floored at eps.
    """
    cell = stride[..., None] if isinstance(stride, Array) else stride

    def encode(
        boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        box, anchor = geometry.to_centres(boxes), geometry.to_centres(anchors)
        position = (box[..., :2] - anchor[..., :2]) / cell + 0.5
        ratio = box[..., 2:] / jnp.maximum(anchor[..., 2:], _SMALLEST_SIDE)
        return jnp.concatenate(
            [jnp.clip(position, eps, 1.0 - eps), jnp.log(jnp.maximum(ratio, eps))], axis=-1
        )

    def decode(
        codes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"]
    ) -> Float[Array, "*#n 4"]:
        anchor = geometry.to_centres(anchors)
        middle = anchor[..., :2] + (codes[..., :2] - 0.5) * cell
        side = anchor[..., 2:] * jnp.exp(jnp.minimum(codes[..., 2:], _LARGEST_LOG_RATIO))
        return geometry.to_corners(jnp.concatenate([middle, side], axis=-1))

    return Codec(encode, decode)
