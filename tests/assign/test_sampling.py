"""Random samples: sizes, membership, and that expected weights are the mean of draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.assign import sampling
from anchors_jax.types import Assignment


def assignment(positives, negatives, ignored=5, seed=0):
    kinds = np.repeat([0, 1, 2], [positives, negatives, ignored])
    np.random.default_rng(seed).shuffle(kinds)
    positive = jnp.asarray(kinds == 0)
    return Assignment(
        gt=jnp.zeros(len(kinds), jnp.int32), positive=positive, ignored=jnp.asarray(kinds == 2)
    )


@pytest.mark.parametrize(
    ("positives", "negatives", "want"),
    [
        (3, 40, (3, 13)),  # negatives fill the rest
        (30, 40, (8, 8)),  # at most half of them positive
        (3, 4, (3, 4)),  # not enough of either
        (30, 4, (8, 4)),
        (0, 40, (0, 16)),
        (9, 0, (8, 0)),
    ],
)
def test_sizes(positives, negatives, want):
    given = assignment(positives, negatives)
    drawn = sampling.draw(jax.random.key(1), given, number=16)
    mean = sampling.expected(given, number=16)
    for sample in (drawn, mean):
        assert (sample.positives, sample.negatives) == want
        assert sample.count == max(want[0], 1) + max(want[1], 1)
        in_positives = jnp.sum(jnp.where(given.positive, sample.weight, 0.0))
        np.testing.assert_allclose(in_positives, want[0], rtol=1e-6)
        np.testing.assert_allclose(sample.weight.sum(), sum(want), rtol=1e-6)
        assert not sample.weight[given.ignored].any()
    assert set(np.unique(drawn.weight)) <= {0.0, 1.0}


def test_expected_weights_are_the_mean_of_draws():
    given = assignment(20, 50)
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = functools.partial(sampling.draw, assignment=given, number=16, positive_share=0.25)
    mean = jax.jit(jax.vmap(draw))(keys).weight.mean(axis=0)
    want = sampling.expected(given, number=16, positive_share=0.25).weight
    np.testing.assert_allclose(mean, want, atol=5 * np.sqrt(0.25 / 4000))


def test_draws_depend_on_the_key_alone():
    given = assignment(20, 50)
    draw = jax.jit(functools.partial(sampling.draw, assignment=given, number=16))
    one, same, other = (draw(jax.random.key(seed)).weight for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_without_a_number_everything_counts_once():
    given = assignment(20, 50)
    sample = sampling.expected(given, number=None)
    np.testing.assert_array_equal(sample.weight, ~given.ignored)
    assert sample.count == 70
