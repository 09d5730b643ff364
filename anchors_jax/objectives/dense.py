"""Dense detection with a hard assignment: RetinaNet, SSD, RPN and all that differ by functions.

    T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal Loss for Dense Object Detection",
    ICCV 2017, arXiv:1708.02002; W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016,
    arXiv:1512.02325.

Every anchor is a classifier over K classes and, where it is positive, regresses its object's box:

    loss = sum_{a trained}  class_loss(logits_a, label_a) / N
         + sum_{a positive} box_loss(codes_a, box_gt(a))  / N

The selection says which anchors are trained (in RetinaNet all that are not ignored, in SSD the
positives and the hardest negatives) and what an image adds to N. Who divides, over which images, is
decided by the training step alone, which floors every divisor at 1.

Heads with a quality branch (FCOS, ATSS: centerness; PAA: IoU) add, with the target t_a in 0..1,

         + sum_{a positive} quality_loss(quality_a, t_a) / N

and may weigh the box loss with it: sum_{a positive} t_a box_loss_a / sum_{a positive} t_a.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes, selection
from anchors_jax.assign import frame
from anchors_jax.objectives.terms import Classify, Quality, Regress
from anchors_jax.types import (
    END,
    START,
    Anchors,
    Assignment,
    Candidates,
    Codec,
    DensePredictions,
    Moment,
    Objective,
    Predicted,
    Targets,
    Term,
    Terms,
)

INFERENCE = ("box_quality",)  # keywords that training does not read


def objective(
    *,
    assign: Callable[..., Assignment],
    classify: Classify,
    regress: Regress,
    select: selection.Select = selection.everything,
    quality: Quality | None = None,
    box_quality: Callable[..., Array] | None = None,
    ignore_iof: float | None = 0.5,
) -> Objective:
    """A dense objective from its parts.

    Args:
      assign: (anchors, targets) -> Assignment; it may ask for `predicted` and `step`.
      classify: `terms.sigmoid` or `terms.softmax` with a loss.
      regress: `terms.on_codes` or `terms.on_boxes` with a codec and a loss.
      select: a function of `anchors_jax.selection`: which anchors are trained, and the divisor of
        the class and quality terms, and of the box term where it is not weighted.
      quality: `terms.branch` with a target and a loss; None: there is no quality term.
      box_quality: a function of `anchors_jax.quality` that is told the predicted box twice, as the
        object too: the quality of detections where the head predicts none. `quality.centerness`
        says how central an anchor lies in the box that it predicts (FCOS's ablation).
      ignore_iof: as `frame.assigned`.

    Raises:
      ValueError: (from loss and decode) the head and the grid differ in their number of anchors, or
        a quality loss meets predictions that have no quality.
    """

    def match(
        predictions: DensePredictions, anchors: Anchors, targets: Targets, moment: Moment = END
    ) -> Assignment:
        seen = predicted(predictions, anchors, codec=regress.codec)
        step = moment.step
        return frame.assigned(assign, anchors, targets, seen, step=step, ignore_iof=ignore_iof)

    def loss(
        predictions: DensePredictions, anchors: Anchors, targets: Targets, moment: Moment = START
    ) -> tuple[Terms, dict[str, Array]]:
        assignment = match(predictions, anchors, targets, moment)
        terms, signals = terms_of(
            predictions,
            anchors,
            targets,
            assignment,
            classify=classify,
            regress=regress,
            select=select,
            quality=quality,
            moment=moment,
        )
        return terms, {**summary(assignment, targets), **assignment.signals, **signals}

    read = {"classify": classify, "codec": regress.codec, "box_quality": box_quality}
    return Objective(
        loss=loss,
        decode=functools.partial(decode, **read),
        match=match,
        assign=assign,
        ignore_iof=ignore_iof,
    )


def predicted(predictions: DensePredictions, anchors: Anchors, *, codec: Codec) -> Predicted:
    """What assigners see of predictions; no gradient passes."""
    check_anchors(predictions, anchors)
    seen = lax.stop_gradient(predictions)
    return Predicted(
        boxes=codec.decode(seen.codes, anchors.boxes), logits=seen.logits, quality=seen.quality
    )


def terms_of(
    predictions: DensePredictions,
    anchors: Anchors,
    targets: Targets,
    assignment: Assignment,
    *,
    classify: Classify,
    regress: Regress,
    select: selection.Select,
    quality: Quality | None = None,
    moment: Moment = START,
) -> tuple[Terms, dict[str, Array]]:
    """The terms "class", "box" and, with a quality branch, "quality"; and signals for the log."""
    matched = matched_boxes(assignment, anchors, targets)
    labels = class_labels(
        assignment, targets, num_classes=classify.background(predictions.logits.shape[-1])
    )
    class_losses = classify.loss(predictions.logits, labels, assignment.score, moment.step)
    box_losses = regress.loss(
        predictions.codes, anchors.boxes, matched, assignment.positive, moment.step
    )

    def losses() -> selection.Losses:
        of_classes = classify.weight * jnp.sum(class_losses, axis=-1)
        return lax.stop_gradient(selection.Losses(of_classes, regress.weight * box_losses))

    chosen = select(assignment, anchors, losses, moment.key)
    weight = _product(chosen.weight, assignment.weight)
    positive = assignment.positive & chosen.trained
    box_losses = jnp.where(positive, box_losses, 0.0)
    box_losses = box_losses if weight is None else weight * box_losses
    total = weighted_sum(class_losses, chosen.trained, weight)
    terms = {"class": Term(total=classify.weight * total, count=chosen.count)}
    box_count = chosen.count
    if quality is not None:
        goal = quality.target(predictions.codes, anchors, matched, positive, regress.codec)
        if quality.loss is not None:
            total = _quality_sum(predictions, goal, positive, loss=quality.loss)
            terms["quality"] = Term(total=quality.weight * total, count=chosen.count)
        if quality.weighs_boxes:
            box_losses, box_count = goal * box_losses, jnp.sum(goal)
    terms["box"] = Term(total=regress.weight * jnp.sum(box_losses), count=box_count)
    return terms, chosen.signals


def class_labels(assignment: Assignment, targets: Targets, *, num_classes: int) -> Int[Array, "A"]:
    """The class of every positive anchor, and `num_classes` (background) elsewhere."""
    return jnp.where(assignment.positive, targets.labels[assignment.gt], num_classes)


def weighted_sum(
    losses: Float[Array, "A C"], trained: Bool[Array, "A"], weight: Float[Array, "A"] | None
) -> Float[Array, ""]:
    """Sum of the losses of the trained anchors; what the others' are does not matter."""
    if weight is None:
        return jnp.sum(losses, where=trained[:, None], initial=0.0)
    return jnp.sum(jnp.where(trained, weight * jnp.sum(losses, axis=-1), 0.0))


def _product(one: Array | None, other: Array | None) -> Array | None:
    """The product of two weights, of which None is 1."""
    if one is None or other is None:
        return other if one is None else one
    return one * other


def matched_boxes(
    assignment: Assignment, anchors: Anchors, targets: Targets
) -> Float[Array, "A 4"]:
    """The object box of every positive anchor; elsewhere the anchor's own, which encodes safely."""
    positive = assignment.positive[:, None]
    return jnp.where(positive, targets.boxes[assignment.gt], anchors.boxes)


def _quality_sum(
    predictions: DensePredictions,
    targets: Float[Array, "A"],
    positive: Bool[Array, "A"],
    *,
    loss: Callable[..., Array],
) -> Float[Array, ""]:
    """Sum of the quality losses of the positive anchors."""
    if predictions.quality is None:
        raise ValueError("the quality loss needs a head with a quality output (DenseHead.quality)")
    return jnp.sum(jnp.where(positive, loss(predictions.quality, targets), 0.0))


def owned(assignment: Assignment, targets: Targets) -> Bool[Array, "G"]:
    """Objects with a positive anchor."""
    nobody = jnp.zeros(targets.valid.shape, bool)
    return nobody.at[assignment.gt].max(assignment.positive)


def summary(assignment: Assignment, targets: Targets) -> dict[str, Array]:
    """What the log says about one image's assignment (counts, as float32 scalars)."""
    statistics = {
        "positives": assignment.positive,
        "ignored": assignment.ignored,
        "objects": targets.objects,
        "objects_without_anchor": targets.objects & ~owned(assignment, targets),
    }
    return {name: jnp.sum(mask, dtype=jnp.float32) for name, mask in statistics.items()}


def check_anchors(predictions: DensePredictions, anchors: Anchors) -> None:
    """ValueError where the head and the grid differ in their number of anchors."""
    head, grid = predictions.codes.shape[0], anchors.boxes.shape[0]
    if head != grid:
        shapes = tuple(count for _, _, count in anchors.level_sizes)
        raise ValueError(
            f"the head has {head} anchors and the grid {grid}: "
            f"set detector.model.head.shapes_per_cell = {shapes}"
        )


def decode(
    predictions: DensePredictions,
    anchors: Anchors,
    image_size: Int[Array, "2"],
    *,
    classify: Classify,
    codec: Codec,
    box_quality: Callable[..., Array] | None = None,
) -> Candidates:
    """Boxes clipped to the image (height, width) and class scores of every anchor.

    Their quality is what the head predicts or else `box_quality` of the boxes before clipping.
    """
    check_anchors(predictions, anchors)
    scores = classify.scores(predictions.logits)
    decoded = codec.decode(predictions.codes, anchors.boxes)
    quality = None
    if predictions.quality is not None:
        quality = jax.nn.sigmoid(predictions.quality.astype(jnp.float32))
    elif box_quality is not None:
        quality = box_quality(decoded, decoded, anchors)
    return Candidates(
        boxes=boxes.clip(decoded, image_size),
        scores=jnp.where(anchors.valid[:, None], scores, 0.0),
        quality=quality,
        shape=anchors.shape,
        level_counts=anchors.level_counts,
    )
