"""A mixture of two normal distributions on a line, fitted to a few numbers by EM.

    p(x) = sum_k weight_k N(x; mean_k, variance_k),   k = 0: low values, 1: high values

Everything is written for one set of values with a mask, and mapped over sets by the caller. A
mapped loop runs until the last set has converged and leaves the finished ones as they are. The test
of convergence belongs to the method: with a fixed number of steps a quarter of PAA's sets are cut
elsewhere.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

# Keeps the size of an empty component from zero: ten times float64's epsilon, as in scikit-learn.
_EMPTY = 2.2e-15


class Mixture(NamedTuple):
    """Parameters of the two components. Index 0 is the one that started at the lowest value.

    Means are relative to `origin`, the lowest value: near zero a float32 has more bits for the
    small distances that a narrow component is about.
    """

    origin: Float[Array, "*n"]
    mean: Float[Array, "*n 2"]
    variance: Float[Array, "*n 2"]
    weight: Float[Array, "*n 2"]
    iterations: Int[Array, "*n"]


class _State(NamedTuple):
    mixture: Mixture
    bound: Array  # mean log density under the parameters before the last step
    change: Array


def fit(
    values: Float[Array, "n"],
    used: Bool[Array, "n"],
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    variance_floor: float = 1e-6,
) -> Mixture:
    """Maximum likelihood by EM, from means at the lowest and highest value and variances of 1.

    Kim and Lee 2020 (PAA), Section 3.2, with the constants of the authors' code. Computed in the
    type of `values`. The parameters of a set without values are finite and mean nothing.

    Args:
        values: the numbers, in any order.
        used: which of them count; the others may be anything.
        max_iterations: steps at most.
        tolerance: stop when the mean log density of the values moves by less.
        variance_floor: added to every variance.
    """
    origin = jnp.min(jnp.where(used, values, jnp.inf))
    origin = jnp.where(jnp.any(used), origin, 0.0)
    x = jnp.where(used, values - origin, 0.0)
    count = jnp.maximum(jnp.sum(used, dtype=x.dtype), 1.0)

    def step(state: _State) -> _State:
        joint = _log_joint(x, state.mixture)
        density = jnp.logaddexp(joint[0], joint[1])
        share = jnp.where(used[None], jnp.exp(joint - density[None]), 0.0)
        size = jnp.sum(share, axis=1) + _EMPTY
        mean = jnp.sum(share * x[None], axis=1) / size
        spread = jnp.square(x[None] - mean[:, None])  # E[x^2] - mean^2 can become negative
        variance = jnp.sum(share * spread, axis=1) / size + variance_floor
        bound = jnp.sum(jnp.where(used, density, 0.0)) / count
        mixture = state.mixture._replace(
            mean=mean,
            variance=variance,
            weight=size / jnp.sum(size),
            iterations=state.mixture.iterations + 1,
        )
        return _State(mixture, bound, jnp.abs(bound - state.bound))

    def more(state: _State) -> Array:
        return (state.change >= tolerance) & (state.mixture.iterations < max_iterations)

    ends = jnp.stack([jnp.zeros_like(origin), jnp.max(x)])
    start = Mixture(origin, ends, jnp.ones_like(ends), jnp.full_like(ends, 0.5), jnp.int32(0))
    infinity = jnp.asarray(jnp.inf, x.dtype)
    return lax.while_loop(more, step, _State(start, -infinity, infinity)).mixture


def log_joint(values: Float[Array, "n"], mixture: Mixture) -> Float[Array, "2 n"]:
    """log(weight_k N(x; mean_k, variance_k)) of every value under both components."""
    return _log_joint(values - mixture.origin, mixture)


def separation(mixture: Mixture) -> Float[Array, "*n"]:
    """Distance of the two means in standard deviations (root of the mean variance)."""
    distance = jnp.abs(mixture.mean[..., 1] - mixture.mean[..., 0])
    return distance / jnp.sqrt(jnp.mean(mixture.variance, axis=-1))


def _log_joint(x: Array, mixture: Mixture) -> Array:
    """`log_joint` of values relative to the origin."""
    variance = mixture.variance[:, None]
    distance = jnp.square(x[None] - mixture.mean[:, None]) / variance
    scale = jnp.log(mixture.weight[:, None]) - 0.5 * jnp.log(2.0 * math.pi * variance)
    return scale - 0.5 * distance
