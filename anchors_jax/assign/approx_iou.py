"""Whose shape should the anchor of a cell take? By the best of several shapes tried at the cell.

    J. Wang, K. Chen, S. Yang, C. C. Loy, D. Lin, "Region Proposal by Guided Anchoring", CVPR 2019,
    arXiv:1901.03278, Section 3.5 ("Anchor shape targets").

The anchor of a cell is a variable: what counts is vIoU(cell, g) = max_{w,h} IoU((cell, w, h), g),
which is approximated by the maximum over nine sampled shapes. With it, the rule of
`assign/max_iou.py`: positive, negative, and objects that claim their best cells.

Differs from the paper: it leaves the thresholds open; those here are MMDetection's for GA-RetinaNet
(GA-RPN: 0.7, 0.3, 0.3). A long object may meet none: 136 x 10 pixels reach 0.24 at best.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from anchors_jax import boxes as geometry
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Targets

Number = int | float


def assign(
    anchors: Anchors,
    targets: Targets,
    *,
    scales_per_octave: int = 3,
    ratios: Sequence[Number] = (0.5, 1.0, 2.0),
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    min_positive_iou: float = 0.4,
    tie_tolerance: float = 1e-5,
) -> Assignment:
    """Positives, negatives and ignored cells of one image, by approximate vIoU.

    Args:
        anchors: the square prior of every cell.
        targets: G slots.
        scales_per_octave, ratios: the shapes tried (`approximations`). The paper's AR with
            3, 9 and 15 of them is 68.3, 68.5 and 68.5.
        positive_iou: at least this makes a cell positive.
        negative_iou: below this a cell is negative.
        min_positive_iou: an object claims its best cells only if they reach this.
        tie_tolerance: overlaps within this share of an object's largest count as equal to it.
    """
    match = primitives.largest_iou(
        approximations(anchors.boxes, scales_per_octave=scales_per_octave, ratios=ratios),
        anchors.valid,
        targets,
        min_positive_iou=min_positive_iou,
        tie_tolerance=tie_tolerance,
    )
    positive = anchors.valid & ((match.iou >= positive_iou) | match.claimed)
    return Assignment(
        gt=jnp.where(positive, match.claiming_owner, 0),
        positive=positive,
        ignored=~positive & (match.iou >= negative_iou),
    )


def approximations(
    boxes: Float[Array, "A 4"],
    *,
    scales_per_octave: int = 3,
    ratios: Sequence[Number] = (0.5, 1.0, 2.0),
) -> Float[Array, "N A 4"]:
    """Each box with its sides times 2^(k / scales_per_octave) at every ratio height / width.

    N = ratios x scales, ratio outer, as RetinaNet's anchors around a square.
    """
    scales = 2.0 ** (np.arange(scales_per_octave) / scales_per_octave)
    factors = [
        (scale / np.sqrt(ratio), scale * np.sqrt(ratio)) for ratio in ratios for scale in scales
    ]
    centres = geometry.to_centres(boxes)[None]  # [1, A, 4]
    sides = centres[..., 2:] * jnp.asarray(np.array(factors), jnp.float32)[:, None]
    middle = jnp.broadcast_to(centres[..., :2], sides.shape)
    return geometry.to_corners(jnp.concatenate([middle, sides], axis=-1))
