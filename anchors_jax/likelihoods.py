"""Log-likelihoods of (object, anchor) pairs: how well an anchor's predictions explain an object.

A log-likelihood is a function `(objects [A]) -> [A]`: of each anchor with its given object. An
assigner that first lets each anchor choose its object never needs the [G, A] matrix.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from anchors_jax import losses
from anchors_jax.types import Predicted, Targets


def class_box(
    predicted: Predicted,
    targets: Targets,
    *,
    class_loss: Callable[..., Array] = losses.focal,
    box_loss: Callable[..., Array] = losses.giou,
    lambda_s: float | Float[Array, ""] = 1.0,
) -> Callable[[Int[Array, "A"]], Float[Array, "A"]]:
    """Negative loss of an anchor if it were assigned to the object.

    `-(sum_k class_loss(logits_a, label_g)_k + lambda_s box_loss(box_a, box_g))`, the log of
    score_class * score_box^lambda (Kim and Lee 2020, PAA, Section 3.1, Eqs. 1-4). -inf for slots
    that hold no object.

    Args:
        predicted: of one image.
        targets: G slots.
        class_loss: (logits [A, K], labels [A]) -> [A, K].
        box_loss: (boxes [A, 4], boxes [A, 4]) -> [A].
        lambda_s: weight of the box loss. The authors take 1; MMDetection reuses the weight of the
            training loss, 1.3.
    """

    def log_likelihood(objects: Int[Array, "A"]) -> Float[Array, "A"]:
        real = targets.objects[objects]
        boxes = jnp.where(real[:, None], targets.boxes[objects], predicted.boxes)
        class_part = jnp.sum(class_loss(predicted.logits, targets.labels[objects]), axis=-1)
        box_part = lambda_s * box_loss(predicted.boxes, boxes)
        return jnp.where(real, -class_part - box_part, -jnp.inf)

    return log_likelihood
