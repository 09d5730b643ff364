"""A random part of an assignment's anchors, as two-stage detectors and Guided Anchoring take it.

    S. Ren, K. He, R. Girshick, J. Sun, "Faster R-CNN", NIPS 2015, arXiv:1506.01497, Section 3.1.3:
    256 anchors of an image, at most half of them positive, negatives for the rest.

`draw` takes the sample. `expected` weighs every anchor with its chance to be in it: sums over a
sample have the weighted sum over all anchors as their mean, and the size of the sample is the same
every time. So a loss that wants the mean needs no random numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from anchors_jax.types import Assignment


class Sample(NamedTuple):
    """Weights of all anchors, and how many positives and negatives they stand for."""

    weight: Float[Array, "A"]  # 0 for ignored anchors
    positives: Float[Array, ""]
    negatives: Float[Array, ""]

    @property
    def count(self) -> Float[Array, ""]:
        """The divisor of the references: at least one of each."""
        return jnp.maximum(self.positives, 1.0) + jnp.maximum(self.negatives, 1.0)


def expected(
    assignment: Assignment, *, number: int | None = 256, positive_share: float = 0.5
) -> Sample:
    """Every anchor weighed with its chance to be drawn.

    Args:
        assignment: of one image.
        number: anchors in a sample; None: all.
        positive_share: the largest part of them that may be positive.
    """
    positive, negative = assignment.positive, _negative(assignment)
    if number is None:
        return Sample(_as_float(positive | negative), _count(positive), _count(negative))
    drawn = _sizes(positive, negative, number, positive_share)
    chance = [
        size / jnp.maximum(_count(mask), 1.0)
        for size, mask in zip(drawn, (positive, negative), strict=True)
    ]
    weight = jnp.where(positive, chance[0], jnp.where(negative, chance[1], 0.0))
    return Sample(weight, *drawn)


def draw(
    key: Array, assignment: Assignment, *, number: int = 256, positive_share: float = 0.5
) -> Sample:
    """Positives and negatives without replacement, uniformly; weights are 0 and 1."""
    positive, negative = assignment.positive, _negative(assignment)
    drawn = _sizes(positive, negative, number, positive_share)
    most = (int(number * positive_share), number)
    chosen = [
        _choose(one, mask, size, limit)
        for one, mask, size, limit in zip(
            jax.random.split(key), (positive, negative), drawn, most, strict=True
        )
    ]
    return Sample(_as_float(chosen[0] | chosen[1]), *drawn)


def _choose(key: Array, mask: Bool[Array, "A"], size: Array, limit: int) -> Bool[Array, "A"]:
    """`size` <= `limit` random members of a set that has at least as many."""
    order = jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0)
    _, index = lax.top_k(order, min(limit, mask.shape[0]))
    used = jnp.arange(index.shape[0]) < size
    return jnp.zeros_like(mask).at[index].set(used)


def _sizes(
    positive: Bool[Array, "A"], negative: Bool[Array, "A"], number: int, positive_share: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    positives = jnp.minimum(_count(positive), float(int(number * positive_share)))
    return positives, jnp.minimum(_count(negative), number - positives)


def _negative(assignment: Assignment) -> Bool[Array, "A"]:
    return ~assignment.positive & ~assignment.ignored


def _as_float(mask: Bool[Array, "A"]) -> Float[Array, "A"]:
    return mask.astype(jnp.float32)


def _count(mask: Bool[Array, "A"]) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)
