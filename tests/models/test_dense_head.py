"""The dense head: order of its outputs, sharing over levels, options, initialisation, slicing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax.models import count, dense_head, layers, norms

RNG = np.random.default_rng(0)
SIZES = ((4, 6), (2, 3), (1, 2))


def _pyramid(channels=6):
    return tuple(jnp.asarray(RNG.normal(size=(2, *size, channels)), jnp.float32) for size in SIZES)


def _head(**options):
    defaults = {"num_classes": 3, "shapes_per_cell": 2, "depth": 1, "width": 8}
    # Larger weights than the paper's, so that values differ between anchors.
    init = jax.nn.initializers.normal(0.3)
    return dense_head.DenseHead(**{**defaults, "kernel_init": init, **options})


def _variables(head, pyramid):
    return jax.jit(head.init)(jax.random.key(0), pyramid)


def test_outputs_are_float32_rows_in_the_order_level_row_column_shape():
    head, pyramid = _head(), _pyramid()
    variables = _variables(head, pyramid)
    out = jax.jit(head.apply)(variables, pyramid)
    params = variables["params"]
    assert out.maps == SIZES
    assert out.quality is None
    start = 0
    for x in pyramid:
        tower = layers.conv(8, 3).apply({"params": params["class_tower"]["conv0"]}, x)
        logits = layers.conv(6, 3).apply({"params": params["class_output"]}, jax.nn.relu(tower))
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                for shape in range(2):
                    channels = logits[:, row, column, shape * 3 : shape * 3 + 3]
                    np.testing.assert_allclose(out.logits[:, start], channels, atol=1e-5)
                    start += 1
    assert out.logits.shape == (2, start, 3)
    assert out.codes.shape == (2, start, 4)


def test_one_set_of_convolutions_serves_all_levels():
    pyramid = _pyramid()
    params = jax.eval_shape(_head(depth=4).init, jax.random.key(0), pyramid)["params"]
    assert set(params) == {"class_tower", "box_tower", "class_output", "box_output"}
    kernels = [p for p, _ in jax.tree_util.tree_leaves_with_path(params) if "kernel" in str(p)]
    assert len(kernels) == 10
    one = jax.eval_shape(_head(depth=4).init, jax.random.key(0), pyramid[:1])["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, one)


def test_gradients_sum_over_levels():
    head, pyramid = _head(), _pyramid()
    params = _variables(head, pyramid)["params"]
    counts = [2 * rows * columns for rows, columns in SIZES]
    ends = np.cumsum([0, *counts])

    @jax.jit
    def gradient(params, weight):
        def loss(params):
            out = head.apply({"params": params}, pyramid)
            each = jnp.square(out.logits).sum((0, 2)) + jnp.square(out.codes).sum((0, 2))
            return jnp.sum(each * weight)

        return jax.grad(loss)(params)

    def of_levels(levels):
        weight = np.zeros(ends[-1], np.float32)
        for level in levels:
            weight[ends[level] : ends[level + 1]] = 1.0
        return gradient(params, weight)

    parts = [of_levels([level]) for level in range(3)]
    total = jax.tree.map(lambda *g: sum(g), *parts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        of_levels(range(3)),
        total,
    )


@pytest.mark.parametrize("tower", ["box", "class"])
def test_quality_reads_the_chosen_tower(tower):
    head, pyramid = _head(quality=tower), _pyramid()
    variables = _variables(head, pyramid)
    out = jax.jit(head.apply)(variables, pyramid)
    assert out.quality.shape == out.logits.shape[:2]
    other, changed = {"box": ("class_tower", "logits"), "class": ("box_tower", "codes")}[tower]
    params = variables["params"]
    silent = {**params, other: jax.tree.map(jnp.zeros_like, params[other])}
    without = head.apply({"params": silent}, pyramid)
    np.testing.assert_array_equal(without.quality, out.quality)
    assert not np.array_equal(getattr(without, changed), getattr(out, changed))


def test_level_scale_multiplies_the_codes_of_its_level():
    head, pyramid = _head(level_scale=True), _pyramid()
    params = _variables(head, pyramid)["params"]
    np.testing.assert_array_equal(params["level_scale"], np.ones(3))
    before = head.apply({"params": params}, pyramid)
    scales = jnp.array([2.0, 3.0, 5.0])
    after = head.apply({"params": {**params, "level_scale": scales}}, pyramid)
    factor = np.repeat(scales, [2 * r * c for r, c in SIZES])
    np.testing.assert_allclose(after.codes, np.asarray(before.codes) * factor[:, None], rtol=1e-6)
    np.testing.assert_array_equal(after.logits, before.logits)


@pytest.mark.parametrize("bias", [None, True, False])
@pytest.mark.parametrize("norm", [None, norms.GroupNorm])
def test_tower_bias(norm, bias):
    head = _head(norm=norm, tower_bias=bias)
    params = jax.eval_shape(head.init, jax.random.key(0), _pyramid())["params"]
    expected = norm is None if bias is None else bias
    assert ("bias" in params["box_tower"]["conv0"]) == expected
    assert ("norm0" in params["box_tower"]) == (norm is not None)


@pytest.mark.parametrize("prior", [0.01, 0.1])
def test_mean_class_score_starts_at_the_prior(prior):
    head = dense_head.DenseHead(num_classes=4, depth=4, width=64, prior=prior)
    pyramid = _pyramid(64)
    out = jax.jit(head.init_with_output)(jax.random.key(1), pyramid)[0]
    np.testing.assert_allclose(jax.nn.sigmoid(out.logits).mean(), prior, rtol=0.1)
    np.testing.assert_allclose(out.codes, 0.0, atol=0.1)


def test_initial_deviation_is_a_hundredth():
    head = dense_head.DenseHead(num_classes=4, depth=2, width=64)
    params = _variables(head, _pyramid(64))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "kernel":
            assert 0.0095 < np.std(leaf) < 0.0105, path
        elif path[0].key == "class_output":
            np.testing.assert_allclose(leaf, -np.log(99.0), rtol=1e-6)
        else:
            np.testing.assert_array_equal(leaf, 0.0)


def test_half_precision_gives_float32_close_to_full():
    pyramid = _pyramid()
    options = {"quality": "box", "level_scale": True, "norm": norms.GroupNorm, "depth": 2}
    variables = _variables(_head(**options), pyramid)
    full = jax.jit(_head(**options).apply)(variables, pyramid)
    half = jax.jit(_head(dtype=jnp.bfloat16, **options).apply)(variables, pyramid)
    for a, b in (
        (half.logits, full.logits),
        (half.codes, full.codes),
        (half.quality, full.quality),
    ):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max())


@pytest.mark.parametrize("options", [{"quality": "both"}, {"prior": 0.0}, {"prior": 1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        dense_head.DenseHead(num_classes=3, **options)


SLICED = {  # own slots, kept, what the head becomes
    "of one level": (None, ((1,), (0, 1, 2), (0, 1, 2)), (3, [[1], [0, 1, 2], [0, 1, 2]])),
    "of all levels": (None, ((0, 2),) * 3, (2, None)),
    "a shape and levels": (None, ((), (0, 2)), (2, [[], [0, 1]])),
    "again": (((0, 2), (), (1, 2)), ((1,), (), (0, 1)), (2, [[1], [], [0, 1]])),
    "again, and the last level": (((0, 2), (0, 1, 2), ()), ((1,), (2,)), (1, None)),
}


@pytest.mark.parametrize("case", SLICED)
def test_a_sliced_head_says_what_the_whole_one_says_of_the_shapes_that_stay(case):
    slots, kept, (shapes, after) = SLICED[case]
    head = _head(shapes_per_cell=3, quality="box", level_scale=True, slots=slots)
    pyramid = _pyramid()
    shapes_of = jax.eval_shape(head.init, jax.random.key(0), pyramid)["params"]
    params = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), shapes_of)
    changes = head.sliced(kept)
    assert changes == {"shapes_per_cell": shapes, "slots": after}
    changes["slots"] = after and tuple(map(tuple, after))
    smaller, fewer = head.clone(**changes), pyramid[: len(kept)]
    sliced = head.sliced_params(params, kept)
    needed = jax.eval_shape(smaller.init, jax.random.key(0), fewer)["params"]
    assert jax.tree.map(jnp.shape, sliced) == jax.tree.map(jnp.shape, needed)
    now = slots or ((0, 1, 2),) * len(SIZES)
    stays = [
        np.tile(np.isin(range(len(own)), level), rows * columns)
        for own, level, (rows, columns) in zip(now, (*kept, ())[:3], SIZES, strict=True)
    ]
    whole = jax.jit(head.apply)({"params": params}, pyramid)
    out = jax.jit(smaller.apply)({"params": sliced}, fewer)
    for name in ("logits", "codes", "quality"):
        want = getattr(whole, name)[:, np.concatenate(stays)]
        np.testing.assert_allclose(getattr(out, name), want, rtol=1e-4, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    "options", [{}, {"depth": 0}, {"depth": 3, "width": 4, "quality": "class"}], ids=str
)
def test_multiply_adds_are_those_of_the_network(options):
    pyramid = tuple(x[:1] for x in _pyramid())
    cells, channels = [rows * columns for rows, columns in SIZES], [6, 6, 6]
    for counts in ((2, 2, 2), (0, 1, 1)):
        slots = tuple(tuple(range(n)) for n in counts)
        head = _head(shapes_per_cell=max(counts), slots=slots, **options)
        variables = jax.eval_shape(head.init, jax.random.key(0), pyramid)
        want = count.multiply_adds(head.apply, variables, pyramid)
        assert _head(**options).multiply_adds(cells, counts, channels) == want


def test_multiply_adds_as_published():
    """Retinanet on COCO, and without the finest level and one shape: 76 % fewer."""
    cells = [h * w for h, w in ((100, 150), (50, 75), (25, 38), (13, 19), (7, 10))]
    head = dense_head.DenseHead(num_classes=80)
    full, pruned = (
        head.multiply_adds(cells, counts, [256] * 5) for counts in ((9,) * 5, (0, 8, 8, 8, 8))
    )
    assert (round(full / 1e9), round(pruned / 1e9)) == (129, 31)
    assert pruned / full == pytest.approx(1 - 0.76, abs=0.005)
