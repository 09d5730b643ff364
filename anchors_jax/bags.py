"""Bags of candidate anchors: at least one of them should explain their object.

    X. Zhang, F. Wan, C. Liu, R. Ji, Q. Ye, "FreeAnchor: Learning to Match Anchors for Visual Object
    Detection", NeurIPS 2019, arXiv:1909.02466.

Probabilities travel as logarithms: those of a fresh network underflow when they are multiplied, and
1 - p cancels when p is near 1.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

# The weight of a member is at most 1 over this.
_SMALLEST_COMPLEMENT = 1e-12
# Log weight of non-members: underflows to 0 next to any member, and sums of it stay finite.
_NO_WEIGHT = -1e9
# A finite logarithm of 0: differences of infinities are no numbers.
_LOWEST = -1e30
# exp(-80) is a normal number in float32.
_LARGEST_LOGIT = 80.0


def log_mean_max(log_p: Float[Array, "*b n"], member: Bool[Array, "*b n"]) -> Float[Array, "*b"]:
    """Logarithm of Mean-max: the mean of p with weights 1 / (1 - p) (FreeAnchor, section 3.3).

    Between the mean and the maximum of the members: the mean while all are alike, so that all of a
    bag learn, and the maximum once one p nears 1. The gradient passes through the weights. It is
    n / (1 - p)^2 / (sum 1 / (1 - p))^2 with respect to p, in 0..n; taking it step by step instead
    would multiply differences of almost equal numbers by 1 / (1 - p).

    Args:
        log_p: logarithms of probabilities, at most 0; -inf is allowed.
        member: which entries count. Without any the result is finite and means nothing.
    """
    return _log_mean_max(jnp.where(member, jnp.maximum(log_p, _LOWEST), -1.0), member)


def log_weights(log_p: Float[Array, "*b n"], member: Bool[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Logarithms of the weights that Mean-max gives to the members; the weights sum to 1."""
    raw = _raw_log_weights(jnp.where(member, log_p, -1.0), member)
    return raw - jax.nn.logsumexp(raw, axis=-1, keepdims=True)


def entropy(log_weights: Float[Array, "*b n"]) -> Float[Array, "*b"]:
    """Entropy of normalised weights in nats: log n while all are alike, 0 when one has it all."""
    return -jnp.sum(jnp.exp(log_weights) * jnp.maximum(log_weights, _NO_WEIGHT), axis=-1)


def saturated(
    overlap: Float[Array, "*#b"], peak: Float[Array, "*#b"], *, threshold: float
) -> Float[Array, "*#b"]:
    """Confidence in 0..1 that a box localises an object (FreeAnchor, section 3.2): linear in IoU.

    0 up to the threshold, 1 at the object's peak. An object whose peak does not exceed the
    threshold has none.

    Args:
        overlap: IoU of boxes with an object.
        peak: the largest IoU that the object reaches with any box.
        threshold: t1 of the paper.
    """
    reached = peak > threshold
    # Flooring the divisor instead, as the references do, is 0 / 0 for a peak at the threshold.
    share = (overlap - threshold) / jnp.where(reached, peak - threshold, 1.0)
    return jnp.where(reached, jnp.clip(share, 0.0, 1.0), 0.0)


def negative(
    logits: Float[Array, "*#b"], match: Float[Array, "*#b"], *, gamma: float, log_limit: float
) -> tuple[Float[Array, "*#b"], Float[Array, "*#b"]]:
    """q^gamma * -log(1 - q) with q = p (1 - match), p = sigmoid(logit); and its derivative.

    Section 3.2 with the focal loss of section 3.3: the better an anchor localises an object of the
    class, the less it is punished for its score. All from one e^-|z| <= 1: -log(1 - q) = log1p(r)
    with r = q / (1 - q), where neither q near 0 nor q near 1 loses digits; the derivative is
    q^gamma (1 - p) (gamma * -log(1 - q) + r).

    Args:
        logits: before the sigmoid.
        match: confidence in 0..1 that the anchor localises an object of the class.
        gamma: focusing exponent.
        log_limit: -log(1 - q) is limited to this, without a gradient beyond; may be infinite.
    """
    z = logits.astype(jnp.float32)
    decay = jnp.exp(-jnp.minimum(jnp.abs(z), _LARGEST_LOGIT))
    above, below = jnp.where(z > 0.0, 1.0, decay), jnp.where(z > 0.0, decay, 1.0)
    inverse = 1.0 / (1.0 + decay)
    odds = (1.0 - match) * above / (below + match * above)
    beyond = jnp.where(match == 0.0, jnp.maximum(z - _LARGEST_LOGIT, 0.0), 0.0)
    surprise = jnp.log1p(odds) + beyond
    q = above * inverse * (1.0 - match)
    power = q ** int(gamma) if float(gamma).is_integer() else q**gamma
    within = surprise < log_limit
    surprise = jnp.minimum(surprise, log_limit)
    value = power * surprise
    return value, power * below * inverse * (gamma * surprise + jnp.where(within, odds, 0.0))


def _raw_log_weights(log_p: Array, member: Array) -> Array:
    """-log(1 - p), from the one of two forms that is accurate; p next to 1 is kept from it."""
    near = log_p > -math.log(2.0)
    small = jnp.maximum(-jnp.expm1(jnp.where(near, log_p, -1.0)), _SMALLEST_COMPLEMENT)
    large = -jnp.exp(jnp.where(near, -1.0, log_p))
    return jnp.where(member, -jnp.where(near, jnp.log(small), jnp.log1p(large)), _NO_WEIGHT)


@jax.custom_jvp
def _log_mean_max(log_p: Array, member: Array) -> Array:
    raw = _raw_log_weights(log_p, member)
    return jax.nn.logsumexp(raw + log_p, axis=-1) - jax.nn.logsumexp(raw, axis=-1)


@_log_mean_max.defjvp
def _log_mean_max_jvp(primals: tuple[Array, Array], tangents: tuple) -> tuple[Array, Array]:
    log_p, member = primals
    value = _log_mean_max(log_p, member)
    weights = log_weights(log_p, member)
    count = jnp.maximum(jnp.sum(member, axis=-1, keepdims=True), 1).astype(log_p.dtype)
    slope = jnp.exp(log_p + jnp.log(count) + 2.0 * weights - value[..., None])
    slope = jnp.where(member, slope, 0.0)
    return value, jnp.sum(slope * tangents[0], axis=-1)
