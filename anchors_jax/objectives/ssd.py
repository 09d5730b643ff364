"""SSD: softmax over classes and background, hard negatives three to one, smooth L1.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Section 2.2
    ("Training objective", "Hard negative mining").

With CE_a = -log softmax(logits_a)[label_a], background being the last label,

    loss = (  sum_{a positive} CE_a + sum_{a hard negative} CE_a
            + sum_{a positive} smooth L1(codes_a, encode(box_gt(a), anchor_a)) ) / N

Hard negatives of an image are the 3 n negatives with the largest CE, n its positives: an image
without objects teaches nothing. N counts positives; each image adds max(positives, `count_floor`):
0 is the plain count over the batch (Caffe, torchvision), 1 MMDetection's rule. No gradient passes
through the choice.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int

from anchors_jax import boxes, losses, mining
from anchors_jax.objectives import dense
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

_BOX_LOSS = functools.partial(losses.smooth_l1, beta=1.0)


def objective(
    *,
    assign: Callable[..., Assignment],
    codec: Codec,
    box_loss: Callable[..., Array] = _BOX_LOSS,
    negatives_per_positive: int = 3,
    class_weight: float = 1.0,
    box_weight: float = 1.0,
    count_floor: float = 0.0,
) -> Objective:
    """SSD's objective over logits [A, K + 1], of which the last column is background.

    Args:
      assign: (anchors, targets) -> Assignment: `bipartite.assign`, or `max_iou.assign` for the
        matching of MMDetection and torchvision.
      codec: what the box branch regresses: `codecs.deltas` with stds (0.1, 0.1, 0.2, 0.2), the
        "variances".
      box_loss: on codes [A, 4] -> [A, 4].
      negatives_per_positive: how many negatives of an image are trained, those with the largest
        loss, for each of its positives.
      class_weight, box_weight: factors of the terms.
      count_floor: the least that an image adds to the divisor.

    Raises:
      ValueError: (from loss and decode) the head and the grid differ in their number of anchors.
    """

    def match(predictions: DensePredictions, anchors: Anchors, targets: Targets) -> Assignment:
        del predictions
        return lax.stop_gradient(assign(anchors, targets))

    def loss(
        predictions: DensePredictions, anchors: Anchors, targets: Targets
    ) -> tuple[Terms, dict[str, Array]]:
        _check_anchors(predictions, anchors)
        assignment = match(predictions, anchors, targets)
        positive = assignment.positive
        background = predictions.logits.shape[-1] - 1
        labels = dense.class_labels(assignment, targets, num_classes=background)
        class_losses = losses.cross_entropy(predictions.logits, labels)
        positives = jnp.sum(positive, dtype=jnp.int32)
        hard = mining.hardest(
            lax.stop_gradient(class_losses),
            anchors.valid & ~positive & ~assignment.ignored,
            negatives_per_positive * positives,
        )
        box_losses = dense.positive_box_losses(
            predictions.codes,
            anchors.boxes,
            dense.matched_boxes(assignment, anchors, targets),
            positive,
            codec=codec,
            box_loss=box_loss,
            on_codes=True,
        )
        class_total = jnp.sum(class_losses, where=positive | hard, initial=0.0)
        count = jnp.maximum(positives.astype(jnp.float32), count_floor)
        terms = {
            "class": Term(total=class_weight * class_total, count=count),
            "box": Term(total=box_weight * jnp.sum(box_losses), count=count),
        }
        statistics = dense.assignment_statistics(assignment, targets)
        return terms, statistics | {"hard_negatives": jnp.sum(hard, dtype=jnp.float32)}

    return Objective(loss=loss, decode=functools.partial(decode, codec=codec), match=match)


def decode(
    predictions: DensePredictions,
    anchors: Anchors,
    image_size: Int[Array, "2"],
    *,
    codec: Codec,
) -> Candidates:
    """Boxes clipped to the image (height, width) and softmax scores without the background's."""
    _check_anchors(predictions, anchors)
    scores = jax.nn.softmax(predictions.logits.astype(jnp.float32), axis=-1)[:, :-1]
    return Candidates(
        boxes=boxes.clip(codec.decode(predictions.codes, anchors.boxes), image_size),
        scores=jnp.where(anchors.valid[:, None], scores, 0.0),
        shape=anchors.shape,
        level_counts=anchors.level_counts,
    )


def _check_anchors(predictions: DensePredictions, anchors: Anchors) -> None:
    head, grid = predictions.codes.shape[0], anchors.boxes.shape[0]
    if head != grid:
        shapes = tuple(count for _, _, count in anchors.level_sizes)
        raise ValueError(
            f"the head has {head} anchors and the grid {grid}: "
            f"set detector.model.head.shapes_per_cell = {shapes}"
        )
