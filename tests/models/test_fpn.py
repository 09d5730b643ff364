"""The pyramid: sizes, the top-down path on odd maps, the sources of P6 and P7, initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.models import fpn, layers, norms, resnet

RNG = np.random.default_rng(0)


def _maps(*sizes, channels=(4, 6, 8)):
    return tuple(
        jnp.asarray(RNG.normal(size=(2, *size, c)), jnp.float32)
        for size, c in zip(sizes, channels, strict=True)
    )


@pytest.mark.parametrize(
    ("canvas", "sizes"),
    [
        ((800, 1344), [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]),
        ((320, 320), [(40, 40), (20, 20), (10, 10), (5, 5), (3, 3)]),
        ((200, 252), [(25, 32), (13, 16), (7, 8), (4, 4), (2, 2)]),
    ],
)
def test_sizes_for_a_canvas(canvas, sizes):
    backbone, neck = resnet.ResNet(depth=18), fpn.FPN()

    def pyramid(image):
        maps, _ = backbone.init_with_output(jax.random.key(0), image)
        return neck.init_with_output(jax.random.key(0), maps)[0]

    maps = jax.eval_shape(pyramid, jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32))
    assert [m.shape for m in maps] == [(1, *size, 256) for size in sizes]


def test_upsampling_repeats_each_pixel_where_sizes_fit():
    (x,) = _maps((3, 4), channels=(5,))
    expected = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(layers.upsample(x, 6, 8), expected)


@pytest.mark.parametrize(("rows", "columns"), [(5, 8), (6, 7), (5, 7), (1, 1), (13, 25)])
def test_upsampling_to_odd_sizes_is_nearest_interpolation(rows, columns):
    (x,) = _maps((-(-rows // 2), -(-columns // 2)), channels=(3,))
    _, height, width, _ = x.shape
    down, right = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    expected = np.asarray(x)[:, down][:, :, right]
    np.testing.assert_array_equal(layers.upsample(x, rows, columns), expected)


def test_upsampling_refuses_a_map_that_is_not_half():
    with pytest.raises(ValueError, match="not half"):
        layers.upsample(jnp.zeros((1, 3, 3, 1)), 4, 6)


def _run(neck, maps):
    variables = neck.init(jax.random.key(0), maps)
    return jax.tree.map(np.asarray, variables["params"]), jax.jit(neck.apply)(variables, maps)


def _conv3(x, params, stride):
    layer = layers.conv(params["bias"].size, 3, stride=stride)
    return np.asarray(layer.apply({"params": params}, x))


def test_levels_are_laterals_plus_coarser_levels_on_odd_maps():
    maps = _maps((5, 7), (3, 4), (2, 2))
    params, pyramid = _run(fpn.FPN(width=8, levels=3), maps)
    merged = [
        np.asarray(x) @ params[f"lateral{i}"]["kernel"][0, 0] + params[f"lateral{i}"]["bias"]
        for i, x in enumerate(maps)
    ]
    merged[1] = merged[1] + merged[2].repeat(2, 1).repeat(2, 2)[:, :3, :4]
    merged[0] = merged[0] + merged[1].repeat(2, 1).repeat(2, 2)[:, :5, :7]
    for i, x in enumerate(merged):
        np.testing.assert_allclose(pyramid[i], _conv3(x, params[f"output{i}"], 1), atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("source", ["C5", "P5"])
def test_extra_levels(source, relu):
    maps = _maps((8, 8), (4, 4), (2, 2))
    neck = fpn.FPN(width=8, extra_source=source, relu_before_p7=relu)
    params, pyramid = _run(neck, maps)
    p6 = _conv3(maps[-1] if source == "C5" else pyramid[2], params["extra0"], 2)
    p7 = _conv3(np.maximum(p6, 0) if relu else p6, params["extra1"], 2)
    np.testing.assert_allclose(pyramid[3], p6, atol=1e-5)  # never rectified itself
    np.testing.assert_allclose(pyramid[4], p7, atol=1e-5)


def test_pooled_level_has_no_parameters():
    maps = _maps((8, 8), (4, 4), (3, 3))[2:]
    params, pyramid = _run(fpn.FPN(width=8, levels=2, extra_source="pool"), maps)
    assert set(params) == {"lateral0", "output0"}
    np.testing.assert_array_equal(pyramid[1], pyramid[0][:, ::2, ::2])


def test_norm_replaces_the_biases():
    maps = _maps((8, 8), (4, 4), (2, 2))
    variables = jax.eval_shape(fpn.FPN(norm=norms.GroupNorm).init, jax.random.key(0), maps)
    assert set(variables["params"]["output0"]) == {"kernel"}
    assert set(variables["params"]["extra1_norm"]) == {"scale", "bias"}


@pytest.mark.parametrize("caffe2", [False, True])
def test_initial_bound(caffe2):
    options = {"kernel_init": fpn.caffe2_xavier()} if caffe2 else {}
    neck = fpn.FPN(width=32, levels=2, **options)
    maps = _maps((4, 4), channels=(64,))
    params = jax.jit(neck.init)(jax.random.key(0), maps)["params"]
    for name, fan_in, fan_out in (("lateral0", 64, 32), ("output0", 288, 288)):
        bound = np.sqrt(3 / fan_in if caffe2 else 6 / (fan_in + fan_out))
        largest = np.abs(params[name]["kernel"]).max()
        assert 0.98 * bound < largest <= bound, name
        np.testing.assert_array_equal(params[name]["bias"], 0.0)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="extra_source"):
        fpn.FPN(extra_source="C6")
    with pytest.raises(ValueError, match="0 levels"):
        fpn.FPN(levels=0)


def test_fewer_levels_than_maps_are_the_finest_ones():
    maps = _maps((8, 8), (4, 4), (2, 2))
    params, whole = _run(fpn.FPN(width=8, levels=3), maps)
    needed = {name: value for name, value in params.items() if name not in ("output1", "output2")}
    fine = fpn.FPN(width=8, levels=1)
    shapes = jax.eval_shape(fine.init, jax.random.key(0), maps)["params"]
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, needed)
    (finest,) = fine.apply({"params": needed}, maps)
    np.testing.assert_array_equal(finest, whole[0])
