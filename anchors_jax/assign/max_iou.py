"""Assignment by the largest IoU (RetinaNet, RPN, SSD, two-stage heads).

Lin et al. 2017, Section 4 ("Anchors"); Ren et al. 2015, Section 3.1.2 for forced matches. With
best(a) = max_g IoU(g, a):

1. best >= positive_iou: positive for the best object (lowest index on ties);
2. best < negative_iou: background; in between: ignored;
3. every object also claims the anchors whose IoU with it is the largest it reaches anywhere,
   whatever that IoU; of several claims the object with the highest index wins.

Differs from the papers: 3 is silent in RetinaNet's paper; here it follows MMDetection. An object
that meets no anchor claims none (the references give it every anchor it does not meet), and
"largest" has a tolerance: an object inside several anchors of equal area has equal IoUs in theory,
and in float32 a rounding-dependent subset of them.
"""

from typing import Literal

import jax.numpy as jnp

from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Targets


def assign(
    anchors: Anchors,
    targets: Targets,
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.4,
    min_positive_iou: float = 0.0,
    match_low_quality: bool = True,
    low_quality_owner: Literal["claiming", "own"] = "claiming",
    assign_all_ties: bool = True,
    tie_tolerance: float = 1e-5,
    claim_without_overlap: bool = False,
    centre_margin: float | None = None,
) -> Assignment:
    """Positives, negatives and ignored anchors of one image, by IoU.

    Args:
        anchors: A anchors.
        targets: G slots.
        positive_iou: at least this makes an anchor positive.
        negative_iou: below this an anchor is background.
        min_positive_iou: an object claims anchors only if its largest IoU reaches this.
        match_low_quality: whether objects claim their best anchors (step 3).
        low_quality_owner: "claiming": a claimed anchor belongs to the object that claims it
            (MMDetection). "own": to the object it overlaps most (torchvision, Detectron).
        assign_all_ties: claim all best anchors; False: the first one only (SSD).
        tie_tolerance: IoUs within this share of the largest count as equal to it. Anchor corners
            near 1000 px carry 6e-5 px of rounding, about 1e-5 of the IoU of the smallest anchors.
        claim_without_overlap: let an object that meets no anchor claim all anchors it does not
            meet, as the references do.
        centre_margin: positives whose centre does not lie more than this inside their object, in
            pixels, are ignored instead: "In GT Box" of ATSS's Table 1, whose code has 0.01. None:
            centres may lie anywhere.
    """
    match = primitives.largest_iou(
        anchors.boxes,
        anchors.valid,
        targets,
        min_positive_iou=min_positive_iou,
        match_low_quality=match_low_quality,
        assign_all_ties=assign_all_ties,
        tie_tolerance=tie_tolerance,
        claim_without_overlap=claim_without_overlap,
    )
    positive = anchors.valid & ((match.iou >= positive_iou) | match.claimed)
    gt = match.claiming_owner if low_quality_owner == "claiming" else match.owner
    ignored = ~positive & (match.iou >= negative_iou)
    if centre_margin is not None:
        inside = primitives.centre_inside(anchors.boxes, targets.boxes[gt], margin=centre_margin)
        positive, ignored = positive & inside, ignored | (positive & ~inside)
    return Assignment(gt=jnp.where(positive, gt, 0), positive=positive, ignored=ignored)
