"""Dense detection with a hard assignment: RetinaNet and all that differ from it by functions.

    T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal Loss for Dense Object Detection",
    ICCV 2017, arXiv:1708.02002.

Every anchor is a classifier over K classes and, where it is positive, regresses its object's box:

    loss = sum_{a not ignored} class_loss(logits_a, label_a) / N
         + sum_{a positive}    box_loss(codes_a, encode(box_gt(a), anchor_a)) / N

N counts positive anchors. Each image adds max(positives, `count_floor`): 1 is MMDetection's rule,
0 the plain count. Who divides, over which images, is decided by the training step alone.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes, losses
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
) -> Objective:
    """A dense objective from its parts.

    Args:
      assign: (anchors, targets) -> Assignment.
      codec: what the box branch regresses.
      class_loss: (logits [A, K], labels [A]) -> [A, K]; the label K is background.
      box_loss: on codes [A, 4] -> [A, 4], or on boxes [A, 4] -> [A] (IoU losses).
      box_loss_on_codes: compare encoded boxes (L1, smooth L1) rather than decoded ones.
      class_weight, box_weight: factors of the two terms.
      count_floor: the least that an image adds to the divisor.
    """
    return Objective(
        loss=functools.partial(
            _loss,
            assign=assign,
            codec=codec,
            class_loss=class_loss,
            box_loss=box_loss,
            box_loss_on_codes=box_loss_on_codes,
            class_weight=class_weight,
            box_weight=box_weight,
            count_floor=count_floor,
        ),
        decode=functools.partial(_decode, codec=codec),
    )


def _loss(
    predictions: DensePredictions,
    anchors: Anchors,
    targets: Targets,
    *,
    assign: Callable[..., Assignment],
    codec: Codec,
    class_loss: Callable[..., Array],
    box_loss: Callable[..., Array],
    box_loss_on_codes: bool,
    class_weight: float,
    box_weight: float,
    count_floor: float,
) -> tuple[Terms, dict[str, Array]]:
    assignment = lax.stop_gradient(assign(anchors, targets))
    positive = assignment.positive
    labels = class_labels(assignment, targets, num_classes=predictions.logits.shape[-1])
    participates = anchors.valid & ~assignment.ignored
    class_total = jnp.sum(
        class_loss(predictions.logits, labels), where=participates[:, None], initial=0.0
    )
    box_total = jnp.sum(
        positive_box_losses(
            predictions.codes,
            anchors.boxes,
            # The anchor's own box stands in where there is no object: it encodes to zeros.
            jnp.where(positive[:, None], targets.boxes[assignment.gt], anchors.boxes),
            positive,
            codec=codec,
            box_loss=box_loss,
            on_codes=box_loss_on_codes,
        )
    )
    count = jnp.maximum(jnp.sum(positive, dtype=jnp.float32), count_floor)
    terms = {
        "class": Term(total=class_weight * class_total, count=count),
        "box": Term(total=box_weight * box_total, count=count),
    }
    return terms, assignment_statistics(assignment, targets)


def class_labels(assignment: Assignment, targets: Targets, *, num_classes: int) -> Int[Array, "A"]:
    """The class of every positive anchor, and `num_classes` (background) elsewhere."""
    return jnp.where(assignment.positive, targets.labels[assignment.gt], num_classes)


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


def _decode(
    predictions: DensePredictions,
    anchors: Anchors,
    image_size: Int[Array, "2"],
    *,
    codec: Codec,
) -> Candidates:
    scores = jax.nn.sigmoid(predictions.logits.astype(jnp.float32))
    return Candidates(
        boxes=boxes.clip(codec.decode(predictions.codes, anchors.boxes), image_size),
        scores=jnp.where(anchors.valid[:, None], scores, 0.0),
        shape=anchors.shape,
        level_counts=anchors.level_counts,
    )
