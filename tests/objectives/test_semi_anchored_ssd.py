"""Semi-Anchored where levels differ in their number of anchors: as if each level stood alone."""

import functools

import contracts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.semi_anchored_problem import parts

from anchors_jax import anchors as make
from anchors_jax import codecs
from anchors_jax.assign import max_iou
from anchors_jax.models import count, semi_anchored_ssd_head
from anchors_jax.objectives import locations, semi_anchored
from anchors_jax.types import SemiAnchoredPredictions, Targets

MAPS, STRIDES, SHAPES, CLASSES = ((6, 6), (3, 3)), (8, 16), (4, 6), 3
LEVELS = range(len(MAPS))
BOXES = {"min_sizes": (12, 20), "max_sizes": (20, 32), "ratios": ((2,), (2, 3))}
MOST = max(SHAPES)
PLACES = [rows * columns for rows, columns in MAPS]
# Without forced matches an anchor's label depends on nothing on other levels.
ASSIGN = functools.partial(max_iou.assign, match_low_quality=False)
LABELS = {
    "by anchors": functools.partial(locations.by_anchors, assign=ASSIGN),
    "gamma": functools.partial(locations.by_anchors, assign=ASSIGN, gamma=0.3),
    "all regress": functools.partial(
        locations.by_anchors, assign=ASSIGN, regress="all_at_positive", ignore_between=False
    ),
    "by centres": functools.partial(locations.by_centres, assign=contracts.documented("assign")),
}


def grid(levels=tuple(LEVELS)):
    """The grid of some of the levels."""
    part = {key: tuple(values[i] for i in levels) for key, values in BOXES.items()}
    strides = [STRIDES[i] for i in levels]
    anchors = make.grid(make.ssd(**part), maps=[MAPS[i] for i in levels], strides=strides)
    return anchors.replace(valid=anchors.boxes[:, 0] + anchors.boxes[:, 2] < 2 * 42)


def predictions(seed=0):
    """Random predictions, padding included."""
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=(sum(PLACES), *shape)), jnp.float32)

    return SemiAnchoredPredictions(
        logits=draw(CLASSES), anchor_logits=draw(MOST), codes=0.3 * draw(MOST, 4), maps=MAPS
    )


def of_level(whole, level):
    """The predictions of one level, without padding."""
    begin = sum(PLACES[:level])
    part = slice(begin, begin + PLACES[level])
    shapes = SHAPES[level]
    return SemiAnchoredPredictions(
        logits=whole.logits[part],
        anchor_logits=None if whole.anchor_logits is None else whole.anchor_logits[part, :shapes],
        codes=whole.codes[part, :shapes],
        maps=MAPS[level : level + 1],
    )


TARGETS = Targets(
    boxes=jnp.float32([[4, 4, 20, 22], [10, 10, 36, 40], [np.nan] * 4, [20, 2, 46, 16]]),
    labels=jnp.int32([0, 2, 9, 2]),
    valid=jnp.asarray([True, True, False, True]),
    crowd=jnp.zeros(4, bool),
)


def build(label="by anchors", **choice):
    codec = codecs.deltas(stds=(0.1, 0.1, 0.2, 0.2))
    choose = functools.partial(semi_anchored.choose, **choice)
    return semi_anchored.objective(label=LABELS[label], **parts(codec), choose=choose)


@pytest.mark.parametrize("label", LABELS)
def test_losses_are_the_sums_of_the_levels(label):
    objective, whole = build(label), predictions()
    loss = jax.jit(objective.loss)
    terms, statistics = loss(whole, grid(), TARGETS)
    parts = [loss(of_level(whole, level), grid((level,)), TARGETS) for level in LEVELS]
    assert statistics["positives"] > 0
    assert statistics["anchors_positive_after"] > 0
    for name, term in terms.items():
        for got, want in (
            (term.total, sum(part[0][name].total for part in parts)),
            (term.count, sum(part[0][name].count for part in parts)),
        ):
            np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)
    for name in ("positives", "ignored", "anchors_regressed", "anchors_positive_before"):
        assert statistics[name] == sum(part[1][name] for part in parts), name


@pytest.mark.parametrize("label", LABELS)
def test_what_the_padding_holds_does_not_matter(label):
    objective, whole, anchors = build(label), predictions(), grid()
    real = jnp.asarray(locations.cells_of(anchors).real)
    other = whole.replace(
        anchor_logits=jnp.where(real, whole.anchor_logits, 50.0),
        codes=jnp.where(real[..., None], whole.codes, -30.0),
    )

    @jax.jit
    def gradient(values):
        def total(values):
            terms, _ = objective.loss(values, anchors, TARGETS)
            return sum(term.total for term in terms.values())

        return jax.value_and_grad(total)(values)

    (value, got), (same, want) = gradient(other), gradient(whole)
    assert value == same
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert not np.asarray(got.codes)[~real].any()
    assert not np.asarray(got.anchor_logits)[~real].any()


@pytest.mark.parametrize("top_k", [1, 5, 25])
def test_candidates_are_those_of_the_levels(top_k):
    objective, whole = build(top_k=top_k), predictions()
    size = jnp.asarray([48, 48])
    decode = jax.jit(objective.decode)
    found = decode(whole, grid(), size)
    k = min(top_k, MOST)
    assert found.level_counts == tuple(k * places for places in PLACES)
    rows = found.scores.reshape(-1, k, CLASSES), found.boxes.reshape(-1, k, 4)
    for level in LEVELS:
        part = decode(of_level(whole, level), grid((level,)), size)
        begin, kept = sum(PLACES[:level]), min(k, SHAPES[level])
        got = [value[begin : begin + PLACES[level]] for value in rows]
        want = part.scores.reshape(-1, kept, CLASSES), part.boxes.reshape(-1, kept, 4)
        # All anchors of a location come in their own order, the best of them by score.
        got, want = (in_order(*map(np.asarray, pair)) for pair in (got, want))
        np.testing.assert_allclose(got[:, :kept], want, rtol=1e-6, atol=1e-4)
        assert not got[:, kept:].any()


def in_order(scores, boxes):
    """Scores and boxes [P, k, K + 4] of each location, best first; zeros where the score is."""
    rows = np.concatenate([scores, np.where(scores.max(-1, keepdims=True) > 0, boxes, 0)], -1)
    order = np.argsort(-scores[..., :1], axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def test_without_an_anchor_output_only_real_anchors_are_drawn():
    whole = predictions().replace(anchor_logits=None)
    for key in range(5):
        found = build(key=key).decode(whole, grid(), jnp.asarray([48, 48]))
        first = np.concatenate([np.full(n, sum(SHAPES[:i])) for i, n in enumerate(PLACES)])
        last = first + np.concatenate([np.full(n, SHAPES[i]) for i, n in enumerate(PLACES)])
        assert ((found.shape >= first) & (found.shape < last)).all()


def test_matches_come_back_in_the_order_of_the_anchors():
    objective, anchors = build(), grid()
    found = jax.jit(objective.match)(predictions(), anchors, TARGETS)
    each = jax.jit(ASSIGN)(anchors, TARGETS)
    assert found.positive.shape == anchors.valid.shape
    # Every positive anchor makes its location positive: they are the same.
    np.testing.assert_array_equal(found.positive, each.positive)
    np.testing.assert_array_equal(found.gt, each.gt)


def test_cells_put_anchors_in_rows_and_back():
    anchors = grid()
    cells = locations.cells_of(anchors)
    assert cells.padded
    assert cells.shapes == MOST
    np.testing.assert_array_equal(cells.flat(cells.rows(anchors.boxes)), anchors.boxes)
    of_row = np.asarray(cells.rows(anchors.cell))
    np.testing.assert_array_equal(
        of_row, np.broadcast_to(np.arange(sum(PLACES))[:, None], of_row.shape)
    )
    even = locations.cells_of(grid((0,)))
    assert not even.padded
    np.testing.assert_array_equal(even.flat(even.rows(anchors.boxes[:144])), anchors.boxes[:144])


def test_bad_input_is_named():
    empty = make.grid(make.explicit(sizes=[[(4, 4)], []]), maps=((2, 2), (1, 1)), strides=(8, 16))
    with pytest.raises(ValueError, match=r"at least one anchor on every level, not \[1, 0\]"):
        locations.cells_of(empty)
    short = predictions().replace(codes=predictions().codes[:, :4])
    with pytest.raises(ValueError, match=r"shapes_per_cell = \(4, 6\)"):
        build().loss(short, grid(), TARGETS)
    head = semi_anchored_ssd_head.SemiAnchoredSSDHead
    with pytest.raises(ValueError, match=r"prior 1\.0"):
        head(num_classes=3, prior=1.0)


MAPS_IN = [jax.ShapeDtypeStruct((2, *size, 8), jnp.float32) for size in MAPS]


def init(model):
    return jax.eval_shape(model.init, jax.random.key(0), MAPS_IN)


def test_the_head_pads_short_levels_with_zeros():
    model = semi_anchored_ssd_head.SemiAnchoredSSDHead(num_classes=CLASSES, shapes_per_cell=SHAPES)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), init(model))
    out = model.apply(params, [jnp.ones(leaf.shape) for leaf in MAPS_IN])
    real = locations.cells_of(grid()).real
    assert out.maps == MAPS
    assert out.logits.shape == (2, sum(PLACES), CLASSES)
    np.testing.assert_array_equal(out.anchor_logits[0] != 0, real)
    np.testing.assert_array_equal(out.codes[0, ..., 3] != 0, real)
    per_level = 9 * 8 + 1  # of a channel
    assert count.parameters(params) == per_level * sum(CLASSES + 5 * s for s in SHAPES)


def test_heads_without_anchors_on_a_level_are_named():
    for shapes, message in (((4, 0), "a level without anchors"), ((4, 6, 4), "for 2 maps")):
        with pytest.raises(ValueError, match=message):
            init(semi_anchored_ssd_head.SemiAnchoredSSDHead(CLASSES, shapes_per_cell=shapes))
