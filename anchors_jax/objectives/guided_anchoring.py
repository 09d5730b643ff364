"""Guided Anchoring: the network predicts where there is an anchor, and of what shape.

    J. Wang, K. Chen, S. Yang, C. C. Loy, D. Lin, "Region Proposal by Guided Anchoring", CVPR 2019,
    arXiv:1901.03278.

A cell i has a square prior; its shape code makes the guided anchor of it. Eq. 4 of the paper,

    loss = sum_i w_i FL(location_i, centre_i) / (cells / 200)
         + sum_{i shape positive} L1s(1 - min(w / w_g, w_g / w)) + (the same for h)  / D
         + the class and box terms of `objectives/dense.py` on the guided anchors

with w_i and centre_i from `assign/regions.py`, g from `assign/approx_iou.py`, and the bounded IoU
loss of Tychsen-Smith and Petersson (CVPR 2018), smooth with beta = 0.2. For assignment, encoding
and decoding, guided anchors are constants. All valid cells are trained, wherever the network sees
anchors; at inference the location probability decides which exist, and scores nothing.

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

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import losses
from anchors_jax.assign import approx_iou, primitives, regions, sampling
from anchors_jax.objectives import dense
from anchors_jax.types import (
    Anchors,
    Assignment,
    Candidates,
    Codec,
    GuidedPredictions,
    Objective,
    Targets,
    Term,
    Terms,
)

# The location term is divided by cells / 200: a constant that MMDetection has in its code.
_LOCATION_BALANCE = 200.0
_BOX_LOSS = functools.partial(losses.smooth_l1, beta=0.04)


def objective(
    *,
    assign: Callable[..., Assignment],
    codec: Codec,
    shape_codec: Codec,
    locate: Callable[..., regions.Regions] = regions.find,
    assign_shapes: Callable[..., Assignment] = approx_iou.assign,
    predict_locations: bool = True,
    predict_shapes: bool = True,
    class_loss: Callable[..., Array] = losses.focal,
    box_loss: Callable[..., Array] = _BOX_LOSS,
    box_loss_on_codes: bool = True,
    location_loss: Callable[..., Array] = losses.binary_focal,
    shape_loss: Callable[..., Array] = losses.bounded_iou,
    class_weight: float = 1.0,
    box_weight: float = 1.0,
    location_weight: float = 1.0,
    shape_weight: float = 1.0,
    centre_terms: bool = True,
    count_padding: bool = False,
    count_floor: float = 1.0,
    sample_shapes: Callable[..., sampling.Sample] = sampling.expected,
    sample: Callable[..., sampling.Sample] | None = None,
    gate: float = 0.01,
) -> Objective:
    """A guided-anchoring objective from its parts.

    Args:
      assign: (guided anchors, targets) -> Assignment, for classes and boxes.
      codec: what the box branch regresses, against the guided anchors.
      shape_codec: what the shape branch regresses, against the squares.
      locate: (anchors, targets) -> Regions of the location branch.
      assign_shapes: (anchors, targets) -> Assignment of the shape branch.
      predict_locations: False: neither location term nor gate (Table 4, without L).
      predict_shapes: False: no shape term, and the anchors are the squares (Table 4, without S).
      class_loss: (logits [A, K], labels [A]) -> [A, K]; the label K is background.
      box_loss: on codes [A, 4] -> [A, 4], or on boxes [A, 4] -> [A] (IoU losses).
      box_loss_on_codes: compare encoded boxes rather than decoded ones.
      location_loss: (logits [P], centre [P]) -> [P].
      shape_loss: (boxes [A, 4], boxes [A, 4]) -> [A, 4] in x, y, w, h.
      class_weight, box_weight, location_weight, shape_weight: factors of the terms.
      centre_terms: count the shape loss of x and y, which have no gradient, as MMDetection does.
      count_padding: train and count the locations in the padding of the canvas, too (MMDetection).
      count_floor: the least that an image adds to the divisor of the class and box terms.
      sample_shapes: Assignment -> Sample of the shape term.
      sample: Assignment -> Sample of the class and box terms, whose divisor then counts negatives,
        too (GA-RPN); None: all anchors, divided by positives (GA-RetinaNet).
      gate: anchors exist from this location probability on (epsilon_L); 0: everywhere.

    Raises:
      ValueError: a gate outside 0..1 (1 is outside, too).
    """
    if not 0.0 <= gate < 1.0:
        raise ValueError(f"gate {gate} is not a probability below 1")
    place = functools.partial(
        guided_anchors,
        codec=shape_codec if predict_shapes else None,
        gate=gate if predict_locations else 0.0,
    )

    regress = functools.partial(
        dense.positive_box_losses, codec=codec, box_loss=box_loss, on_codes=box_loss_on_codes
    )

    def match(predictions: GuidedPredictions, anchors: Anchors, targets: Targets) -> Assignment:
        everywhere = anchors.replace(boxes=place(predictions, anchors).boxes)
        return lax.stop_gradient(assign(everywhere, targets))

    def loss(
        predictions: GuidedPredictions, anchors: Anchors, targets: Targets
    ) -> tuple[Terms, dict[str, Array]]:
        placed = place(predictions, anchors)
        guided = anchors.replace(boxes=placed.boxes)
        assignment = lax.stop_gradient(assign(guided, targets))
        terms = _class_and_box(
            predictions,
            guided,
            targets,
            assignment,
            class_loss=class_loss,
            regress=regress,
            weights=(class_weight, box_weight),
            sample=sample,
            count_floor=count_floor,
        )
        if predict_locations:
            term = location_term(
                predictions.cell_logits,
                lax.stop_gradient(locate(anchors, targets)),
                anchors.valid,
                loss=location_loss,
                count_padding=count_padding,
            )
            terms["location"] = term.replace(total=location_weight * term.total)
        if predict_shapes:
            term = shape_term(
                predictions.shape_codes,
                anchors,
                targets,
                lax.stop_gradient(assign_shapes(anchors, targets)),
                codec=shape_codec,
                loss=shape_loss,
                sample=sample_shapes,
                centre_terms=centre_terms,
            )
            terms["shape"] = term.replace(total=shape_weight * term.total)
        return terms, _statistics(anchors, placed, assignment, targets)

    return Objective(
        loss=loss,
        decode=functools.partial(_decode, place=place, codec=codec),
        match=match,
        place=place,
    )


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
    found: regions.Regions,
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
    sample: Callable[..., sampling.Sample] = sampling.expected,
    centre_terms: bool = True,
) -> Term:
    """How far the anchors of the positive cells are from the shape of their objects."""
    taken, positive = sample(assignment), assignment.positive[:, None]
    # Elsewhere the square is compared with itself.
    shaped = jnp.where(positive, codec.decode(codes, anchors.boxes), anchors.boxes)
    each = loss(shaped, dense.matched_boxes(assignment, anchors, targets))
    each = jnp.where(positive, each, 0.0)[:, 0 if centre_terms else 2 :]
    return Term(total=jnp.sum(taken.weight * jnp.sum(each, axis=1)), count=taken.count)


def _class_and_box(
    predictions: GuidedPredictions,
    guided: Anchors,
    targets: Targets,
    assignment: Assignment,
    *,
    class_loss: Callable[..., Array],
    regress: Callable[..., Array],
    weights: tuple[float, float],
    sample: Callable[..., sampling.Sample] | None,
    count_floor: float,
) -> Terms:
    positive = assignment.positive
    matched = dense.matched_boxes(assignment, guided, targets)
    box_losses = regress(predictions.codes, guided.boxes, matched, positive)
    if sample is None:
        count = jnp.maximum(jnp.sum(positive, dtype=jnp.float32), count_floor)
        total = dense.class_sum(predictions, guided, targets, assignment, class_loss=class_loss)
    else:
        total, box_losses, count = dense.sampled_sums(
            predictions, targets, assignment, box_losses, class_loss=class_loss, sample=sample
        )
    return {
        "class": Term(total=weights[0] * total, count=count),
        "box": Term(total=weights[1] * jnp.sum(box_losses), count=count),
    }


def _statistics(
    anchors: Anchors, placed: Anchors, assignment: Assignment, targets: Targets
) -> dict[str, Float[Array, ""]]:
    """What the log says about one image; IoUs are means over its objects with a positive."""
    owned = jnp.zeros(targets.valid.shape, bool).at[assignment.gt].max(assignment.positive)
    objects = jnp.maximum(jnp.sum(owned, dtype=jnp.float32), 1.0)

    def mean_best(boxes: Array) -> Array:
        best = primitives.best_iou(lax.stop_gradient(boxes), anchors.valid, targets)
        return jnp.sum(jnp.where(owned, best, 0.0)) / objects

    cells = jnp.maximum(jnp.sum(anchors.valid, dtype=jnp.float32), 1.0)
    return {
        **dense.assignment_statistics(assignment, targets),
        "best_iou_of_squares": mean_best(anchors.boxes),
        "best_iou_of_guided_anchors": mean_best(placed.boxes),
        "share_of_cells_kept": jnp.sum(placed.valid, dtype=jnp.float32) / cells,
    }


def _decode(
    predictions: GuidedPredictions,
    anchors: Anchors,
    image_size: Int[Array, "2"],
    *,
    place: Callable[..., Anchors],
    codec: Codec,
) -> Candidates:
    """Where there is no anchor there is no score: its box is decoded all the same."""
    return dense.decode(predictions, place(predictions, anchors), image_size, codec=codec)
