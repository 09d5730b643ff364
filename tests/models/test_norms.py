"""Normalisation layers against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.models import norms

RNG = np.random.default_rng(0)


def _affine_params(channels):
    scale, bias = RNG.uniform(0.5, 1.5, channels), RNG.normal(size=channels)
    return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}


def _image(*shape, offset=3.0):
    return jnp.asarray(RNG.normal(offset, 2.0, shape), jnp.float32)


@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_frozen_batch_norm_is_the_affine_map_of_its_constants(eps):
    x, params = _image(2, 3, 4, 6), _affine_params(6)
    mean, var = RNG.normal(size=6), RNG.uniform(0.5, 2.0, 6)
    constants = {"mean": mean.astype(np.float32), "var": var.astype(np.float32)}
    layer = norms.FrozenBatchNorm(eps=eps)
    actual = layer.apply({"params": params, "constants": constants}, x, train=True)
    expected = (np.asarray(x) - mean) / np.sqrt(var + eps) * params["scale"] + params["bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_untrained_affine_is_constant():
    layer = norms.FrozenBatchNorm(trainable=False)
    variables = layer.init(jax.random.key(0), _image(1, 2, 2, 4))
    assert set(variables) == {"constants"}
    assert set(variables["constants"]) == {"mean", "var", "scale", "bias"}


@pytest.mark.parametrize(
    ("channels", "options", "expected_groups"),
    [
        (64, {}, 32),
        (48, {}, 16),
        (5, {}, 1),
        (6, {"groups": 4}, 2),
        (32, {"group_size": 8}, 4),
        (6, {"group_size": 4}, 3),
    ],
)
def test_group_norm_matches_its_definition(channels, options, expected_groups):
    x, params = _image(2, 3, 5, channels), _affine_params(channels)
    actual = jax.jit(norms.GroupNorm(**options).apply)({"params": params}, x)
    grouped = np.asarray(x, np.float64).reshape(2, 15, expected_groups, -1)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    normal = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(actual, normal * params["scale"] + params["bias"], atol=2e-5)


def test_group_norm_of_a_constant_map_is_finite_with_gradient():
    layer = norms.GroupNorm()
    x = jnp.full((1, 2, 2, 8), 7.0)
    params = layer.init(jax.random.key(0), x)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(layer.apply(params, x) ** 3)))(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_group_norm_treats_images_apart():
    layer, x = norms.GroupNorm(), _image(3, 4, 4, 8)
    params = layer.init(jax.random.key(0), x)
    together = layer.apply(params, x)
    np.testing.assert_allclose(together[1:2], layer.apply(params, x[1:2]), rtol=1e-5, atol=1e-6)


def test_batch_norm_normalises_by_the_batch_and_keeps_running_averages():
    layer, x = norms.BatchNorm(momentum=0.8), _image(4, 3, 3, 5)
    variables = layer.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)  # init is no step
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = np.asarray(x, np.float64).reshape(-1, 5)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 5), expected, atol=1e-5)
    stats = jax.tree.map(np.asarray, updates["batch_stats"])
    np.testing.assert_allclose(stats["mean"], 0.2 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.8 + 0.2 * flat.var(0, ddof=1), rtol=1e-5)
    variables = {**variables, **updates}
    evaluated = layer.apply(variables, x)
    expected = (flat - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(evaluated.reshape(-1, 5), expected, atol=1e-5)


def test_synchronised_batch_norm_on_two_devices_equals_one_with_the_whole_batch():
    x = _image(4, 3, 3, 5)
    target = _image(4, 3, 3, 5)
    one, two = norms.BatchNorm(), norms.BatchNorm(axis_name="batch")
    variables = one.init(jax.random.key(0), x)

    def step(layer, x, target):
        def loss(params):
            y, updates = layer.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(y * target), (y, updates)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (_, (y, updates)), gradient = jax.jit(functools.partial(step, one))(x, target)

    def device_step(x, target):
        (_, aux), gradient = step(two, x, target)
        return aux, jax.lax.pmean(gradient, "batch")

    halves = (x.reshape(2, 2, *x.shape[1:]), target.reshape(2, 2, *x.shape[1:]))
    (y2, updates2), gradient2 = jax.pmap(device_step, axis_name="batch")(*halves)
    np.testing.assert_allclose(y2.reshape(y.shape), y, rtol=1e-5, atol=1e-5)
    for device in (0, 1):
        mine, gradient_mine = jax.tree.map(lambda a, d=device: a[d], (updates2, gradient2))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mine, updates)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            gradient_mine,
            gradient,
        )


@pytest.mark.parametrize("norm", [norms.FrozenBatchNorm, norms.BatchNorm, norms.GroupNorm])
def test_half_precision_computes_in_float32(norm):
    """A large offset would drown the signal if statistics were taken in bfloat16."""
    x = _image(2, 4, 4, 8, offset=50.0).astype(jnp.bfloat16)
    layer = norm(dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    half, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    full, _ = norm().apply(variables, x.astype(jnp.float32), train=True, mutable=["batch_stats"])
    assert half.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=1e-2, atol=1e-2)
