"""Ragged pairs in blocks, against a slow loop."""

import numpy as np
import pytest

from anchors_jax.search.flat import ragged_blocks


@pytest.mark.parametrize("most", [1, 5, 1000])
def test_every_pair_stands_in_one_block(most):
    rng = np.random.default_rng(0)
    count = np.concatenate([[0, 0], rng.integers(0, 8, 20), [30, 0]])
    start = rng.integers(0, 100, len(count))
    blocks = list(ragged_blocks(start, count, most=most))
    expected = [(n, start[n] + k) for n in range(len(count)) for k in range(count[n])]
    assert [pair for n, m in blocks for pair in zip(n, m, strict=True)] == expected
    whole = [set(n) for n, _ in blocks]
    assert sum(map(len, whole)) == len(set().union(*whole))  # no n stands in two
    assert all(len(n) <= most or len(set(n)) == 1 for n, _ in blocks)
    assert len(blocks) > 1 or most == 1000


def test_nothing_has_no_blocks():
    nothing = np.zeros(0, np.int64)
    assert list(ragged_blocks(nothing, nothing, most=4)) == []
    (pairs,) = ragged_blocks(np.zeros(3, np.int64), np.zeros(3, np.int64), most=4)
    assert [part.tolist() for part in pairs] == [[], []]
