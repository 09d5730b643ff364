"""The semi-anchored head: order of its outputs, who reads which tower, size, initialisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.models import count, dense_head, fpn, layers, norms, one_stage, resnet
from anchors_jax.models.semi_anchored_head import SemiAnchoredHead

RNG = np.random.default_rng(0)
SIZES = ((4, 6), (2, 3), (1, 2))
CELLS = sum(rows * columns for rows, columns in SIZES)


def _pyramid(channels=6):
    return tuple(jnp.asarray(RNG.normal(size=(2, *size, channels)), jnp.float32) for size in SIZES)


def _head(**options):
    # Larger weights than the paper's, so that values differ between anchors.
    init = jax.nn.initializers.normal(0.3)
    defaults = {"num_classes": 3, "shapes_per_cell": 2, "depth": 1, "width": 8, "norm": None}
    return SemiAnchoredHead(**{**defaults, "kernel_init": init, **options})


def test_outputs_are_float32_rows_of_cells():
    head, pyramid = _head(), _pyramid()
    variables = jax.jit(head.init)(jax.random.key(0), pyramid)
    out = jax.jit(head.apply)(variables, pyramid)
    params = variables["params"]
    assert out.maps == SIZES
    assert out.logits.shape == (2, CELLS, 3)
    assert out.anchor_logits.shape == (2, CELLS, 2)
    assert out.codes.shape == (2, CELLS, 2, 4)

    def output(name, tower, x):
        features = layers.conv(8, 3).apply({"params": params[tower]["conv0"]}, x)
        width = params[name]["bias"].shape[0]
        return layers.conv(width, 3).apply({"params": params[name]}, jax.nn.relu(features))

    start = 0
    for x in pyramid:
        logits, codes, choice = (
            output(name, tower, x)
            for name, tower in (
                ("class_output", "class_tower"),
                ("box_output", "box_tower"),
                ("anchor_output", "box_tower"),
            )
        )
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                at = (slice(None), row, column)
                np.testing.assert_allclose(out.logits[:, start], logits[at], atol=1e-5)
                np.testing.assert_allclose(out.anchor_logits[:, start], choice[at], atol=1e-5)
                for shape in range(2):
                    channels = codes[at][:, 4 * shape : 4 * shape + 4]
                    np.testing.assert_allclose(out.codes[:, start, shape], channels, atol=1e-5)
                start += 1


@pytest.mark.parametrize(
    ("output", "tower"),
    [("logits", "class_tower"), ("codes", "box_tower"), ("anchor_logits", "box_tower")],
)
def test_each_output_trains_its_own_tower(output, tower):
    head, pyramid = _head(norm=norms.GroupNorm), _pyramid()
    params = jax.jit(head.init)(jax.random.key(0), pyramid)["params"]

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(jnp.square(getattr(head.apply({"params": params}, pyramid), output)))

    found = gradient(params)
    for name in ("class_tower", "box_tower"):
        assert any(np.any(leaf) for leaf in jax.tree.leaves(found[name])) == (name == tower)


def test_more_anchors_widen_the_last_layers_only():
    def sizes(shapes):
        head = SemiAnchoredHead(num_classes=80, shapes_per_cell=shapes)
        params = jax.eval_shape(head.init, jax.random.key(0), _pyramid(256))["params"]
        return {name: count.parameters(part) for name, part in params.items()}

    one, many = sizes(1), sizes(25)
    assert {name for name in one if one[name] != many[name]} == {"box_output", "anchor_output"}
    assert many["anchor_output"] == 25 * (9 * 256 + 1) == 25 * one["anchor_output"]
    # Four convolutions of 256 channels with biases, and their norms.
    assert many["class_tower"] == many["box_tower"] == 4 * (9 * 256 * 256 + 3 * 256)
    assert sum(many.values()) < count.parameters(
        jax.eval_shape(
            dense_head.DenseHead(num_classes=80, norm=norms.GroupNorm, tower_bias=True).init,
            jax.random.key(0),
            _pyramid(256),
        )["params"]
    ), "smaller than RetinaNet's with nine anchors"


def test_initial_scores_are_the_prior():
    head = SemiAnchoredHead(num_classes=3, shapes_per_cell=5, depth=2, width=32)
    out = jax.jit(head.init_with_output)(jax.random.key(1), _pyramid(32))[0]
    np.testing.assert_allclose(jax.nn.sigmoid(out.logits).mean(), 0.01, rtol=0.2)
    np.testing.assert_allclose(jax.nn.sigmoid(out.anchor_logits).mean(), 0.01, rtol=0.2)
    np.testing.assert_allclose(out.codes, 0.0, atol=0.5)
    with pytest.raises(ValueError, match=r"prior 0\.0 is not between 0 and 1"):
        SemiAnchoredHead(num_classes=3, prior=0.0)


def test_without_anchor_classification():
    head, pyramid = _head(classify_anchors=False), _pyramid()
    out, variables = jax.jit(head.init_with_output)(jax.random.key(0), pyramid)
    assert out.anchor_logits is None
    assert "anchor_output" not in variables["params"]


def test_half_precision_gives_float32_close_to_full():
    pyramid = _pyramid()
    options = {"norm": functools.partial(norms.GroupNorm, group_size=4), "depth": 2}
    variables = jax.jit(_head(**options).init)(jax.random.key(0), pyramid)
    full = jax.jit(_head(**options).apply)(variables, pyramid)
    half = jax.jit(_head(dtype=jnp.bfloat16, **options).apply)(variables, pyramid)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max())


def test_the_dense_detector_carries_it():
    model = one_stage.OneStageNetwork(
        backbone=resnet.ResNet(depth=18, width=8),
        neck=fpn.FPN(width=16, extra_source="P5", relu_before_p7=True),
        head=_head(width=16),
    )
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    out = jax.eval_shape(functools.partial(model.apply, train=False), variables, image)
    assert out.maps == ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    assert out.codes.shape == (1, 96 + 24 + 6 + 2 + 1, 2, 4)
