"""SSD's matching: objects take their best anchors one by one, then every IoU of 0.5 counts.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Section 2.2
    ("Matching strategy"), as the authors' code has it (weiliu89/caffe, branch ssd).

1. Of all pairs of an unmatched object and an unmatched anchor take the one with the largest IoU,
   match it, and repeat while that IoU exceeds `min_iou`. Ties: the lower anchor, then the lower
   object.
2. Every other anchor belongs to the object it overlaps most if that IoU >= positive_iou (the lower
   object on ties). All else is background: nothing lies in between.

MMDetection and torchvision let each object claim its own best anchor instead, later objects
overwriting earlier ones, who may be left with none. That is `max_iou.assign` with positive_iou and
negative_iou 0.5 and assign_all_ties False.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Targets


def assign(
    anchors: Anchors,
    targets: Targets,
    *,
    positive_iou: float = 0.5,
    min_iou: float = 1e-6,
) -> Assignment:
    """Positives and negatives of one image.

    Args:
        anchors: A anchors.
        targets: G slots.
        positive_iou: at least this makes an anchor positive.
        min_iou: an object takes an anchor only if it overlaps it by more.
    """
    match = primitives.largest_iou(anchors.boxes, anchors.valid, targets, match_low_quality=False)
    taker = one_to_one(anchors.boxes, anchors.valid, targets, min_iou=min_iou)
    taken = taker >= 0
    positive = taken | (anchors.valid & (match.iou >= positive_iou))
    gt = jnp.where(taken, taker, match.owner)
    return Assignment(
        gt=jnp.where(positive, gt, 0), positive=positive, ignored=jnp.zeros_like(positive)
    )


class _State(NamedTuple):
    """Each object's best anchor among those free when it last looked; -1: not looked yet."""

    iou: Float[Array, "G"]  # of that anchor; infinite before the first look, -1 when done
    anchor: Int[Array, "G"]
    taker: Int[Array, "A"]


def one_to_one(
    boxes: Float[Array, "A 4"],
    usable: Bool[Array, "A"],
    targets: Targets,
    *,
    min_iou: float = 1e-6,
) -> Int[Array, "A"]:
    """The object that takes each anchor in the greedy one-to-one matching, -1 if none does.

    No [G, A] matrix: an object looks for its best free anchor only when it is its turn and the one
    it knows of is gone. Until it looks again its old IoU bounds the new one from above, so the
    largest bound, once it is up to date, is the largest IoU of all free pairs.
    """
    slots, count = targets.valid.shape[0], boxes.shape[0]
    none = jnp.full(count, -1, jnp.int32)
    if slots == 0:
        return none
    start = _State(
        iou=jnp.where(targets.objects, jnp.inf, -1.0),
        anchor=jnp.full(slots, -1, jnp.int32),
        taker=none,
    )

    def step(state: _State) -> _State:
        turn = _first(state)
        here = jnp.arange(slots) == turn
        known = state.anchor[turn]
        match = (known >= 0) & (state.taker[known] < 0)
        row = geometry.iou(boxes, lax.dynamic_slice_in_dim(targets.boxes, turn, 1))
        row = jnp.where(usable & (state.taker < 0), row, -1.0)
        best = jnp.argmax(row).astype(jnp.int32)
        chosen = (jnp.arange(count) == known) & match
        return _State(
            iou=jnp.where(here, jnp.where(match, -1.0, row[best]), state.iou),
            anchor=jnp.where(here, best, state.anchor),
            taker=jnp.where(chosen, turn, state.taker),
        )

    return lax.while_loop(lambda state: jnp.max(state.iou) > min_iou, step, start).taker


def _first(state: _State) -> Int[Array, ""]:
    """Whose turn it is: the largest IoU, then the lowest anchor, then the lowest object."""
    best = state.iou == jnp.max(state.iou)
    anchor = jnp.where(best, state.anchor, jnp.iinfo(jnp.int32).max)
    return jnp.argmax(best & (anchor == jnp.min(anchor))).astype(jnp.int32)
