"""What a quality branch learns to predict about the box of a positive anchor, in 0..1.

All targets share one signature, `(boxes, objects, anchors) -> [A]`: the decoded boxes, the boxes of
the objects that the anchors are responsible for, and the anchors. They are constants for the
gradient; the objective stops it.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from anchors_jax import boxes as geometry
from anchors_jax.types import Anchors


def centerness(
    boxes: Float[Array, "A 4"], objects: Float[Array, "A 4"], anchors: Anchors
) -> Float[Array, "A"]:
    """How central the anchor's centre lies: 1 at the object's centre, 0 on or outside its border.

    `sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`, l, t, r, b being the distances from the
    centre to the object's sides (FCOS, Tian et al. 2019, Eq. 3). The decoded boxes do not matter.
    """
    del boxes
    centre = geometry.to_centres(anchors.boxes)[:, :2]
    low, high = centre - objects[:, :2], objects[:, 2:] - centre
    inside = jnp.all((low > 0.0) & (high > 0.0), axis=-1)
    # Outside the border the ratio is negative or 0 / 0: equal distances stand in.
    low = jnp.where(inside[:, None], low, 1.0)
    high = jnp.where(inside[:, None], high, 1.0)
    ratio = jnp.minimum(low, high) / jnp.maximum(low, high)
    return jnp.where(inside, jnp.sqrt(ratio[:, 0] * ratio[:, 1]), 0.0)


def iou(
    boxes: Float[Array, "A 4"], objects: Float[Array, "A 4"], anchors: Anchors
) -> Float[Array, "A"]:
    """IoU of the decoded box with its object (PAA, Kim and Lee 2020, Section 3.3)."""
    del anchors
    return geometry.iou(boxes, objects)
