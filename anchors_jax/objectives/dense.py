"""Dense detection with a hard assignment: RetinaNet and all that differ from it by functions.

    T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal Loss for Dense Object Detection",
    ICCV 2017, arXiv:1708.02002.

Every anchor is a classifier over K classes and, where it is positive, regresses its object's box:

    loss = sum_{a not ignored} class_loss(logits_a, label_a) / N
         + sum_{a positive}    box_loss(codes_a, encode(box_gt(a), anchor_a)) / N

N counts positive anchors. Each image adds max(positives, `count_floor`): 1 is MMDetection's rule,
0 the plain count. Who divides, over which images, is decided by the training step alone, which
floors every divisor at 1.

Heads with a quality branch (FCOS, ATSS: centerness; PAA: IoU) add, with the target t_a in 0..1,

         + sum_{a positive}    quality_loss(quality_a, t_a) / N

and may weigh the box loss with it: sum_{a positive} t_a box_loss_a / sum_{a positive} t_a.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes, losses
from anchors_jax.assign import sampling
from anchors_jax.types import (
    Anchors,
    Assignment,
    Candidates,
    Codec,
    DensePredictions,
    Objective,
    Targets,
    Term,
    Terms,
)


def objective(
    *,
    assign: Callable[..., Assignment],
    codec: Codec,
    class_loss: Callable[..., Array] = losses.focal,
    box_loss: Callable[..., Array] = losses.l1,
    box_loss_on_codes: bool = True,
    class_weight: float = 1.0,
    box_weight: float = 1.0,
    count_floor: float = 1.0,
    quality_loss: Callable[..., Array] | None = None,
    quality_target: Callable[..., Array] | None = None,
    quality_weight: float = 1.0,
    box_weight_by_quality: bool = False,
    likelihood: Callable[..., Any] | None = None,
    box_quality: Callable[..., Array] | None = None,
    mine: Callable[..., Array] | None = None,
    sample: Callable[..., sampling.Sample] | None = None,
) -> Objective:
    """A dense objective from its parts.

    Args:
      assign: (anchors, targets) -> Assignment; with `likelihood`: (anchors, targets, likelihoods).
      codec: what the box branch regresses.
      class_loss: (logits [A, K], labels [A]) -> [A, K]; the label K is background.
      box_loss: on codes [A, 4] -> [A, 4], or on boxes [A, 4] -> [A] (IoU losses).
      box_loss_on_codes: compare encoded boxes (L1, smooth L1) rather than decoded ones.
      class_weight, box_weight, quality_weight: factors of the terms.
      count_floor: the least that an image adds to the divisor of the class and quality terms, and
        of the box term where it is not weighted.
      quality_loss: (logits [A], targets [A]) -> [A], or None: the quality branch, if there is one,
        is not trained.
      quality_target: a function of `anchors_jax.quality`.
      box_weight_by_quality: weigh each box loss with its quality target.
      likelihood: (predictions, anchors, targets) -> what `assign` wants to know about predictions;
        no gradient passes through it.
      box_quality: a function of `anchors_jax.quality` that is told the predicted box twice, as the
        object too: the quality of detections where the head predicts none. `quality.centerness`
        says how central an anchor lies in the box that it predicts (FCOS's ablation).
      mine: (class and box loss [A], anchors, positive [A], candidates [A]) -> [A], which anchors
        are trained: `mining.online`. All others are then as if ignored, and N counts the chosen
        ones, positive or not (the divisor of Fast R-CNN's minibatch). None: all are trained.
      sample: Assignment -> Sample of the class and box terms, whose divisor then counts negatives,
        too: `sampling.expected` (RPN). None: all anchors.

    Raises:
      ValueError: `mine` together with `sample`; `quality_loss` or `box_weight_by_quality` without
        `quality_target`; or, when the loss is called, `quality_loss` with predictions that have no
        quality.
    """
    if quality_target is None and (quality_loss is not None or box_weight_by_quality):
        raise ValueError("quality_loss and box_weight_by_quality need a quality_target")
    if mine is not None and sample is not None:
        raise ValueError("mine and sample both choose the anchors to train: give one of them")
    regress = functools.partial(
        positive_box_losses, codec=codec, box_loss=box_loss, on_codes=box_loss_on_codes
    )
    judge = functools.partial(positive_quality, codec=codec, target=quality_target)

    def match(predictions: DensePredictions, anchors: Anchors, targets: Targets) -> Assignment:
        if likelihood is None:
            return lax.stop_gradient(assign(anchors, targets))
        # Reverse mode cannot pass the loops of assigners: the gradient stops before them already.
        seen = likelihood(lax.stop_gradient(predictions), anchors, targets)
        return lax.stop_gradient(assign(anchors, targets, seen))

    def loss(
        predictions: DensePredictions, anchors: Anchors, targets: Targets
    ) -> tuple[Terms, dict[str, Array]]:
        assignment = match(predictions, anchors, targets)
        statistics = assignment_statistics(assignment, targets) | assignment.signals
        matched = matched_boxes(assignment, anchors, targets)
        box_losses = regress(predictions.codes, anchors.boxes, matched, assignment.positive)
        trained = assignment.positive
        if mine is not None:
            each = class_losses(predictions, targets, assignment, class_loss=class_loss)
            both = lax.stop_gradient(class_weight * each + box_weight * box_losses)
            candidates = anchors.valid & ~assignment.ignored
            trained = mine(both, anchors, assignment.positive, candidates)
            assignment = assignment.replace(
                positive=assignment.positive & trained, ignored=~trained
            )
            box_losses = jnp.where(assignment.positive, box_losses, 0.0)
            statistics["hard_examples"] = jnp.sum(trained, dtype=jnp.float32)
        positive = assignment.positive
        if sample is None:
            count = jnp.maximum(jnp.sum(trained, dtype=jnp.float32), count_floor)
            class_total = class_sum(
                predictions, anchors, targets, assignment, class_loss=class_loss
            )
        else:
            class_total, box_losses, count = sampled_sums(
                predictions, targets, assignment, box_losses, class_loss=class_loss, sample=sample
            )
        terms = {"class": Term(total=class_weight * class_total, count=count)}
        box_count = count
        if quality_target is not None:
            quality = judge(predictions.codes, anchors, matched, positive)
            if quality_loss is not None:
                total = quality_sum(predictions, quality, positive, quality_loss=quality_loss)
                terms["quality"] = Term(total=quality_weight * total, count=count)
            if box_weight_by_quality:
                box_losses, box_count = quality * box_losses, jnp.sum(quality)
        terms["box"] = Term(total=box_weight * jnp.sum(box_losses), count=box_count)
        return terms, statistics

    read = functools.partial(decode, codec=codec, box_quality=box_quality)
    return Objective(loss=loss, decode=read, match=match)


def class_labels(assignment: Assignment, targets: Targets, *, num_classes: int) -> Int[Array, "A"]:
    """The class of every positive anchor, and `num_classes` (background) elsewhere."""
    return jnp.where(assignment.positive, targets.labels[assignment.gt], num_classes)


def class_sum(
    predictions: DensePredictions,
    anchors: Anchors,
    targets: Targets,
    assignment: Assignment,
    *,
    class_loss: Callable[..., Array],
) -> Float[Array, ""]:
    """Sum of the class losses of all anchors that are valid and not ignored."""
    labels = class_labels(assignment, targets, num_classes=predictions.logits.shape[-1])
    participates = anchors.valid & ~assignment.ignored
    return jnp.sum(class_loss(predictions.logits, labels), where=participates[:, None], initial=0.0)


def class_losses(
    predictions: DensePredictions,
    targets: Targets,
    assignment: Assignment,
    *,
    class_loss: Callable[..., Array],
) -> Float[Array, "A"]:
    """The class loss of every anchor, all classes together; also of those that do not count."""
    labels = class_labels(assignment, targets, num_classes=predictions.logits.shape[-1])
    return jnp.sum(class_loss(predictions.logits, labels), axis=-1)


def sampled_sums(
    predictions: DensePredictions,
    targets: Targets,
    assignment: Assignment,
    box_losses: Float[Array, "A"],
    *,
    class_loss: Callable[..., Array],
    sample: Callable[..., sampling.Sample],
) -> tuple[Float[Array, ""], Float[Array, "A"], Float[Array, ""]]:
    """Sum of the class losses and each box loss, weighted as a sample says, and its divisor."""
    taken = sample(assignment)
    each = class_losses(predictions, targets, assignment, class_loss=class_loss)
    total = jnp.sum(jnp.where(taken.weight > 0.0, taken.weight * each, 0.0))
    return total, taken.weight * box_losses, taken.count


def matched_boxes(
    assignment: Assignment, anchors: Anchors, targets: Targets
) -> Float[Array, "A 4"]:
    """The object box of every positive anchor; elsewhere the anchor's own, which encodes safely."""
    positive = assignment.positive[:, None]
    return jnp.where(positive, targets.boxes[assignment.gt], anchors.boxes)


def positive_box_losses(
    codes: Float[Array, "A 4"],
    anchor_boxes: Float[Array, "A 4"],
    object_boxes: Float[Array, "A 4"],
    positive: Bool[Array, "A"],
    *,
    codec: Codec,
    box_loss: Callable[..., Array],
    on_codes: bool,
) -> Float[Array, "A"]:
    """Box loss of each anchor, 0 (with zero gradient) where it is not positive.

    Where an anchor is not positive the loss compares equal things: there is no singular point
    under the mask, in value or in gradient.
    """
    targets = codec.encode(object_boxes, anchor_boxes)
    if on_codes:
        return jnp.where(positive[:, None], box_loss(codes, targets), 0.0).sum(axis=-1)
    decoded = codec.decode(jnp.where(positive[:, None], codes, targets), anchor_boxes)
    return jnp.where(positive, box_loss(decoded, object_boxes), 0.0)


def positive_quality(
    codes: Float[Array, "A 4"],
    anchors: Anchors,
    object_boxes: Float[Array, "A 4"],
    positive: Bool[Array, "A"],
    *,
    codec: Codec,
    target: Callable[..., Array],
) -> Float[Array, "A"]:
    """The quality target of each anchor, a constant in 0..1; 0 where it is not positive."""
    decoded = codec.decode(lax.stop_gradient(codes), anchors.boxes)
    return jnp.where(positive, lax.stop_gradient(target(decoded, object_boxes, anchors)), 0.0)


def quality_sum(
    predictions: DensePredictions,
    targets: Float[Array, "A"],
    positive: Bool[Array, "A"],
    *,
    quality_loss: Callable[..., Array],
) -> Float[Array, ""]:
    """Sum of the quality losses of the positive anchors."""
    if predictions.quality is None:
        raise ValueError("quality_loss needs a head with a quality output (DenseHead.quality)")
    return jnp.sum(jnp.where(positive, quality_loss(predictions.quality, targets), 0.0))


def assignment_statistics(assignment: Assignment, targets: Targets) -> dict[str, Array]:
    """What the log says about one image's assignment (counts, as float32 scalars)."""
    owned = jnp.zeros(targets.valid.shape, bool).at[assignment.gt].max(assignment.positive)
    statistics = {
        "positives": assignment.positive,
        "ignored": assignment.ignored,
        "objects": targets.objects,
        "objects_without_anchor": targets.objects & ~owned,
    }
    return {name: jnp.sum(mask, dtype=jnp.float32) for name, mask in statistics.items()}


def decode(
    predictions: DensePredictions,
    anchors: Anchors,
    image_size: Int[Array, "2"],
    *,
    codec: Codec,
    box_quality: Callable[..., Array] | None = None,
) -> Candidates:
    """Boxes clipped to the image (height, width) and sigmoid scores of every anchor.

    Their quality is what the head predicts or else `box_quality` of the boxes before clipping.
    """
    scores = jax.nn.sigmoid(predictions.logits.astype(jnp.float32))
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
