"""Backbones: geometry on even and odd sides, options, and what freezing means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from anchors_jax.models import layers, norms, resnet

RNG = np.random.default_rng(0)


def _image(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def _padded_by_hand(x, kernel, stride, pad, groups=1):
    """A convolution without any padding of its own, in numpy loops over the taps."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    size, _, per_group, features = kernel.shape
    rows = (x.shape[1] - size) // stride + 1
    columns = (x.shape[2] - size) // stride + 1
    out = np.zeros((x.shape[0], rows, columns, features))
    share = features // groups
    for i in range(size):
        for j in range(size):
            taps = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            for g in range(groups):
                wanted = slice(g * share, (g + 1) * share)
                part = taps[..., g * per_group : (g + 1) * per_group]
                out[..., wanted] += part[:, :rows, :columns] @ kernel[i, j, :, wanted]
    return out


@pytest.mark.parametrize("side", [(8, 6), (7, 9)])
@pytest.mark.parametrize(("stride", "groups"), [(2, 1), (1, 1), (2, 2)])
def test_convolution_pads_one_pixel_on_every_side(side, stride, groups):
    x = _image(2, *side, 4)
    layer = layers.conv(6, 3, stride=stride, use_bias=False, feature_group_count=groups)
    variables = layer.init(jax.random.key(0), x)
    expected = _padded_by_hand(x, variables["params"]["kernel"], stride, 1, groups)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("side", [(8, 6), (7, 9), (13, 12)])
def test_stem_is_a_seven_by_seven_convolution_with_stride_two(side):
    x = _image(2, *side, 3)
    layer = layers.StemConv(5, kernel_init=resnet.he_normal)
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].shape == (7, 7, 3, 5)
    expected = _padded_by_hand(x, variables["params"]["kernel"], 2, 3)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("side", [(8, 6), (7, 9)])
def test_max_pool_is_the_padded_window_maximum_in_value_and_gradient(side):
    x = -jnp.abs(_image(2, *side, 3))  # negative: zero padding would show
    pool = functools.partial(layers.max_pool, size=3, stride=2)
    window = lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # noqa: E731
    np.testing.assert_array_equal(pool(x), window(x))
    weight = _image(*window(x).shape)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x) * weight))(x) for f in (pool, window)]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(800, 1344), (97, 65)])
def test_output_sizes_halve_rounding_up(height, width):
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    model = resnet.ResNet(depth=50, outputs=(2, 3, 4, 5))
    maps = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)
    expected = [
        (1, -(-height // s), -(-width // s), 256 * 2**i) for i, s in enumerate((4, 8, 16, 32))
    ]
    assert [m.shape for m in maps] == expected


def test_stages_after_the_last_output_are_not_built():
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = lambda **kw: jax.eval_shape(  # noqa: E731
        resnet.ResNet(depth=18, **kw).init, jax.random.key(0), image
    )
    names = set(init(outputs=(3,))["params"])
    assert any(n.startswith("layer2") for n in names)
    assert not any(n.startswith(("layer3", "layer4")) for n in names)


def _strides(style, **options):
    """Output rows of the convolutions in the first block of the second stage."""
    image = jnp.zeros((1, 32, 32, 3))
    model = resnet.ResNet(depth=50, width=8, style=style, outputs=(3,), **options)

    def apply(x):
        variables = model.init(jax.random.key(0), x)
        return model.apply(variables, x, capture_intermediates=True, mutable="intermediates")

    _, state = jax.eval_shape(apply, image)
    block = state["intermediates"]["layer2_0"]
    return [block[f"conv{i}"]["__call__"][0].shape[1] for i in (1, 2, 3)]


def test_style_moves_the_stride():
    assert _strides("pytorch") == [8, 4, 4]
    assert _strides("caffe") == [4, 4, 4]


@pytest.mark.parametrize(
    ("factory", "inner"),
    [
        (resnet.resnext50_32x4d, 128),
        (resnet.resnext101_32x4d, 128),
        (resnet.resnext101_32x8d, 256),
        (resnet.resnext101_64x4d, 256),
    ],
)
def test_resnext_inner_width_is_grouped(factory, inner):
    model = factory(outputs=(2,), frozen_stages=1)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    block = jax.eval_shape(model.init, jax.random.key(0), image)["params"]["layer1_0"]
    assert block["conv2"]["kernel"].shape == (3, 3, inner // model.groups, inner)
    assert block["conv3"]["kernel"].shape == (1, 1, inner, 256)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 20},
        {"style": "tensorflow"},
        {"groups": 32, "style": "caffe"},
        {"depth": 18, "groups": 2},
        {"outputs": (6,)},
        {"outputs": ()},
        {"frozen_stages": 5},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        resnet.ResNet(**options)


@functools.cache
def _gradients(frozen_stages, norm):
    """Model, variables but parameters, gradients, and what training writes."""
    model = resnet.ResNet(depth=18, width=4, outputs=(3,), frozen_stages=frozen_stages, norm=norm)
    image = _image(2, 32, 32, 3)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        maps, updates = model.apply(
            {"params": params, **rest}, image, train=True, mutable=["batch_stats", "constants"]
        )
        return jnp.sum(jnp.square(maps[-1])), updates

    gradients, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return model, rest, gradients, updates


@pytest.mark.parametrize("frozen_stages", [0, 1])
def test_frozen_submodules_are_exactly_those_without_gradient(frozen_stages):
    model, _, gradients, _ = _gradients(frozen_stages, norms.FrozenBatchNorm)
    still = {
        name
        for name, tree in gradients.items()
        if all((np.asarray(g) == 0).all() for g in jax.tree.leaves(tree))
    }
    assert still == model.frozen_names()
    assert ("layer1_1" in still) == (frozen_stages == 1)


def test_frozen_batch_norm_never_changes_its_constants():
    _, before, _, after = _gradients(0, norms.FrozenBatchNorm)
    assert "batch_stats" not in before
    jax.tree.map(np.testing.assert_array_equal, after["constants"], before["constants"])


def test_batch_norm_moves_outside_the_frozen_stages_only():
    model, before, _, after = _gradients(1, norms.BatchNorm)
    for name, stats in before["batch_stats"].items():
        same = jax.tree.map(np.array_equal, stats, after["batch_stats"][name])
        assert all(jax.tree.leaves(same)) == (name in model.frozen_names()), name


def test_zero_init_residual_makes_blocks_the_identity():
    model = resnet.ResNet(depth=18, width=4, outputs=(2,), zero_init_residual=True)
    image = _image(1, 16, 16, 3)

    @jax.jit
    def apply(image):
        variables = model.init(jax.random.key(0), image)
        return model.apply(variables, image, capture_intermediates=True, mutable="intermediates")

    _, state = apply(image)
    state = state["intermediates"]
    np.testing.assert_allclose(
        state["layer1_1"]["__call__"][0], state["layer1_0"]["__call__"][0], rtol=1e-6
    )
