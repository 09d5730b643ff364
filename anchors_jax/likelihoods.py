"""Log-likelihoods of (object, anchor) pairs: how well an anchor's predictions explain an object.

A log-likelihood is a function `(objects [A]) -> [A]`: of every anchor with the one object named for
it. An assigner that first lets each anchor choose its object never needs the [G, A] matrix.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from anchors_jax import losses
from anchors_jax.types import Anchors, Codec, DensePredictions, Targets


def class_box(
    predictions: DensePredictions,
    anchors: Anchors,
    targets: Targets,
    *,
    codec: Codec,
    class_loss: Callable[..., Array] = losses.focal,
    box_loss: Callable[..., Array] = losses.giou,
    lambda_s: float | Float[Array, ""] = 1.0,
) -> Callable[[Int[Array, "A"]], Float[Array, "A"]]:
    """Minus the losses that an anchor would have, were it positive for an object.

    `-(sum_k class_loss(logits_a, label_g)_k + lambda_s box_loss(decode(codes_a), box_g))`, the log
    of score_class * score_box^lambda (Kim and Lee 2020, PAA, Section 3.1, Eqs. 1-4). -inf for slots
    that hold no object.

    Args:
        predictions: of one image.
        anchors: A anchors.
        targets: G slots.
        codec: what the box branch regresses.
        class_loss: (logits [A, K], labels [A]) -> [A, K].
        box_loss: (boxes [A, 4], boxes [A, 4]) -> [A].
        lambda_s: weight of the box loss. The authors take 1; MMDetection reuses the weight of the
            training loss, 1.3.
    """
    decoded = codec.decode(predictions.codes, anchors.boxes)

    def log_likelihood(objects: Int[Array, "A"]) -> Float[Array, "A"]:
        real = targets.objects[objects]
        boxes = jnp.where(real[:, None], targets.boxes[objects], anchors.boxes)
        class_part = jnp.sum(class_loss(predictions.logits, targets.labels[objects]), axis=-1)
        return jnp.where(real, -class_part - lambda_s * box_loss(decoded, boxes), -jnp.inf)

    return log_likelihood
