"""Guided Anchoring: the network predicts where there is an anchor, and of what shape.

    J. Wang, K. Chen, S. Yang, C. C. Loy, D. Lin, "Region Proposal by Guided Anchoring", CVPR 2019,
    arXiv:1901.03278.

A cell i has a square prior; its shape code makes the guided anchor of it. Eq. 4 of the paper,

    loss = sum_i w_i FL(location_i, centre_i) / (cells / 200)
         + sum_{i shape positive} L1s(1 - min(w / w_g, w_g / w)) + (the same for h)  / D
         + the class and box terms of `dense.py` on the guided anchors

with w_i and centre_i from `guided_locations.py`, g from `assign/approx_iou.py`, and the bounded IoU
loss of Tychsen-Smith and Petersson (CVPR 2018), smooth with beta = 0.2. For assignment, encoding
and decoding, guided anchors are constants. All valid cells are trained, wherever the network sees
anchors; at inference the location probability only gates anchors; it is not part of the score.

The shape term of the reference is over 256 random cells of an image, at most half of them
positive, and D counts them. D depends on how many there are and not on which, so the mean of the
term over all draws is known: every positive weighs as much as its chance to be drawn. That mean is
the term here, and no random numbers are needed.

Differs from the paper, with MMDetection: weights 1 and 1 (paper: location 1, shape 0.1, with other
divisors); the shape term has constant ones for the centre (`centre_terms`). Differs from
MMDetection: a centre is the positive label (its versions from 2.0 on train the inverse); cells of
the padding are neither counted nor trained (`count_padding`); an object that meets no anchor claims
none.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import losses, selection
from anchors_jax.assign import approx_iou, frame, primitives
from anchors_jax.objectives import dense, guided_locations
from anchors_jax.objectives.guided_locations import Regions
from anchors_jax.objectives.terms import Classify, Regress
from anchors_jax.types import (
    END,
    START,
    Anchors,
    Assignment,
    Candidates,
    Codec,
    GuidedPredictions,
    Moment,
    Objective,
    Targets,
    Term,
    Terms,
)

INFERENCE = ("gate",)  # keywords that training does not read
# The location term is divided by cells / 200: a constant that MMDetection has in its code.
_LOCATION_BALANCE = 200.0


class Locations(NamedTuple):
    """Where anchors are: `term(predictions, anchors, targets) -> Term`, if above `gate`."""

    term: Callable[..., Term]
    gate: float  # probability from which a cell has an anchor


def locations(
    *,
    find: Callable[..., Regions] = guided_locations.find,
    loss: Callable[..., Array] = losses.binary_focal,
    weight: float = 1.0,
    count_padding: bool = False,
    gate: float = 0.01,
) -> Locations:
    """The location branch.

    Args:
      find: (anchors, targets) -> Regions.
      loss: (logits [P], centre [P]) -> [P].
      weight: factor of the term.
      count_padding: train and count the locations in the padding of the canvas, too (MMDetection).
      gate: anchors exist from this location probability on (epsilon_L); 0: everywhere.

    Raises:
      ValueError: a gate outside 0..1 (1 is outside, too).
    """
    if not 0.0 <= gate < 1.0:
        raise ValueError(f"gate {gate} is not a probability below 1")

    def term(predictions: GuidedPredictions, anchors: Anchors, targets: Targets) -> Term:
        found = lax.stop_gradient(find(anchors, targets))
        one = location_term(
            predictions.cell_logits, found, anchors.valid, loss=loss, count_padding=count_padding
        )
        return one.replace(total=weight * one.total)

    return Locations(term, gate)


class AnchorShapes(NamedTuple):
    """What shapes they have: `term(predictions, anchors, targets, moment, ignore_iof) -> Term`."""

    term: Callable[..., Term]
    codec: Codec  # of the shape branch, against the squares


def shapes(
    *,
    codec: Codec,
    assign: Callable[..., Assignment] = approx_iou.assign,
    loss: Callable[..., Array] = losses.bounded_iou,
    weight: float = 1.0,
    select: selection.Select = selection.expected,
    centre_terms: bool = True,
) -> AnchorShapes:
    """The shape branch.

    Args:
      codec: what it regresses, against the squares.
      assign: (anchors, targets) -> Assignment.
      loss: (boxes [A, 4], boxes [A, 4]) -> [A, 4] in x, y, w, h.
      weight: factor of the term.
      select: as of `dense.objective`.
      centre_terms: count the shape loss of x and y, which have no gradient, as MMDetection does.
    """

    def term(
        predictions: GuidedPredictions,
        anchors: Anchors,
        targets: Targets,
        moment: Moment,
        ignore_iof: float | None,
    ) -> Term:
        step = moment.step
        one = shape_term(
            predictions.shape_codes,
            anchors,
            targets,
            frame.assigned(assign, anchors, targets, step=step, ignore_iof=ignore_iof),
            codec=codec,
            loss=loss,
            select=select,
            centre_terms=centre_terms,
            key=moment.key,
        )
        return one.replace(total=weight * one.total)

    return AnchorShapes(term, codec)


def objective(
    *,
    assign: Callable[..., Assignment],
    classify: Classify,
    regress: Regress,
    locations: Locations | None,
    shapes: AnchorShapes | None,
    select: selection.Select = selection.everything,
    ignore_iof: float | None = 0.5,
) -> Objective:
    """A guided-anchoring objective from its parts.

    Args:
      assign: (guided anchors, targets) -> Assignment, for classes and boxes.
      classify, regress, select: as of `dense.objective`, on the guided anchors; GA-RPN selects
        `selection.expected`.
      locations: the location branch; None: neither location term nor gate (Table 4, without L).
      shapes: the shape branch; None: no shape term, and the anchors are the squares (Table 4,
        without S).
      ignore_iof: as `frame.assigned`, of guided anchors and of squares.
    """
    place = functools.partial(
        guided_anchors,
        codec=None if shapes is None else shapes.codec,
        gate=0.0 if locations is None else locations.gate,
    )

    def match(
        predictions: GuidedPredictions, anchors: Anchors, targets: Targets, moment: Moment = END
    ) -> Assignment:
        guided = anchors.replace(boxes=place(predictions, anchors).boxes)
        seen = dense.predicted(predictions, guided, codec=regress.codec)
        step = moment.step
        return frame.assigned(assign, guided, targets, seen, step=step, ignore_iof=ignore_iof)

    def loss(
        predictions: GuidedPredictions, anchors: Anchors, targets: Targets, moment: Moment = START
    ) -> tuple[Terms, dict[str, Array]]:
        placed = place(predictions, anchors)
        assignment = match(predictions, anchors, targets, moment)
        terms, signals = dense.terms_of(
            predictions,
            anchors.replace(boxes=placed.boxes),
            targets,
            assignment,
            classify=classify,
            regress=regress,
            select=select,
            moment=moment,
        )
        if locations is not None:
            terms["location"] = locations.term(predictions, anchors, targets)
        if shapes is not None:
            terms["shape"] = shapes.term(predictions, anchors, targets, moment, ignore_iof)
        return terms, {**_statistics(anchors, placed, assignment, targets), **signals}

    def decode(
        predictions: GuidedPredictions, anchors: Anchors, image_size: Int[Array, "2"]
    ) -> Candidates:
        # Where there is no anchor there is no score: its box is decoded all the same.
        placed = place(predictions, anchors)
        how = {"classify": classify, "codec": regress.codec}
        return dense.decode(predictions, placed, image_size, **how)

    ran = {"assign": assign, "ignore_iof": ignore_iof}
    return Objective(loss=loss, decode=decode, match=match, place=place, **ran)


def guided_anchors(
    predictions: GuidedPredictions,
    anchors: Anchors,
    *,
    codec: Codec | None,
    gate: float = 0.01,
) -> Anchors:
    """The anchors that predictions make of squares, constants for the gradient.

    Boxes are defined everywhere; `valid` are the cells that pass the gate. Without a codec the
    boxes are the squares.
    """
    boxes, valid = anchors.boxes, anchors.valid
    if codec is not None:
        boxes = lax.stop_gradient(codec.decode(predictions.shape_codes, boxes))
    if gate > 0.0:
        valid &= predictions.cell_logits >= math.log(gate / (1.0 - gate))
    return anchors.replace(boxes=boxes, valid=valid)


def location_term(
    logits: Float[Array, "P"],
    found: Regions,
    valid: Bool[Array, "P"],
    *,
    loss: Callable[..., Array] = losses.binary_focal,
    count_padding: bool = False,
) -> Term:
    """200 times the weighted losses of the cells, to be divided by how many cells there are."""
    counted = jnp.ones_like(valid) if count_padding else valid
    each = jnp.where(counted, found.weight * loss(logits, found.centre), 0.0)
    count = jnp.sum(counted, dtype=jnp.float32)
    return Term(total=_LOCATION_BALANCE * jnp.sum(each), count=count)


def shape_term(
    codes: Float[Array, "A 2"],
    anchors: Anchors,
    targets: Targets,
    assignment: Assignment,
    *,
    codec: Codec,
    loss: Callable[..., Array] = losses.bounded_iou,
    select: selection.Select = selection.expected,
    centre_terms: bool = True,
    key: Array | None = None,
) -> Term:
    """How far the anchors of the positive cells are from the shape of their objects."""
    positive = assignment.positive[:, None]
    # Elsewhere the square is compared with itself.
    shaped = jnp.where(positive, codec.decode(codes, anchors.boxes), anchors.boxes)
    each = loss(shaped, dense.matched_boxes(assignment, anchors, targets))
    each = jnp.where(positive, each, 0.0)[:, 0 if centre_terms else 2 :]
    nothing = jnp.zeros(each.shape[:1])

    def of_anchors() -> selection.Losses:
        return lax.stop_gradient(selection.Losses(nothing, jnp.sum(each, axis=1)))

    chosen = select(assignment, anchors, of_anchors, key)
    total = dense.weighted_sum(each, chosen.trained, chosen.weight)
    return Term(total=total, count=chosen.count)


def _statistics(
    anchors: Anchors, placed: Anchors, assignment: Assignment, targets: Targets
) -> dict[str, Float[Array, ""]]:
    """What the log says about one image; IoUs are means over its objects with a positive."""
    owned = dense.owned(assignment, targets)
    objects = jnp.maximum(jnp.sum(owned, dtype=jnp.float32), 1.0)

    def mean_best(boxes: Array) -> Array:
        best = primitives.best_iou(lax.stop_gradient(boxes), anchors.valid, targets)
        return jnp.sum(jnp.where(owned, best, 0.0)) / objects

    cells = jnp.maximum(jnp.sum(anchors.valid, dtype=jnp.float32), 1.0)
    return {
        **dense.summary(assignment, targets),
        "best_iou_of_squares": mean_best(anchors.boxes),
        "best_iou_of_guided_anchors": mean_best(placed.boxes),
        "share_of_cells_kept": jnp.sum(placed.valid, dtype=jnp.float32) / cells,
    }
