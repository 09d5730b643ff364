"""Intervals against values in closed form."""

import math

import numpy as np
import pytest

from experiments.reporting import statistics

# Quantiles of Student's t at 97.5 %: closed forms for 1, 2 and 4 degrees of freedom.
P = 0.975
TWO = (2 * P - 1) / math.sqrt(2 * P * (1 - P))
ALPHA = 4 * P * (1 - P)
FOUR = 2 * math.sqrt(math.cos(math.acos(math.sqrt(ALPHA)) / 3) / math.sqrt(ALPHA) - 1)


@pytest.mark.parametrize(
    ("degrees", "want"), [(1, math.tan(math.pi * (P - 0.5))), (2, TWO), (4, FOUR)]
)
def test_quantiles_of_student(degrees, want):
    assert statistics.t_quantile(degrees) == pytest.approx(want, rel=1e-9)


def test_two_values_have_the_interval_of_one_degree_of_freedom():
    found = statistics.interval([1.0, 3.0])
    # s = sqrt(2), s / sqrt(2) = 1
    assert (found.mean, found.count) == (2.0, 2)
    assert found.half == pytest.approx(math.tan(math.pi * 0.475))


def test_three_values():
    found = statistics.interval([40.0, 41.0, 42.0])
    assert found.half == pytest.approx(TWO / math.sqrt(3))


def test_one_value_has_no_interval_and_none_no_mean():
    found = statistics.interval([5.0])
    assert (found.mean, found.half, found.sign) == (5.0, None, 0)
    with pytest.raises(ValueError, match="no mean"):
        statistics.interval([])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for values in rng.normal(3.0, 2.0, (2000, 3)):
        found = statistics.interval(values.tolist())
        hits += abs(found.mean - 3.0) <= found.half
    assert 0.93 < hits / 2000 < 0.97


def test_pairs_cancel_what_a_seed_does_to_both():
    base = {0: 10.0, 1: 20.0, 2: 30.0, 7: 99.0}
    ours = {0: 11.0, 1: 21.5, 2: 31.5, 8: 0.0}
    found = statistics.paired(ours, base)
    assert found.count == 3
    assert found.mean == pytest.approx(4 / 3)
    assert found.half == pytest.approx(TWO * math.sqrt(1 / 12) / math.sqrt(3))
    assert found.sign == 1
    assert statistics.paired(base, ours).sign == -1
    assert statistics.paired({0: 1.0}, {1: 1.0}) is None
    assert statistics.interval([1.0, 3.0]).sign == 0  # 2 +- 12.7
