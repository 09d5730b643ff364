"""FCOS: locations inside an object are positive, on the level of the object's size.

    Z. Tian, C. Shen, H. Chen, T. He, "FCOS: Fully Convolutional One-Stage Object Detection",
    ICCV 2019, arXiv:1904.01355; extended in TPAMI 2020, arXiv:2006.09214.

With l, t, r, b the distances from a location (an anchor's centre) to the sides of an object, the
object accepts the location (Section 3.1 and 3.2) if

1. the location lies strictly inside it: min(l, t, r, b) > 0; or strictly inside its central part;
2. max(l, t, r, b), of the full object, lies in the range of the location's level, ends included.

Of several objects the smallest one wins, of equal ones the first.

Differs from the paper: the central part. A square of 1.5 strides around the object's centre, cut
to the object, is the sampling of the extended paper (its Section 2.1) and of all code bases;
shrinking the object by a ratio appears in descendants. Areas have no upper limit (official code:
objects above 1e8 square pixels are background).
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from anchors_jax import boxes as geometry
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Targets

_BLOCK = 4

Number = int | float


def assign(
    anchors: Anchors,
    targets: Targets,
    *,
    centre_radius: Number | None = None,
    shrink: Number = 1.0,
    range_in_strides: Number = 8.0,
    ranges: Sequence[Sequence[Number]] | None = None,
) -> Assignment:
    """Positives and negatives of one image, by location and level.

    FCOS treats all locations of the canvas as valid, those beyond the image too: that is
    `pad_divisor=None` of the detector.

    Args:
        anchors: of a grid of `anchors.locations`; their centres are the locations.
        targets: G slots.
        centre_radius: locations must be nearer to the object's centre than this many strides, in x
            and in y; None: anywhere inside (the first paper). 1.5 in the extended one.
        shrink: they must lie inside the object scaled by this factor about its centre, 0..1.
        range_in_strides: the range of a level ends at this many of its strides and begins where
            the one below ends: 64, 128, 256, 512 pixels; the last one has no end.
        ranges: (low, high) of each level in pixels instead.

    Raises:
        ValueError: `ranges` and anchors differ in their number of levels.
    """
    boxes, slots = anchors.boxes, targets.valid.shape[0]
    low, high = (bound[None] for bound in _ranges(anchors, range_in_strides, ranges))
    x, y = (geometry.to_centres(boxes)[None, :, axis] for axis in (0, 1))
    reach = None if centre_radius is None else centre_radius * anchors.stride_of_anchor()
    # By increasing area the first object that accepts a location is the one that wins it.
    order = jnp.argsort(jnp.where(targets.valid, geometry.area(targets.boxes), jnp.inf))

    def body(first: Array, objects: Array, ranks: Array, used: Array) -> Array:
        distances = _distances(x, y, objects)
        farthest = functools.reduce(jnp.maximum, distances)
        accepted = used[:, None] & (farthest >= low) & (farthest <= high)
        if shrink != 1.0:
            distances = _distances(x, y, _shrunk(objects, shrink))
        accepted &= functools.reduce(jnp.minimum, distances) > 0.0
        if reach is not None:
            centre = geometry.to_centres(objects)
            accepted &= jnp.abs(x - centre[:, :1]) < reach[None, :, 0]
            accepted &= jnp.abs(y - centre[:, 1:2]) < reach[None, :, 1]
        rank = jnp.where(accepted, ranks[:, None], slots)
        return jnp.minimum(first, jnp.min(rank, axis=0))

    nobody = jnp.full(boxes.shape[0], slots, jnp.int32)
    first = primitives.fold(
        body, nobody, targets.boxes[order], targets.objects[order], block=_BLOCK
    )
    positive = anchors.valid & (first < slots)
    owner = jnp.append(order.astype(jnp.int32), 0)[first]
    return Assignment(
        gt=jnp.where(positive, owner, 0), positive=positive, ignored=jnp.zeros_like(positive)
    )


def _distances(x: Array, y: Array, objects: Array) -> tuple[Array, ...]:
    """Left, top, right and bottom distance [b, A] of points [1, A]: four arrays, not [b, A, 4]."""
    x0, y0, x1, y1 = (objects[:, side : side + 1] for side in range(4))
    return x - x0, y - y0, x1 - x, y1 - y


def _shrunk(objects: Array, factor: Number) -> Array:
    centres = geometry.to_centres(objects)
    return geometry.to_corners(centres.at[:, 2:].multiply(factor))


def _ranges(
    anchors: Anchors, in_strides: Number, ranges: Sequence[Sequence[Number]] | None
) -> tuple[Float[Array, "A"], Float[Array, "A"]]:
    """The range of sizes, in pixels, of every anchor's level."""
    counts = anchors.level_counts
    if ranges is None:
        ends = [in_strides * min(stride) for stride in anchors.strides[:-1]]
        ranges = list(zip([-1.0, *ends], [*ends, np.inf], strict=True))
    if len(ranges) != len(counts):
        raise ValueError(f"fcos: {len(ranges)} ranges but {len(counts)} levels")
    low, high = np.repeat(np.asarray(ranges, np.float32), counts, axis=0).T
    return jnp.asarray(low), jnp.asarray(high)
