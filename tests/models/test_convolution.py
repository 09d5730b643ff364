"""Convolutions: on CPUs the ordinary ones in value and gradient, elsewhere the ordinary ones."""

import functools
import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.extend import core

from anchors_jax import models, spec
from anchors_jax.models import convolution, count, fpn, layers, resnet, ssd_neck
from configs import retinanet, semi_anchored, ssd

RNG = np.random.default_rng(0)
SIDES = (9, 7)  # of the maps on which they are compared
KEYWORDS = ("window_strides", "padding", "rhs_dilation", "feature_group_count")


def normal(shape, dtype="float32"):
    return jnp.asarray(RNG.normal(size=shape), dtype)


def convolutions(jaxpr):
    """The convolutions in a program and in what it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from convolutions(inner)


def networks():
    """(network, what it is applied to), as shapes: between them, every kind of convolution."""

    def square(side, channels=3):
        return jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)

    backbones = {"depth": 18}, {"style": "caffe"}, {"groups": 32, "base_width": 4}
    yield from ((resnet.ResNet(**options), square(32)) for options in backbones)
    pyramid = tuple(square(side, 8) for side in (16, 8, 4))
    yield fpn.FPN(extra_source="P5"), pyramid
    yield ssd_neck.SSDNeck(ssd_neck.SSD512), (square(64, 8), square(32, 8))
    for config in (retinanet, semi_anchored, ssd):  # ResNet-50, C5; VGG16, SSD300
        yield spec.build(config.get_config("paper").detector.model), square(288)


@functools.cache
def geometries():
    """(kernel, arguments) for each way to move over a map, with the smallest of its kernels."""
    found = {}
    for model, image in networks():
        with convolution.ordinary():
            program = jax.make_jaxpr(model.init)(jax.random.key(0), image)
        for equation in convolutions(program.jaxpr):
            shape = equation.invars[1].aval.shape
            keywords = {name: equation.params[name] for name in KEYWORDS}
            key = (shape[:2], *keywords.values(), shape[-1] >= convolution.WIDE)
            if key not in found or np.prod(shape) < np.prod(found[key][0]):
                found[key] = (shape, keywords)
    return list(found.values())


def depthwise():
    """3x3 and 5x5 depthwise kernels with strides of 1 and 2."""
    for size, stride in itertools.product((3, 5), (1, 2)):
        border = (size // 2, size // 2)
        keywords = {
            "window_strides": (stride, stride),
            "padding": (border, border),
            "feature_group_count": 6,
        }
        yield (size, size, 1, 6), keywords


def arguments(shape, keywords, *, batch=2, dtype="float32"):
    channels = shape[2] * keywords.get("feature_group_count", 1)
    x, kernel = normal((batch, *SIDES, channels), dtype), normal(shape, dtype)
    y = jax.eval_shape(functools.partial(ours, **keywords), x, kernel)
    return x, kernel, normal(y.shape, dtype)


def ours(x, kernel, **keywords):
    return convolution.convolve(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **keywords)


def value_and_gradients(x, kernel, slope, *, keywords):
    y, pull = jax.vjp(functools.partial(ours, **keywords), x, kernel)
    return y, *pull(slope)


def both_ways(shape, keywords, **options):
    """(ours, ordinary): value and both gradients."""
    values = arguments(shape, keywords, **options)
    run = jax.jit(functools.partial(value_and_gradients, keywords=keywords))
    with convolution.ordinary():
        expected = run(*values)
    return run(*values), expected


def assert_close(got, expected, *, tolerance):
    for mine, other in zip(got, expected, strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype
        mine, other = (np.asarray(value, np.float64) for value in (mine, other))
        np.testing.assert_allclose(mine, other, atol=tolerance * np.abs(other).max())


def test_every_convolution_of_the_networks_is_the_ordinary_one_in_value_and_gradient():
    found = geometries()
    # The stem's 7x7 is computed as a 4x4.
    assert {shape[:2] for shape, _ in found} == {(1, 1), (3, 3), (4, 4)}
    assert any(keywords["rhs_dilation"] == (6, 6) for _, keywords in found)
    assert any(keywords["feature_group_count"] > 1 for _, keywords in found)
    for shape, keywords in found:
        assert_close(*both_ways(shape, keywords), tolerance=1e-5)


@pytest.mark.parametrize(("shape", "keywords"), [*depthwise()])
def test_depthwise_convolution_is_the_ordinary_one_in_value_and_gradient(shape, keywords):
    assert_close(*both_ways(shape, keywords), tolerance=1e-5)


KINDS = {
    "1x1": ((1, 1, 5, 6), {"window_strides": (2, 2), "padding": ((0, 0), (0, 0))}),
    "wide": (
        (3, 3, 4, convolution.WIDE),
        {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "rhs_dilation": (1, 1)},
    ),
    "depthwise": next(depthwise()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_half_precision(kind):
    assert_close(*both_ways(*KINDS[kind], dtype="bfloat16"), tolerance=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_mapping_and_devices_change_nothing(kind):
    shape, keywords = KINDS[kind]
    values = arguments(shape, keywords)
    run = functools.partial(value_and_gradients, keywords=keywords)
    alone = jax.jit(run)
    with convolution.ordinary():
        each = [alone(values[0][i : i + 1], values[1], values[2][i : i + 1]) for i in (0, 1)]
    stacked = [jnp.stack(parts) for parts in zip(*each, strict=True)]
    x, kernel, slope = values
    for over in (jax.pmap, jax.vmap):
        got = jax.jit(over(run, in_axes=(0, None, 0)))(x[:, None], kernel, slope[:, None])
        assert_close(got, stacked, tolerance=1e-5)


def test_without_compilation_it_is_the_same():
    shape, keywords = KINDS["1x1"]
    values = arguments(shape, keywords)
    run = functools.partial(value_and_gradients, keywords=keywords)
    assert_close(run(*values), jax.jit(run)(*values), tolerance=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_keeps_the_gradient(kind):
    shape, keywords = KINDS[kind]
    x, kernel, slope = arguments(shape, keywords)

    def total(x, kernel):
        return jnp.sum(jax.checkpoint(functools.partial(ours, **keywords))(x, kernel) * slope)

    with convolution.ordinary():
        expected = jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel)
    assert_close(jax.jit(jax.grad(total, argnums=(0, 1)))(x, kernel), expected, tolerance=1e-5)


def operations(kind, platform, *, gradient):
    """How many convolutions and products a program for a platform has, once per branch."""
    shape, keywords = KINDS[kind]
    values = arguments(shape, keywords)
    run = functools.partial(value_and_gradients, keywords=keywords)
    function = jax.jit(run if gradient else lambda x, kernel, _: ours(x, kernel, **keywords))
    text = function.trace(*values).lower(lowering_platforms=(platform,)).as_text()
    names = re.findall(r"stablehlo\.(convolution|dot_general|multiply)\b", text)
    return {name: names.count(name) for name in set(names)}


@pytest.mark.parametrize("platform", ["tpu", "cuda", "rocm"])
@pytest.mark.parametrize("kind", KINDS)
def test_accelerators_are_given_the_ordinary_convolution(kind, platform):
    assert operations(kind, platform, gradient=False) == {"convolution": 1}
    assert operations(kind, platform, gradient=True) == {"convolution": 3}


@pytest.mark.parametrize(
    ("kind", "value", "gradients"),
    [
        ("1x1", {"dot_general": 1}, {"dot_general": 3}),
        ("wide", {"convolution": 1}, {"convolution": 2, "dot_general": 9}),
        ("depthwise", {"multiply": 9}, {"multiply": 27}),
    ],
)
def test_cpus_are_given_sums_over_the_taps(kind, value, gradients):
    assert operations(kind, "cpu", gradient=False) == value
    assert operations(kind, "cpu", gradient=True) == gradients


def test_one_program_for_several_platforms():
    shape, keywords = KINDS["1x1"]
    values = arguments(shape, keywords)
    function = jax.jit(functools.partial(value_and_gradients, keywords=keywords))
    exported = jax.export.export(function, platforms=("cpu", "tpu"))(*values)
    assert_close(exported.call(*values), function(*values), tolerance=1e-6)


@pytest.mark.parametrize(
    "keywords",
    [
        {"padding": "SAME"},
        {"precision": lax.Precision.HIGHEST},
        {"preferred_element_type": jnp.float32},
        {"lhs_dilation": (2, 2)},
        {"dimension_numbers": ("NCHW", "HWIO", "NCHW")},
        {"dimension_numbers": None},
    ],
)
def test_anything_special_is_the_ordinary_convolution(keywords):
    x, kernel = normal((2, 4, 4, 4)), normal((1, 1, 4, 4))
    options = {"window_strides": (1, 1), "padding": ((0, 0), (0, 0))}
    options |= {"dimension_numbers": convolution.LAYOUT} | keywords
    if options["dimension_numbers"] is None:
        kernel = kernel.T
    programs = [
        str(jax.make_jaxpr(functools.partial(function, **options))(x, kernel))
        for function in (convolution.convolve, lax.conv_general_dilated)
    ]
    assert programs[0] == programs[1]


def test_ordinary_holds_within_its_context_alone():
    """Also for functions that are compiled already."""
    x, kernel = normal((1, 4, 4, 4)), normal((1, 1, 4, 4))
    run = jax.jit(functools.partial(ours, window_strides=(1, 1), padding=((0, 0), (0, 0))))

    def has_dot():
        return "dot_general" in run.lower(x, kernel).as_text()

    assert has_dot()
    with convolution.ordinary():
        assert not has_dot()
    assert has_dot()


@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_those_of_the_ordinary_convolution(kind):
    shape, keywords = KINDS[kind]
    x, kernel, y = arguments(shape, keywords)
    compiled = jax.jit(functools.partial(ours, **keywords))
    compiled(x, kernel)
    plain = functools.partial(
        lax.conv_general_dilated, dimension_numbers=convolution.LAYOUT, **keywords
    )
    assert count.multiply_adds(compiled, x, kernel) == y.size * np.prod(shape[:3])
    assert count.flops(compiled, x, kernel) == count.flops(plain, x, kernel)


def test_layers_keep_the_parameters_of_flax():
    x, key = normal((1, *SIDES, 4)), jax.random.key(0)
    for options in ({}, {"feature_group_count": 4, "use_bias": False}):
        mine = jax.jit(layers.conv(8, 1, **options).init)(key, x)
        flax = jax.jit(nn.Conv(8, (1, 1), **options).init)(key, x)
        jax.tree.map(np.testing.assert_array_equal, mine, flax)


def test_no_other_convolution_is_made():
    """Every one of the networks goes through `convolve`."""
    for path in pathlib.Path(models.__file__).parent.glob("*.py"):
        if path.stem not in ("convolution", "layers"):
            assert not re.search(r"nn\.Conv\(|lax\.conv", path.read_text()), path
