"""Random samples: sizes, membership, and that expected weights are the mean of draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import selection
from anchors_jax.anchors import free
from anchors_jax.types import Assignment


def assignment(positives, negatives, ignored=5, seed=0):
    kinds = np.repeat([0, 1, 2], [positives, negatives, ignored])
    np.random.default_rng(seed).shuffle(kinds)
    positive = jnp.asarray(kinds == 0)
    return Assignment(
        gt=jnp.zeros(len(kinds), jnp.int32), positive=positive, ignored=jnp.asarray(kinds == 2)
    )


def nothing():
    raise AssertionError("samples do not look at losses")


def expected(given, **keywords):
    return selection.expected(given, anchors_of(given), nothing, None, **keywords)


def drawn(key, given, **keywords):
    return selection.drawn(given, anchors_of(given), nothing, key, **keywords)


def anchors_of(given):
    count = len(given.positive)
    return free(jnp.zeros((count, 4)), jnp.ones(count, bool))


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
    random, mean = drawn(jax.random.key(1), given, number=16), expected(given, number=16)
    for sample in (random, mean):
        assert sample.count == max(want[0], 1) + max(want[1], 1)
        in_positives = jnp.sum(jnp.where(given.positive, sample.weight, 0.0))
        np.testing.assert_allclose(in_positives, want[0], rtol=1e-6)
        np.testing.assert_allclose(sample.weight.sum(), sum(want), rtol=1e-6)
        np.testing.assert_array_equal(sample.trained, sample.weight > 0)
        assert not sample.trained[given.ignored].any()
    assert set(np.unique(random.weight)) <= {0.0, 1.0}


def test_expected_weights_are_the_mean_of_draws():
    given = assignment(20, 50)
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = functools.partial(drawn, given=given, number=16, positive_share=0.25)
    mean = jax.jit(jax.vmap(draw))(keys).weight.mean(axis=0)
    want = expected(given, number=16, positive_share=0.25).weight
    np.testing.assert_allclose(mean, want, atol=5 * np.sqrt(0.25 / 4000))


def test_draws_depend_on_the_key_alone():
    given = assignment(20, 50)
    draw = jax.jit(functools.partial(drawn, given=given, number=16))
    one, same, other = (draw(jax.random.key(seed)).weight for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_without_a_number_everything_counts_once():
    given = assignment(20, 50)
    sample = expected(given, number=None)
    np.testing.assert_array_equal(sample.weight, ~given.ignored)
    assert sample.count == 70


def test_nothing_is_drawn_without_a_key():
    with pytest.raises(ValueError, match="there is no key"):
        drawn(None, assignment(2, 5))
