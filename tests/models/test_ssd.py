"""SSD's network: published sizes and costs, geometry, L2 normalisation, empty levels, slicing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import gradients

from anchors_jax.models import count, layers, norms, one_stage, ssd_head, ssd_neck, vgg

RNG = np.random.default_rng(0)
# image side: extra layers, anchors per cell, side of each map, anchors
PUBLISHED = {
    300: (ssd_neck.SSD300, (4, 6, 6, 6, 4, 4), (38, 19, 10, 5, 3, 1), 8732),
    512: (ssd_neck.SSD512, (4, 6, 6, 6, 6, 4, 4), (64, 32, 16, 8, 4, 2, 1), 24564),
}


def ssd(side, num_classes=80):
    extras, shapes, _, _ = PUBLISHED[side]
    return one_stage.OneStageNetwork(
        backbone=vgg.VGG16(),
        neck=ssd_neck.SSDNeck(extras=extras),
        head=ssd_head.SSDHead(num_classes=num_classes, shapes_per_cell=shapes),
    )


def image_of(side):
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


@pytest.mark.parametrize("side", PUBLISHED)
def test_maps_and_anchors_of_the_published_networks(side):
    model = ssd(side)
    out = jax.eval_shape(model.apply, count.shapes(model, (side, side)), image_of(side))
    _, _, sides, anchors = PUBLISHED[side]
    assert out.maps == tuple((s, s) for s in sides)
    assert (out.logits.shape, out.codes.shape) == ((1, anchors, 81), (1, anchors, 4))


@pytest.mark.parametrize(
    ("side", "num_classes", "total"),
    [
        (300, 80, 34_305_206),
        (512, 80, 36_038_196),
        (300, 20, 26_285_486),
        (512, 20, 27_188_676),
        (300, 90, 35_641_826),  # torchvision
    ],
)
def test_parameters_of_the_published_networks(side, num_classes, total):
    report = count.report(ssd(side, num_classes), (side, side))
    assert report.total == total
    assert report.parts["backbone"] == 20_483_904
    if side == 300:
        assert report.parts["neck"] == 2_460_032


@pytest.mark.parametrize(
    ("side", "num_classes", "backbone", "neck", "head"),
    [
        (300, 80, 29_898_443_776, 230_588_416, 4_231_319_040),
        (512, 80, 86_083_895_296, 615_251_968, 11_929_789_440),
        (300, 20, 29_898_443_776, 230_588_416, 1_244_505_600),
        (512, 20, 86_083_895_296, 615_251_968, 3_508_761_600),
    ],
)
def test_multiply_adds_of_the_published_networks(side, num_classes, backbone, neck, head):
    model = ssd(side, num_classes)
    params = count.shapes(model, (side, side))["params"]
    maps = jax.eval_shape(model.backbone.apply, {"params": params["backbone"]}, image_of(side))
    pyramid = jax.eval_shape(model.neck.apply, {"params": params["neck"]}, maps)
    inputs = {"backbone": image_of(side), "neck": maps, "head": pyramid}
    costs = {
        name: count.multiply_adds(getattr(model, name).apply, {"params": params[name]}, value)
        for name, value in inputs.items()
    }
    assert costs == {"backbone": backbone, "neck": neck, "head": head}
    cells, channels = zip(*((x.shape[1] * x.shape[2], x.shape[3]) for x in pyramid), strict=True)
    assert model.head.multiply_adds(cells, model.head.shapes_per_cell, channels) == head


def test_multiply_adds_count_the_padding_groups_and_what_lies_inside_calls():
    image = jax.ShapeDtypeStruct((2, 4, 6, 8), jnp.float32)
    grouped = layers.conv(6, 3, feature_group_count=2)
    variables = jax.eval_shape(grouped.init, jax.random.key(0), image)
    assert count.multiply_adds(jax.jit(grouped.apply), variables, image) == 2 * 4 * 6 * 6 * 9 * 4
    matrix = jax.ShapeDtypeStruct((5, 7), jnp.float32)
    assert count.multiply_adds(lambda x: jnp.sin(x.T @ x), matrix) == 7 * 7 * 5


class TestPooling:
    pool = staticmethod(jax.jit(layers.max_pool, static_argnames=("size", "stride")))

    @pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 1)])
    @pytest.mark.parametrize("rows", [6, 7])
    def test_windows_may_hang_over_the_end(self, size, stride, rows):
        x = -RNG.uniform(1.0, 2.0, (2, rows, 5, 3)).astype(np.float32)  # zeros would win
        low = (size - 1) // 2
        got = np.asarray(self.pool(x, size=size, stride=stride))
        assert got.shape[1:3] == (-(-rows // stride), -(-5 // stride))
        for i, j in np.ndindex(got.shape[1:3]):
            top, left = i * stride - low, j * stride - low
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
            np.testing.assert_array_equal(got[:, i, j], window.max((1, 2)))

    def test_seventy_five_rows_become_thirty_eight(self):
        x = RNG.normal(size=(1, 75, 4, 1)).astype(np.float32)
        got = self.pool(x, size=2, stride=2)
        assert got.shape[1] == 38
        np.testing.assert_array_equal(got[:, -1], x[:, -1].reshape(1, 2, 2, 1).max(2))


class TestL2Norm:
    norm = ssd_neck.L2Norm()

    def apply(self, x):
        variables = self.norm.init(jax.random.key(0), x)
        return self.norm.apply(variables, x)

    def test_one_channel_alone_becomes_the_scale(self):
        x = jnp.zeros((1, 1, 1, 5)).at[..., 3].set(0.7)
        np.testing.assert_allclose(self.apply(x)[0, 0, 0], [0, 0, 0, 20, 0], rtol=1e-6)

    def test_every_pixel_has_the_length_of_the_scale(self):
        x = jnp.asarray(RNG.normal(size=(2, 3, 4, 8)), jnp.float32)
        np.testing.assert_allclose(jnp.linalg.norm(self.apply(x), axis=-1), 20.0, rtol=1e-5)

    def test_nothing_stays_nothing_with_a_finite_gradient(self):
        x = jnp.zeros((1, 2, 2, 4))
        assert not np.asarray(self.apply(x)).any()
        gradient = jax.grad(lambda x: self.apply(x).sum())(x)
        assert np.isfinite(gradient).all()


def small(shapes=(2, 1, 1), **neck):
    extras = ((16, 3, 2, 1),)
    return one_stage.OneStageNetwork(
        backbone=vgg.VGG16(width=4),
        neck=ssd_neck.SSDNeck(extras=extras, **neck),
        head=ssd_head.SSDHead(num_classes=3, shapes_per_cell=shapes),
    )


IMAGE = jnp.asarray(RNG.normal(size=(2, 45, 64, 3)), jnp.float32)


def init(model, seed=0):
    """Plausible values without compiling initialisers."""
    random = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return random.normal(size=leaf.shape).astype(np.float32) * np.sqrt(2 / fan_in)
        return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)

    return jax.tree_util.tree_map_with_path(fill, count.shapes(model, IMAGE.shape[1:3]))


@functools.cache
def small_output():
    variables = init(small())
    return variables, jax.jit(small().apply)(variables, IMAGE)


def test_the_scale_of_the_first_map_does_not_reach_the_others():
    variables, before = small_output()
    params = {**variables["params"], "neck": dict(variables["params"]["neck"])}
    scale = params["neck"]["l2_norm"]["scale"]
    params["neck"]["l2_norm"] = {"scale": 3 * scale}
    after = jax.jit(small().apply)({"params": params}, IMAGE)
    first = 2 * before.maps[0][0] * before.maps[0][1]
    assert not np.allclose(after.codes[:, :first], before.codes[:, :first])
    np.testing.assert_array_equal(after.codes[:, first:], before.codes[:, first:])


def test_a_level_without_anchors_has_no_parameters_and_changes_no_other():
    variables, whole = small_output()
    model = small((2, 0, 1))
    params = dict(variables["params"])
    params["head"] = {k: v for k, v in params["head"].items() if k not in ("class1", "box1")}
    out = jax.jit(model.apply)({"params": params}, IMAGE)
    assert set(count.shapes(model, (45, 64))["params"]["head"]) == set(params["head"])
    assert out.maps == whole.maps
    ends = np.cumsum([n * r * c for n, (r, c) in zip((2, 1, 1), whole.maps, strict=True)])
    kept = np.r_[0 : ends[0], ends[1] : ends[2]]
    np.testing.assert_array_equal(out.logits, whole.logits[:, kept])


@pytest.mark.parametrize("kept", [((1,), (0,), (0,)), ((0, 1), (), (1, 2)), ((1,), (0,))])
def test_a_sliced_head_says_what_the_whole_one_says_of_the_shapes_that_stay(kept):
    head = ssd_head.SSDHead(num_classes=3, shapes_per_cell=(2, 1, 3))
    pyramid = [
        RNG.normal(size=(2, *size)).astype(np.float32) for size in ((3, 4, 5), (2, 2, 6), (1, 2, 4))
    ]
    shapes_of = jax.eval_shape(head.init, jax.random.key(0), pyramid)["params"]
    params = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), shapes_of)
    changes = head.sliced(kept)
    assert changes == {"shapes_per_cell": [len(slots) for slots in kept]}
    smaller, fewer = head.clone(shapes_per_cell=tuple(map(len, kept))), pyramid[: len(kept)]
    sliced = head.sliced_params(params, kept)
    needed = jax.eval_shape(smaller.init, jax.random.key(0), fewer)["params"]
    assert jax.tree.map(jnp.shape, sliced) == jax.tree.map(jnp.shape, needed)
    whole = jax.jit(head.apply)({"params": params}, pyramid)
    out = jax.jit(smaller.apply)({"params": sliced}, fewer)
    stays = [
        np.tile(np.isin(range(shapes), level), rows * columns)
        for shapes, level, (rows, columns) in zip(
            (2, 1, 3), (*kept, ())[:3], whole.maps, strict=True
        )
    ]
    for name in ("logits", "codes"):
        want = getattr(whole, name)[:, np.concatenate(stays)]
        np.testing.assert_allclose(getattr(out, name), want, rtol=1e-4, atol=1e-3, err_msg=name)


def test_a_neck_without_its_first_level_does_not_normalise_it():
    neck = ssd_neck.SSDNeck()
    assert neck.shortened([False, True, True, False, False, False]) == (
        {"extras": [list(extra) for extra in ssd_neck.SSD300[:1]], "l2_scale": None},
        3,
    )
    assert neck.shortened([True] + [False] * 5) == ({"extras": []}, 2)  # the backbone's maps stay


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"shapes_per_cell \(2, 1\) for 3 maps"):
        count.shapes(small((2, 1)), (45, 64))
    with pytest.raises(ValueError, match="not all of them 0"):
        count.shapes(small((0, 0, 0)), (45, 64))
    with pytest.raises(ValueError, match="extra layer 2 does not fit a map of 2 x 2"):
        count.shapes(ssd(300), (100, 100))
    with pytest.raises(ValueError, match="frozen_blocks 6"):
        vgg.VGG16(frozen_blocks=6)


def test_frozen_blocks_get_no_gradient_and_all_others_do():
    norm = functools.partial(norms.GroupNorm, group_size=2)
    model = one_stage.OneStageNetwork(
        backbone=vgg.VGG16(width=4, frozen_blocks=2, norm=norm),
        neck=ssd_neck.SSDNeck(extras=((16, 3, 2, 1),), norm=norm),
        head=ssd_head.SSDHead(num_classes=3, shapes_per_cell=(2, 1, 1)),
    )
    params = init(model)["params"]
    assert gradients.moving(model, params, IMAGE) == one_stage.trainable_mask(model, params)


def test_half_precision_gives_float32():
    model = one_stage.OneStageNetwork(
        backbone=vgg.VGG16(width=4, dtype="bfloat16"),
        neck=ssd_neck.SSDNeck(extras=((16, 3, 2, 1),), dtype="bfloat16"),
        head=ssd_head.SSDHead(num_classes=3, shapes_per_cell=(2, 1, 1), dtype="bfloat16"),
    )
    variables, full = small_output()
    half = jax.jit(model.apply)(variables, IMAGE)
    assert half.logits.dtype == half.codes.dtype == jnp.float32
    error = np.sqrt(np.mean(np.square(half.logits - full.logits)))
    assert error < 0.1 * np.std(full.logits)


def test_the_classifier_becomes_two_convolutions():
    fc6 = np.arange(8 * 2 * 7 * 7, dtype=np.float32).reshape(8, 2, 7, 7)
    fc7 = np.arange(64, dtype=np.float32).reshape(8, 8)
    first, second = vgg.dilated_classifier(fc6, fc7)
    assert (first.shape, second.shape) == ((3, 3, 2, 2), (1, 1, 2, 2))
    assert first[1, 2, 1, 1] == fc6[4, 1, 3, 6]
    assert second[0, 0, 1, 0] == fc7[0, 4]
