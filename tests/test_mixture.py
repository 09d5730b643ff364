"""The mixture of two normals: a slow reference, reference values, degenerate sets, masks."""

import functools
import math

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import mixture


def slow_fit(values, tolerance=1e-3, max_iterations=100):
    """EM from the formulas, number by number, in double precision."""
    x = sorted(float(v) for v in values)
    mean, variance, weight = [x[0], x[-1]], [1.0, 1.0], [0.5, 0.5]
    before, steps = -math.inf, 0
    while steps < max_iterations:
        steps += 1
        bound, shares = 0.0, []
        for v in x:
            joint = slow_joint(v, mean, variance, weight)
            density = max(joint) + math.log(sum(math.exp(j - max(joint)) for j in joint))
            bound += density / len(x)
            shares.append([math.exp(j - density) for j in joint])
        sizes = [sum(s[k] for s in shares) + 2.2e-15 for k in (0, 1)]
        for k in (0, 1):
            mean[k] = sum(s[k] * v for s, v in zip(shares, x, strict=True)) / sizes[k]
            spread = sum(s[k] * (v - mean[k]) ** 2 for s, v in zip(shares, x, strict=True))
            variance[k] = spread / sizes[k] + 1e-6
        weight = [size / sum(sizes) for size in sizes]
        if abs(bound - before) < tolerance:
            break
        before = bound
    return mean, variance, weight, steps


def slow_joint(value, mean, variance, weight):
    return [
        math.log(w) - 0.5 * math.log(2 * math.pi * v) - (value - m) ** 2 / (2 * v)
        for m, v, w in zip(mean, variance, weight, strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("tolerance", "max_iterations", "variance_floor"))
def fit_sets(values, used, **keywords):
    """Fitted mixtures, and the log density of each value under both components."""
    fitted = jax.vmap(functools.partial(mixture.fit, **keywords))(values, used)
    return fitted, jax.vmap(mixture.log_joint)(values, fitted)


def padded(sets, slots=45, filler=np.nan):
    """Rows of one length, and which of their entries are used."""
    values = np.full((len(sets), slots), filler)
    for row, numbers in zip(values, sets, strict=True):
        row[: len(numbers)] = numbers
    count = np.array([len(numbers) for numbers in sets])
    return values, np.arange(slots)[None] < count[:, None]


def fit64(sets, **keywords):
    values, used = padded(sets)
    with jax.enable_x64(True):
        fitted, joint = fit_sets(jnp.asarray(values), jnp.asarray(used), **keywords)
        assert fitted.mean.dtype == fitted.variance.dtype == jnp.float64
        mean = fitted.mean + fitted.origin[:, None]
        return jax.tree.map(np.asarray, (fitted._replace(mean=mean), joint))


def test_equals_the_slow_reference():
    random = np.random.default_rng(0)
    sets = [
        np.concatenate([random.normal(1, 0.3, n), random.normal(random.uniform(1, 4), 0.5, m)])
        for n, m in random.integers(1, 20, (40, 2))
    ]
    fitted, joint = fit64(sets)
    for row, values in enumerate(sets):
        mean, variance, weight, steps = slow_fit(values)
        np.testing.assert_allclose(fitted.mean[row], mean, rtol=1e-9)
        np.testing.assert_allclose(fitted.variance[row], variance, rtol=1e-9)
        np.testing.assert_allclose(fitted.weight[row], weight, rtol=1e-9)
        assert fitted.iterations[row] == steps
        expected = [slow_joint(v, mean, variance, weight) for v in values]
        np.testing.assert_allclose(joint[row].T[: len(values)], expected, rtol=1e-7)


PINNED = {
    "basic": (
        (0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4),
        5, (1.0375, 3.233333), (0.01172, 0.02889), (4 / 7, 3 / 7),
    ),
    "stops early": (
        (0.7, 1.0, 1.3, 2.1, 2.3, 2.9, 3.4, 3.9), 5, (1.3259, 3.1167), (0.3387, 0.3951), None,
    ),
    "equal": ((2.0, 2.0, 2.0, 2.0), 3, (2.0, 2.0), (1e-6, 1e-6), (0.5, 0.5)),
    "wide": ((0.5, 1.0, 1.1, 1.2, 1.25, 2.0), 18, None, None, None),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sets_worked_out_by_hand(dtype):
    values, used = padded([numbers for numbers, *_ in PINNED.values()])
    with jax.enable_x64(dtype is np.float64):
        fitted, _ = fit_sets(jnp.asarray(values, dtype), jnp.asarray(used))
    for row, (_, steps, *parameters) in enumerate(PINNED.values()):
        assert fitted.iterations[row] == steps
        got = fitted.mean[row] + fitted.origin[row], fitted.variance[row], fitted.weight[row]
        for value, want in zip(got, parameters, strict=True):
            if want is not None:
                np.testing.assert_allclose(value, want, rtol=5e-4)


def test_convergence_is_part_of_the_method():
    fitted, _ = fit64([PINNED["stops early"][0]], tolerance=0.0)
    assert fitted.iterations[0] == 100
    assert abs(fitted.mean[0, 0] - 1.3259) > 0.1


@golden_cases.cases("paa_gmm")
def test_reference_parameters_and_components(case):
    arrays = case.arrays
    count = arrays["n"]
    sets = [row[:n] for row, n in zip(arrays["x"], count, strict=True)]
    names = {"max_iterations": "max_iter", "tolerance": "tol", "variance_floor": "reg_covar"}
    keywords = {ours: case.params[theirs] for ours, theirs in names.items()}
    fitted, joint = fit64(sets, **keywords)
    several = count > 1
    np.testing.assert_array_equal(fitted.iterations[several], arrays["n_iter"][several])
    for got, name in ((fitted.mean, "mu"), (fitted.variance, "var"), (fitted.weight, "weight")):
        np.testing.assert_allclose(got[several], arrays[name][several], rtol=1e-9, atol=1e-12)
    used = (arrays["component"] >= 0) & several[:, None]
    low, high = joint[:, 0][used], joint[:, 1][used]
    np.testing.assert_array_equal(high > low, arrays["component"][used])
    density = np.logaddexp(low, high)
    np.testing.assert_allclose(density, arrays["log_density"][used], rtol=1e-9, atol=1e-9)


@golden_cases.cases("paa_gmm")
def test_float32_finds_the_same_components(case):
    arrays = case.arrays
    values, used = padded([r[:n] for r, n in zip(arrays["x"], arrays["n"], strict=True)])
    fitted, joint = fit_sets(jnp.asarray(values, jnp.float32), jnp.asarray(used))
    rows = arrays["stable"] & (arrays["n"] > 1)
    same = (fitted.iterations == arrays["n_iter"]) & rows  # it may stop one step later
    assert same.sum() > 0.9 * rows.sum()
    mean = fitted.mean + fitted.origin[:, None]
    np.testing.assert_allclose(mean[same], arrays["mu"][same], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(fitted.variance[same], arrays["var"][same], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(fitted.weight[same], arrays["weight"][same], rtol=1e-3, atol=1e-5)
    inside = used & rows[:, None]
    component = np.asarray(joint[:, 1] > joint[:, 0])
    np.testing.assert_array_equal(component[inside], arrays["component"][inside])


@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e8, -1e30])
def test_unused_slots_do_not_matter(filler):
    random = np.random.default_rng(1)
    sets = [random.exponential(2, n) for n in (0, 1, 2, 9, 45)]
    values, used = padded(sets, filler=filler)
    zero, _ = padded(sets, filler=0.0)
    got, _ = fit_sets(jnp.asarray(values, jnp.float32), jnp.asarray(used))
    want, _ = fit_sets(jnp.asarray(zero, jnp.float32), jnp.asarray(used))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


def test_sets_do_not_wait_for_each_other():
    sets = [numbers for numbers, *_ in PINNED.values()]
    together, _ = fit64(sets)
    for row, numbers in enumerate(sets):
        alone, _ = fit64([numbers])
        jax.tree.map(
            lambda a, b, row=row: np.testing.assert_array_equal(a[0], b[row]), alone, together
        )


def test_order_of_the_values_does_not_matter_and_the_fit_moves_with_them():
    random = np.random.default_rng(2)
    numbers = random.exponential(2, 12)
    first, shuffled, moved = (
        jax.tree.map(
            lambda leaf, row=row: leaf[row],
            fit64([numbers, random.permutation(numbers), numbers + 100.0])[0],
        )
        for row in range(3)
    )
    np.testing.assert_allclose(shuffled.mean, first.mean, rtol=1e-9)
    np.testing.assert_allclose(moved.mean, first.mean + 100.0, rtol=1e-9)
    np.testing.assert_allclose(moved.variance, first.variance, rtol=1e-9)


def test_separation_is_the_distance_in_standard_deviations():
    mix = mixture.Mixture(
        origin=jnp.float32(7.0),
        mean=jnp.asarray([0.0, 6.0]),
        variance=jnp.asarray([1.0, 7.0]),
        weight=jnp.asarray([0.5, 0.5]),
        iterations=jnp.int32(3),
    )
    assert float(mixture.separation(mix)) == pytest.approx(3.0)
