"""Whole dense networks: exact sizes of the published ones, freezing, training modes, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import gradients

from anchors_jax.models import count, dense_head, fpn, layers, norms, one_stage, resnet

RNG = np.random.default_rng(0)


def _retinanet(extra_source="C5", **backbone):
    return one_stage.OneStageNetwork(
        backbone=resnet.ResNet(**backbone),
        neck=fpn.FPN(extra_source=extra_source),
        head=dense_head.DenseHead(num_classes=80),
    )


X32 = {"depth": 101, "groups": 32, "base_width": 4}
X64 = {"depth": 101, "groups": 64, "base_width": 4}


@pytest.mark.parametrize(
    ("backbone", "total", "backbone_part", "neck_part"),
    [
        ({"depth": 18}, 21_410_100, 11_176_512, None),
        ({"depth": 50}, 37_968_692, 23_508_032, 7_997_440),
        ({"depth": 101}, 56_960_820, 42_500_160, 7_997_440),
        (X32, 56_589_364, 42_128_704, 7_997_440),
        (X64, 95_866_932, 81_406_272, 7_997_440),
    ],
)
def test_parameters_of_the_published_networks(backbone, total, backbone_part, neck_part):
    report = count.report(_retinanet(**backbone), (64, 64))
    assert report.total == report.trainable == sum(report.parts.values()) == total
    assert report.parts["backbone"] == backbone_part
    assert report.parts["head"] == 6_463_220
    assert neck_part in (None, report.parts["neck"])


def test_parameters_of_the_neck_with_p6_from_p5():
    assert count.report(_retinanet("P5"), (64, 64)).parts["neck"] == 3_868_672


def test_trainable_parameters_with_stem_and_first_stage_frozen():
    model = _retinanet(frozen_stages=1)
    report = count.report(model, (64, 64), mask=functools.partial(one_stage.trainable_mask, model))
    assert (report.total, report.trainable) == (37_968_692, 37_743_348)
    assert "37,743,348 trainable" in str(report)


def test_operations_are_counted():
    """A 3x3 convolution, by hand: two per tap that lies inside the map."""
    report = count.report(layers.conv(5, 3, use_bias=False), (4, 6))
    inside = (3 * 4 - 2) * (3 * 6 - 2)  # pairs of output and tap, without those in the padding
    assert report.flops == 2 * inside * 3 * 5
    variables = count.shapes(layers.conv(5, 3), (4, 6))
    assert count.parameters(variables["params"]) == 3 * 3 * 3 * 5 + 5
    image = jax.ShapeDtypeStruct((1, 4, 6, 3), jnp.float32)
    assert count.flops(lambda x: x + x, image, compiled=True) == 72


# Groups of several channels: the coarsest maps are so small that single ones would vanish.
GROUP_NORM = functools.partial(norms.GroupNorm, group_size=8)


def _small(norm, *, frozen_stages=0, dtype=jnp.float32):
    return one_stage.OneStageNetwork(
        backbone=resnet.ResNet(
            depth=18, width=8, norm=norm, frozen_stages=frozen_stages, dtype=dtype
        ),
        neck=fpn.FPN(width=16, levels=4, dtype=dtype),
        head=dense_head.DenseHead(3, shapes_per_cell=2, depth=1, width=16, norm=norm, dtype=dtype),
    )


IMAGE = jnp.asarray(RNG.normal(size=(2, 48, 72, 3)), jnp.float32)


def _filled(model):
    """Variables of plausible size without compiling the initialisers of every shape."""

    def fill(path, leaf):
        if path[-1].key == "kernel":
            values = RNG.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = np.full(leaf.shape, float(path[-1].key in ("scale", "var")))
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, count.shapes(model, IMAGE.shape[1:3]))


@functools.cache
def _full_precision():
    """Variables and predictions of the small network."""
    variables = _filled(_small(GROUP_NORM))
    return variables, jax.jit(_small(GROUP_NORM).apply)(variables, IMAGE)


def test_predictions_follow_the_maps():
    _, out = _full_precision()
    assert out.maps == ((6, 9), (3, 5), (2, 3), (1, 2))
    anchors = 2 * sum(rows * columns for rows, columns in out.maps)
    assert (out.logits.shape, out.codes.shape) == ((2, anchors, 3), (2, anchors, 4))


def test_parameters_lie_under_the_parts_and_the_trunk_is_all_but_the_head():
    variables, out = _full_precision()
    model = _small(GROUP_NORM)
    assert set(variables["params"]) == set(model.parts)
    pyramid = jax.eval_shape(functools.partial(model.apply, method="trunk"), variables, IMAGE)
    assert tuple(x.shape[1:3] for x in pyramid) == out.maps
    head = {"params": variables["params"]["head"]}
    by_parts = count.multiply_adds(model.head.apply, head, pyramid)
    image = jax.ShapeDtypeStruct(IMAGE.shape, IMAGE.dtype)
    whole = count.multiply_adds(model.apply, variables, image)
    trunk = functools.partial(model.apply, method="trunk")
    assert whole - count.multiply_adds(trunk, variables, image) == by_parts


def test_the_neck_says_what_it_is_with_fewer_levels():
    needed = [True, False, True, False]
    changes, live = _small(GROUP_NORM).neck.shortened(needed)
    assert (changes, live) == ({"levels": 3}, 3)


def test_half_precision_gives_float32_close_to_full():
    variables, full = _full_precision()
    half = jax.jit(_small(GROUP_NORM, dtype=jnp.bfloat16).apply)(variables, IMAGE)
    assert half.logits.dtype == half.codes.dtype == jnp.float32
    for a, b in ((half.logits, full.logits), (half.codes, full.codes)):
        spread = np.std(b)
        assert np.sqrt(np.mean(np.square(a - b))) < 0.1 * spread
    shapes = count.shapes(_small(GROUP_NORM, dtype="bfloat16"), (48, 72))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_frozen_part_of_the_mask_is_exactly_what_gets_no_gradient():
    model, params = _small(GROUP_NORM, frozen_stages=1), _filled(_small(GROUP_NORM))["params"]
    assert gradients.moving(model, params, IMAGE) == one_stage.trainable_mask(model, params)


def test_training_mode_reaches_every_batch_norm():
    variables = _filled(_small(norms.BatchNorm))
    apply = jax.jit(
        functools.partial(_small(norms.BatchNorm).apply, train=True, mutable=["batch_stats"])
    )
    _, updates = apply(variables, IMAGE)
    same = jax.tree.map(np.array_equal, variables["batch_stats"], updates["batch_stats"])
    assert not any(jax.tree.leaves(same))
    assert set(updates["batch_stats"]) == {"backbone", "head"}
