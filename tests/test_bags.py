import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import bags


def mean_max(p):
    """Of probabilities, all of them members."""
    p = jnp.asarray(p, jnp.float32)
    return jnp.exp(bags.log_mean_max(jnp.log(p), jnp.ones(p.shape, bool)))


EXAMPLES = [
    ([0.0, 0.5], 0.333333),
    ([0.1, 0.9], 0.82),
    ([0.1, 0.1, 0.1, 0.99], 0.961290),
    ([0.01] * 50, 0.01),
    ([0.01] * 49 + [0.9], 0.159593),
    ([1.0, 0.3], 1.0),
    ([0.37], 0.37),
    ([1e-8, 1e-8], 1e-8),
]


@pytest.mark.parametrize(("p", "want"), EXAMPLES)
def test_mean_max_by_hand(p, want):
    got = mean_max(p)
    assert float(got) == pytest.approx(want, rel=3e-6)
    assert np.mean(p) * (1 - 1e-5) <= got <= max(p) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("p", "want"),
    [
        ([0.1, 0.9], [0.02, 1.62]),
        ([0.2] * 4, [0.25] * 4),
        ([0.1, 0.1, 0.1, 0.99], [4.6248e-4] * 3 + [3.74610]),
    ],
)
def test_its_gradient_passes_through_the_weights(p, want):
    np.testing.assert_allclose(jax.grad(mean_max)(jnp.asarray(p)), want, rtol=2e-5)


def test_mean_max_against_float64():
    rng = np.random.default_rng(0)
    for scale in (0.01, 1.0, 30.0):
        log_p = -rng.exponential(scale, (200, 7))
        member = rng.random((200, 7)) < 0.8
        member[:, 0] = True
        weight = np.where(member, 1.0 / -np.expm1(log_p), 0.0)
        want = np.log((weight * np.exp(log_p)).sum(1)) - np.log(weight.sum(1))
        arguments = jnp.asarray(log_p, jnp.float32), jnp.asarray(member)
        got = bags.log_mean_max(*arguments)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
        slopes = jax.grad(lambda x, m: bags.log_mean_max(x, m).sum())(*arguments)
        count = member.sum(1, keepdims=True)
        share = weight / weight.sum(1, keepdims=True)
        want = count * np.exp(log_p) * share**2 / np.exp(want)[:, None]
        np.testing.assert_allclose(slopes, want, rtol=1e-3, atol=1e-6)


def test_next_to_certain_members_have_bounded_gradients():
    log_p = jnp.asarray([0.0, -1e-9, -1e-7, -1e-4, -3.0, -jnp.inf])
    member = jnp.asarray([True, True, True, True, True, True])
    value, slopes = jax.value_and_grad(bags.log_mean_max)(log_p, member)
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(slopes).all()
    assert ((slopes >= 0) & (slopes <= 6)).all()


def test_what_is_no_member_does_not_count():
    log_p, member = jnp.asarray([-1.0, 0.0, -2.0]), jnp.asarray([True, False, True])
    got = jax.value_and_grad(bags.log_mean_max)(log_p, member)
    want = jax.value_and_grad(bags.log_mean_max)(log_p[::2], member[::2])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[1][::2], want[1], rtol=1e-6)
    assert got[1][1] == 0.0
    nobody = jax.value_and_grad(bags.log_mean_max)(log_p, jnp.zeros(3, bool))
    assert all(np.isfinite(x).all() for x in nobody)
    impossible = jax.value_and_grad(bags.log_mean_max)(jnp.full(3, -jnp.inf), jnp.ones(3, bool))
    assert all(np.isfinite(x).all() for x in impossible)


def test_weights_and_their_entropy():
    everyone = jnp.ones(4, bool)
    p = np.array([0.1, 0.1, 0.1, 0.99])
    weights = np.exp(bags.log_weights(jnp.log(jnp.asarray(p, jnp.float32)), everyone))
    np.testing.assert_allclose(weights, (1 / (1 - p)) / (1 / (1 - p)).sum(), rtol=1e-5)
    alike = bags.log_weights(jnp.full(4, -2.0), everyone)
    assert float(bags.entropy(alike)) == pytest.approx(np.log(4), rel=1e-6)
    two = bags.log_weights(jnp.full(4, -2.0), jnp.asarray([True, False, True, False]))
    assert float(bags.entropy(two)) == pytest.approx(np.log(2), rel=1e-6)
    one = bags.log_weights(jnp.asarray([0.0, -2.0, -2.0, -2.0]), everyone)
    assert float(bags.entropy(one)) == pytest.approx(0.0, abs=1e-6)


def test_saturated_by_hand():
    t = np.float32(0.6)
    rows = np.array(
        [[0.3, 0.6, 0.7, 0.8], [0.6, 0.3, 0, 0], [0.5, 0.1, 0, 0], [np.nextafter(t, 1), t, 0, 0]],
        np.float32,
    )
    want = [[0, 0, 0.5, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    rows = jnp.asarray(rows)
    got = bags.saturated(rows, rows.max(axis=1, keepdims=True), threshold=float(t))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert got[0, 3] == got[3, 0] == 1.0
