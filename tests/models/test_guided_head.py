"""The guided head: order of its outputs, who reads and trains what, initialisation, switches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.deform import deform_conv
from anchors_jax.models import count, layers, norms
from anchors_jax.models.guided_head import FeatureAdaption, GuidedHead

RNG = np.random.default_rng(0)
SIZES = ((4, 6), (2, 3), (1, 2))
CELLS = sum(rows * columns for rows, columns in SIZES)
OUTPUTS = ("logits", "codes", "cell_logits", "shape_codes")


def _pyramid(channels=8):
    return tuple(jnp.asarray(RNG.normal(size=(2, *size, channels)), jnp.float32) for size in SIZES)


def _head(**options):
    # Larger weights than the paper's, so that values differ between cells.
    init = jax.nn.initializers.normal(0.3)
    defaults = {"num_classes": 3, "depth": 1, "width": 8, "kernel_init": init}
    return GuidedHead(**{**defaults, **options})


def test_outputs_are_float32_rows_of_cells():
    head, pyramid = _head(), _pyramid()
    out, variables = jax.jit(head.init_with_output)(jax.random.key(0), pyramid)
    params = variables["params"]
    assert out.maps == SIZES
    assert out.logits.shape == (2, CELLS, 3)
    assert out.codes.shape == (2, CELLS, 4)
    assert out.cell_logits.shape == (2, CELLS)
    assert out.shape_codes.shape == (2, CELLS, 2)

    @jax.jit
    def by_hand(x):
        """The middle level, layer by layer."""

        def apply(name, features, size):
            width = params[name]["bias"].shape[0]
            return layers.conv(width, size).apply({"params": params[name]}, features)

        towers = {
            name: jax.nn.relu(
                layers.conv(8, 3).apply({"params": params[f"{name}_tower"]["conv0"]}, x)
            )
            for name in ("class", "box")
        }
        shapes = apply("shape_output", towers["box"], 1)
        adapted = {}
        for name, features in towers.items():
            part = params[f"{name}_adaption"]
            offsets = (shapes @ part["offset"]["kernel"][0, 0]).reshape(*shapes.shape[:3], 4, 9, 2)
            adapted[name] = jax.nn.relu(deform_conv(features, offsets, part["kernel"]))
        return (
            apply("class_output", adapted["class"], 3),
            apply("box_output", adapted["box"], 3),
            apply("location_output", towers["class"], 1)[..., 0],
            shapes,
        )

    first = SIZES[0][0] * SIZES[0][1]
    cells = slice(first, first + SIZES[1][0] * SIZES[1][1])
    for name, want in zip(OUTPUTS, by_hand(pyramid[1]), strict=True):
        got = getattr(out, name)[:, cells]
        np.testing.assert_allclose(got, want.reshape(got.shape), atol=1e-5, err_msg=name)


@functools.cache
def _gradients():
    head, pyramid = _head(norm=functools.partial(norms.GroupNorm, group_size=4)), _pyramid()
    params = jax.jit(head.init)(jax.random.key(0), pyramid)["params"]

    def parts(params):
        out = head.apply({"params": params}, pyramid)
        return {name: jnp.sum(jnp.square(getattr(out, name))) for name in OUTPUTS}

    return jax.jit(jax.jacrev(parts))(params)


@pytest.mark.parametrize(
    ("output", "trained"),
    [
        ("logits", {"class_tower", "class_adaption", "class_output"}),
        ("codes", {"box_tower", "box_adaption", "box_output"}),
        ("cell_logits", {"class_tower", "location_output"}),
        ("shape_codes", {"box_tower", "shape_output"}),
    ],
)
def test_each_output_trains_its_own_layers(output, trained):
    found = {
        name
        for name, tree in _gradients()[output].items()
        if any(np.any(leaf) for leaf in jax.tree.leaves(tree))
    }
    assert found == trained  # classes and boxes do not reach the shapes through the offsets


@pytest.mark.parametrize(("output", "part"), [("logits", "class"), ("codes", "box")])
def test_offsets_are_trained(output, part):
    assert np.abs(_gradients()[output][f"{part}_adaption"]["offset"]["kernel"]).max() > 0


def test_initial_scores_are_the_prior_and_initial_anchors_the_squares():
    head = GuidedHead(num_classes=3, depth=2, width=32)
    out, variables = jax.jit(head.init_with_output)(jax.random.key(1), _pyramid(32))
    np.testing.assert_allclose(jax.nn.sigmoid(out.logits).mean(), 0.01, rtol=0.2)
    np.testing.assert_allclose(jax.nn.sigmoid(out.cell_logits).mean(), 0.01, rtol=0.2)
    np.testing.assert_allclose(out.shape_codes, 0.0, atol=0.2)
    offset = variables["params"]["class_adaption"]["offset"]["kernel"]
    assert offset.shape == (1, 1, 2, 72)
    np.testing.assert_allclose(offset.std(), 0.1, rtol=0.3)


def test_size_does_not_depend_on_the_levels_and_adaption_is_cheap():
    def parameters(levels, **options):
        head = GuidedHead(num_classes=80, **options)
        shapes = jax.eval_shape(head.init, jax.random.key(0), _pyramid(256)[:levels])["params"]
        return count.parameters(shapes)

    assert parameters(3) == parameters(1)
    assert parameters(1) - parameters(1, adapt=False) == 2 * 2 * 72


def test_without_shapes_adaption_is_an_ordinary_convolution():
    x, shapes = _pyramid()[0], jnp.zeros((2, *SIZES[0], 2))
    plain, moved = (FeatureAdaption(width=8, deform=deform) for deform in (False, True))
    variables = jax.jit(moved.init)(jax.random.key(0), x, shapes)
    kernel = {"params": {"kernel": variables["params"]["kernel"]}}
    np.testing.assert_allclose(
        jax.jit(moved.apply)(variables, x, shapes), plain.apply(kernel, x, shapes), atol=1e-6
    )
    assert "offset" not in jax.eval_shape(plain.init, jax.random.key(0), x, shapes)["params"]


def test_half_precision_gives_float32_close_to_full():
    pyramid = _pyramid()
    variables = jax.jit(_head().init)(jax.random.key(0), pyramid)
    full = jax.jit(_head().apply)(variables, pyramid)
    half = jax.jit(_head(dtype=jnp.bfloat16).apply)(variables, pyramid)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max())
