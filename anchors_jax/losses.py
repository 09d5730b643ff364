"""Losses: elementwise, unreduced and unweighted. The caller masks, sums and divides.

Classification losses take logits (any float type; computed in float32) and integer labels 0..K-1;
any other label is a row of zeros, which is what background means for sigmoid losses. Box losses
take corners. All are finite, in value and in gradient, for saturated logits and degenerate boxes.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry

Number = int | float


def one_hot(labels: Int[Array, "*n"], num_classes: int) -> Bool[Array, "*n K"]:
    """True at each row's label; rows whose label is not in 0..K-1 are all False."""
    classes = jnp.arange(num_classes, dtype=labels.dtype)
    return labels[..., None] == classes.reshape((1,) * labels.ndim + (num_classes,))


def focal(
    logits: Float[Array, "*n K"],
    labels: Int[Array, "*n"],
    *,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
) -> Float[Array, "*n K"]:
    """Sigmoid focal loss of every class (Lin et al. 2017, Eq. 5): -alpha_t (1 - p_t)^gamma log p_t.

    Args:
        logits: scores before the sigmoid.
        labels: class of each row; outside 0..K-1: background.
        alpha: weight of the positive entry; 1 - alpha weighs the others.
        gamma: focusing exponent, >= 0; 0 gives alpha-balanced cross entropy.
    """
    return _focal(logits, labels, float(alpha), float(gamma))


def focal_star(
    logits: Float[Array, "*n K"],
    labels: Int[Array, "*n"],
    *,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    beta: Number = 1.0,
) -> Float[Array, "*n K"]:
    """The other form of the focal loss: -alpha_t log sigmoid(gamma x_t + beta) / gamma.

    Lin et al. 2017, appendix "Focal Loss*"; x_t is the logit where positive, minus it elsewhere.
    That the class weights of `focal` apply here too is our reading.

    Args:
        logits: scores before the sigmoid.
        labels: class of each row; outside 0..K-1: background.
        alpha: weight of the positive entry; 1 - alpha weighs the others.
        gamma: steepness, > 0.
        beta: shift.
    """
    positive = one_hot(labels, logits.shape[-1])
    z = logits.astype(jnp.float32)
    weight = jnp.where(positive, alpha, 1.0 - alpha)
    return weight * jax.nn.softplus(-(gamma * jnp.where(positive, z, -z) + beta)) / gamma


def binary_focal(
    logits: Float[Array, "*n"],
    positive: Bool[Array, "*n"],
    *,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
) -> Float[Array, "*n"]:
    """`focal` for independent binary decisions: one logit, one truth value each."""
    return _focal(logits, positive, float(alpha), float(gamma))


def soft_focal(
    logits: Float[Array, "*n"],
    targets: Float[Array, "*n"],
    *,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
) -> Float[Array, "*n"]:
    """Focal loss with targets anywhere in 0..1, linear in the target where `focal` switches.

    `(a t + (1 - a)(1 - t)) (p (1 - t) + (1 - p) t)^gamma BCE(z, t)`; equals `focal` at 0 and 1.
    """
    p = jax.nn.sigmoid(logits.astype(jnp.float32))
    wrong = p * (1.0 - targets) + (1.0 - p) * targets
    balance = alpha * targets + (1.0 - alpha) * (1.0 - targets)
    return balance * _power(wrong, gamma) * bce(logits, targets)


def quality_focal(
    logits: Float[Array, "*n K"],
    labels: Int[Array, "*n"],
    quality: Float[Array, "*n"],
    *,
    beta: Number = 2.0,
) -> Float[Array, "*n K"]:
    """|t - p|^beta BCE(z, t), t = quality at the label and 0 elsewhere (Li et al. 2020, Eq. 4)."""
    targets = jnp.where(one_hot(labels, logits.shape[-1]), quality[..., None], 0.0)
    distance = jnp.abs(targets - jax.nn.sigmoid(logits.astype(jnp.float32)))
    return _power(distance, beta) * bce(logits, targets)


def smoothed_focal(
    logits: Float[Array, "*n"],
    targets: Float[Array, "*n"],
    positive: Bool[Array, "*n"],
    *,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
) -> Float[Array, "*n"]:
    """Focal loss in which positives have soft targets (Chen et al., Semi-Anchored, Eq. 3).

    `-alpha |t - p|^gamma t log p` where positive, `-(1 - alpha) p^gamma log(1 - p)` elsewhere.
    Equals `binary_focal` for t = 1. The paper calls the exponent beta.
    """
    z = logits.astype(jnp.float32)
    # t - p, written so that t = 1 gives 1 - p without cancellation.
    distance = jnp.abs(jax.nn.sigmoid(-z) - (1.0 - targets))
    hit = alpha * _power(distance, gamma) * targets * jax.nn.softplus(-z)
    miss = (1.0 - alpha) * _power(jax.nn.sigmoid(z), gamma) * jax.nn.softplus(z)
    return jnp.where(positive, hit, miss)


def gaussian_focal(
    logits: Float[Array, "*n"],
    targets: Float[Array, "*n"],
    *,
    alpha: Number = 2.0,
    gamma: Number = 4.0,
) -> Float[Array, "*n"]:
    """Focal loss of heat maps: entries equal to 1 are positive, others less negative near 1.

    `-(1 - p)^alpha log p` where t = 1, else `-(1 - t)^gamma p^alpha log(1 - p)` (Law and Deng 2018,
    Eq. 1).
    """
    z = logits.astype(jnp.float32)
    peak = targets == 1.0
    value = binary_focal(z, peak, alpha=0.5, gamma=alpha) * 2.0
    return jnp.where(peak, value, _power(1.0 - targets, gamma) * value)


def bce(logits: Float[Array, "*n"], targets: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Binary cross entropy of logits with targets in 0..1."""
    z = logits.astype(jnp.float32)
    return jax.nn.softplus(z) - z * targets


def class_bce(logits: Float[Array, "*n K"], labels: Int[Array, "*n"]) -> Float[Array, "*n K"]:
    """`bce` of every class by itself; a label outside 0..K-1 is background."""
    return bce(logits, one_hot(labels, logits.shape[-1]).astype(jnp.float32))


def cross_entropy(logits: Float[Array, "*n K"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Softmax cross entropy. Every label must be in 0..K-1; background, if any, is a class here."""
    z = logits.astype(jnp.float32)
    chosen = jnp.sum(jnp.where(one_hot(labels, z.shape[-1]), z, 0.0), axis=-1)
    return jax.nn.logsumexp(z, axis=-1) - chosen


def l1(predictions: Float[Array, "*n"], targets: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """|prediction - target|, with gradient 0 where they are equal."""
    difference = predictions.astype(jnp.float32) - targets
    return difference * jnp.sign(difference)  # the gradient of jnp.abs at 0 is 1


def smooth_l1(
    predictions: Float[Array, "*n"], targets: Float[Array, "*n"], *, beta: Number = 1 / 9
) -> Float[Array, "*n"]:
    """Huber loss over beta: d^2 / (2 beta) below beta, d - beta / 2 above; `l1` for beta = 0.

    Girshick 2015, Eq. 3 has beta = 1; Detectron's RetinaNet takes 1/9.
    """
    distance = l1(predictions, targets)
    if beta == 0:
        return distance
    return jnp.where(distance < beta, 0.5 / beta * distance**2, distance - 0.5 * beta)


def iou(
    predictions: Float[Array, "*n 4"],
    targets: Float[Array, "*n 4"],
    *,
    form: Literal["linear", "square", "log"] = "linear",
    eps: float = 1e-6,
) -> Float[Array, "*n"]:
    """1 - IoU, 1 - IoU^2 or -log IoU (Yu et al. 2016), with IoU floored at `eps`.

    Boxes that do not meet have no gradient in any form.
    """
    overlap = jnp.maximum(geometry.iou(predictions, targets), eps)
    if form == "log":
        return -jnp.log(overlap)
    return 1.0 - (overlap if form == "linear" else jnp.square(overlap))


def giou(
    predictions: Float[Array, "*n 4"], targets: Float[Array, "*n 4"], *, eps: float = 1e-7
) -> Float[Array, "*n"]:
    """1 - GIoU, in 0..2 (Rezatofighi et al. 2019)."""
    return 1.0 - geometry.giou(predictions, targets, eps=eps)


def diou(
    predictions: Float[Array, "*n 4"], targets: Float[Array, "*n 4"], *, eps: float = 1e-7
) -> Float[Array, "*n"]:
    """1 - DIoU, in 0..2 (Zheng et al. 2020)."""
    return 1.0 - geometry.diou(predictions, targets, eps=eps)


def ciou(
    predictions: Float[Array, "*n 4"],
    targets: Float[Array, "*n 4"],
    *,
    eps: float = 1e-7,
    aspect_above: float = 0.5,
    clamp: bool = True,
) -> Float[Array, "*n"]:
    """1 - CIoU (Zheng et al. 2020); the keywords are those of `boxes.ciou`."""
    value = geometry.ciou(predictions, targets, eps=eps, aspect_above=aspect_above, clamp=clamp)
    return 1.0 - value


def bounded_iou(
    predictions: Float[Array, "*n 4"],
    targets: Float[Array, "*n 4"],
    *,
    beta: float = 0.2,
    eps: float = 1e-3,
) -> Float[Array, "*n 4"]:
    """Smooth L1 of IoU bounds in x, y, width and height (Tychsen-Smith and Petersson 2018)."""
    box, target = geometry.to_centres(predictions), geometry.to_centres(targets)
    shift = l1(box[..., :2], target[..., :2])
    # A side below zero would bring the divisors back to zero.
    side, goal = jnp.maximum(box[..., 2:], 0.0), jnp.maximum(target[..., 2:], 0.0)
    centre = 1.0 - jnp.maximum((goal - 2 * shift) / (goal + 2 * shift + eps), 0.0)
    size = 1.0 - jnp.minimum(goal / (side + eps), side / (goal + eps))
    bound = jnp.concatenate([centre, size], axis=-1)
    return smooth_l1(bound, jnp.zeros_like(bound), beta=beta)


def _power(base: Array, exponent: Number) -> Array:
    """base ** exponent for base >= 0, with a zero gradient at 0 also for exponents below 1."""
    if float(exponent).is_integer():
        return base ** int(exponent)
    safe = jnp.where(base > 0.0, base, 1.0)
    return jnp.where(base > 0.0, safe**exponent, 0.0)


def _focal_and_slope(
    logits: Array, truth: Array, alpha: float, gamma: float
) -> tuple[Array, Array]:
    """Focal loss and its derivative in closed form; `truth` is Boolean or one label per row.

    With u = z for positives and -z otherwise, p_t = sigmoid(u): FL = a (1 - p_t)^g softplus(-u) and
    dFL/du = -a (1 - p_t)^g (1 - p_t + g p_t softplus(-u)). All from one e^-|u| <= 1.
    """
    positive = truth if truth.dtype == bool else one_hot(truth, logits.shape[-1])
    z = logits.astype(jnp.float32)
    u = jnp.where(positive, z, -z)
    decay = jnp.exp(-jnp.abs(u))
    inverse = 1.0 / (1.0 + decay)
    right = jnp.where(u > 0.0, 1.0, decay) * inverse
    wrong = jnp.where(u > 0.0, decay, 1.0) * inverse
    tail = jnp.log1p(decay)
    surprise = jnp.maximum(-u, 0.0) + tail  # softplus(-u) = -log p_t
    if gamma.is_integer():
        modulation = wrong ** int(gamma)
    else:
        modulation = jnp.exp(-gamma * (jnp.maximum(u, 0.0) + tail))  # log(1 - p_t) = -softplus(u)
    value = modulation * surprise
    slope = modulation * (wrong + gamma * right * surprise)
    # The selections stand last: a product feeding a sum directly makes XLA on CPUs fuse the product
    # with the sum and store both of its [A, K] factors.
    return (
        jnp.where(positive, alpha * value, (1.0 - alpha) * value),
        jnp.where(positive, -alpha * slope, (1.0 - alpha) * slope),
    )


# Differentiating step by step keeps half a dozen [A, K] arrays for the backward pass. Here it keeps
# the logits and computes the closed form anew; the barrier stops XLA from undoing that by sharing
# exponentials between the passes. For 2 x 201,600 x 80 logits: 3 MB of temporaries instead of 390.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _focal(logits: Array, truth: Array, alpha: float, gamma: float) -> Array:
    return _focal_and_slope(logits, truth, alpha, gamma)[0]


def _focal_forward(
    logits: Array, truth: Array, alpha: float, gamma: float
) -> tuple[Array, tuple[Array, Array]]:
    return _focal(logits, truth, alpha, gamma), (logits, truth)


def _focal_backward(
    alpha: float, gamma: float, kept: tuple[Array, Array], cotangent: Array
) -> tuple[Array, None]:
    logits, truth = lax.optimization_barrier(kept)
    slope = _focal_and_slope(logits, truth, alpha, gamma)[1] * cotangent
    return slope.astype(logits.dtype), None


_focal.defvjp(_focal_forward, _focal_backward)
