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

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from anchors_jax import boxes as geometry
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Targets

# Objects per step. 201,600 anchors, two images with 100 objects on two CPU cores: 62 ms with 1,
# 37 with 4, 34 with 8 (and half as much memory again), 44 with 16.
_BLOCK = 4


class _State(NamedTuple):
    best: Array  # [A] largest IoU so far
    owner: Array  # [A] object that has it
    claim: Array  # [A] last object that forces the anchor, -1 if none


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
    ignore_iof: float = 0.5,
    tie_tolerance: float = 1e-5,
    claim_without_overlap: bool = False,
) -> Assignment:
    """Positives, negatives and ignored anchors of one image, by IoU.

    Invalid anchors are ignored and take part in nothing.

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
        ignore_iof: anchors with more than this share of their area inside a crowd region are
            ignored before anything else.
        tie_tolerance: IoUs within this share of the largest count as equal to it. Anchor corners
            near 1000 px carry 6e-5 px of rounding, about 1e-5 of the IoU of the smallest anchors.
        claim_without_overlap: let an object that meets no anchor claim all anchors it does not
            meet, as the references do.
    """
    boxes = anchors.boxes
    count = boxes.shape[0]
    usable = anchors.valid & ~primitives.in_crowd(boxes, targets, ignore_iof=ignore_iof)

    def body(state: _State, objects: Array, slots: Array, used: Array) -> _State:
        part = usable[None] & used[:, None]
        overlap = jnp.where(part, geometry.iou(objects[:, None], boxes[None]), -1.0)
        top = jnp.max(overlap, axis=0)
        first = slots[jnp.argmax(overlap, axis=0)]
        owner = jnp.where(top > state.best, first, state.owner)
        claim = state.claim
        if match_low_quality:
            peak = jnp.max(overlap, axis=1, keepdims=True)
            claims = peak >= min_positive_iou
            if not claim_without_overlap:
                claims &= peak > 0.0
            best = claims & (overlap >= peak * (1.0 - tie_tolerance)) & (overlap >= 0.0)
            if not assign_all_ties:
                best &= jnp.arange(count)[None] == jnp.argmax(best, axis=1, keepdims=True)
            # Later objects win, and later blocks hold later objects.
            last = jnp.max(jnp.where(best, slots[:, None], -1), axis=0)
            claim = jnp.where(last >= 0, last, claim)
        return _State(jnp.maximum(top, state.best), owner, claim)

    start = _State(
        jnp.full(count, -1.0), jnp.zeros(count, jnp.int32), jnp.full(count, -1, jnp.int32)
    )
    best, owner, claim = primitives.fold(body, start, targets.boxes, targets.objects, block=_BLOCK)
    claimed = claim >= 0
    positive = usable & ((best >= positive_iou) | claimed)
    gt = jnp.where(claimed, claim, owner) if low_quality_owner == "claiming" else owner
    return Assignment(
        gt=jnp.where(positive, gt, 0),
        positive=positive,
        ignored=~usable | (~positive & (best >= negative_iou)),
    )
