"""Probabilistic assignment: reference values, the behaviours its description pins, padding."""

import functools
import itertools

import assignments
import golden_cases
import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import codecs, likelihoods, losses, mixture
from anchors_jax.assign import paa
from anchors_jax.types import DensePredictions

MMDET = {"low_quality_owner": "claiming", "separation": "c_members", "min_candidates": 2}
SCHEMES = {"pos_a": "a", "pos_b": "b", "pos_c": "c", "pos_d": "d", "pos_mm": "c_members"}


@jax.jit
def cut_sets(loss, used):
    """{(scheme, min_candidates): (positive, ignored)}, compiled together."""

    def one(loss, used):
        fitted = mixture.fit(loss, used)
        return {
            (scheme, least): paa.separate(loss, used, fitted, scheme=scheme, min_candidates=least)
            for scheme in SCHEMES.values()
            for least in (1, 2)
        }

    return jax.vmap(one)(loss, used)


def cut(values, scheme="c", min_candidates=1):
    """Positive and ignored values of one set of losses, in float32."""
    loss = np.full((1, 8), np.nan, np.float32)
    loss[0, : len(values)] = sorted(values)
    used = jnp.arange(8)[None] < len(values)
    positive, ignored = cut_sets(jnp.asarray(loss), used)[scheme, min_candidates]
    loss = np.round(loss[0].astype(np.float64), 4)
    return set(loss[np.asarray(positive[0])]), set(loss[np.asarray(ignored[0])])


def has_clear_peaks(arrays):
    """Sets whose peaks float32 can tell: the two members of a pair are equally dense up to 1e-7."""
    clear = np.ones(len(arrays["n"]), bool)
    for component in (0, 1):
        density = np.where(arrays["component"] == component, arrays["log_density"], -np.inf)
        first, second = -np.sort(-density, axis=1)[:, :2].T
        clear &= (first > second + 1e-5) | np.isneginf(first)
    assert clear.mean() > 0.9
    return clear


@golden_cases.cases("paa_gmm")
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference_separation(case, name, dtype):
    arrays, scheme = case.arrays, SCHEMES[name]
    used = np.arange(arrays["x"].shape[1])[None] < arrays["n"][:, None]
    with jax.enable_x64(dtype is np.float64):
        loss = jnp.asarray(arrays["x"], dtype)
        found = cut_sets(loss, jnp.asarray(used))
    positive, ignored = found[scheme, 2 if name == "pos_mm" else 1]
    rows = slice(None) if dtype is np.float64 else arrays["stable"] & has_clear_peaks(arrays)
    np.testing.assert_array_equal(positive[rows], arrays[name][rows])
    expected = arrays.get(f"ign_{scheme}", np.zeros_like(used))
    np.testing.assert_array_equal(ignored[rows], expected[rows])


@functools.cache
def matched_image(prefix, topk, gate, stds, alpha, gamma, lambda_s):
    """Sets and assignment of one image under the rules behind the arrays with a prefix."""
    codec = codecs.deltas(stds=stds, limit_both_sides=not prefix)
    focal = functools.partial(losses.focal, alpha=alpha, gamma=gamma)
    keywords = {"topk": topk, "candidate_iou": gate}
    owner = {} if prefix else {"low_quality_owner": MMDET["low_quality_owner"]}

    @jax.jit
    def one(prediction, anchors, targets):
        pairs = likelihoods.class_box(
            prediction, anchors, targets, codec=codec, class_loss=focal, lambda_s=lambda_s
        )
        sets = paa.candidate_sets(anchors, targets, pairs, **keywords, **owner)
        return sets, paa.assign(anchors, targets, pairs, **keywords, **({} if prefix else MMDET))

    return one


@golden_cases.cases("paa_loss")
@pytest.mark.parametrize("prefix", ["", "official_"])
def test_reference_candidates_and_positives(case, prefix):
    params, anchors = case.params, heads.anchors_of(case)
    if prefix:  # anchors in the padding are ordinary ones
        anchors = anchors.replace(valid=jnp.ones_like(anchors.valid))
    names = "topk", "gate", "stds", "focal_alpha", "focal_gamma"
    settings = [params[name] for name in (*names, "score_lambda" if prefix else "box_weight")]
    one = matched_image(prefix, *(tuple(x) if isinstance(x, list) else x for x in settings))
    predictions, targets = heads.predictions_of(case), heads.targets_of(case)

    def run(image):
        prediction, target = jax.tree.map(lambda leaf: leaf[image], (predictions, targets))
        return one(prediction, anchors.replace(valid=anchors.valid[image]), target)

    images = map(run, range(len(anchors.valid)))
    sets, assignment = jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    arrays, used = case.arrays, np.asarray(sets.used)
    index = arrays[f"{prefix}gmm_idx"]
    width = used.shape[2]  # theirs has topk slots also on levels with fewer anchors
    np.testing.assert_array_equal(np.where(used, sets.anchor, -1), index[..., :width])
    assert (index[..., width:] == -1).all()
    loss = arrays[f"{prefix}gmm_loss"][..., :width]
    np.testing.assert_allclose(np.asarray(sets.loss)[used], loss[used], rtol=1e-4, atol=2e-6)
    positive = np.asarray(assignment.positive)
    chosen = np.take_along_axis(positive[:, None], np.maximum(sets.anchor, 0), axis=2) & used
    np.testing.assert_array_equal(chosen, arrays[f"{prefix}gmm_pos"][..., :width])
    assert positive.sum() == arrays[f"{prefix}num_pos"]
    labels = np.take_along_axis(np.asarray(targets.labels), np.asarray(assignment.gt), axis=1)
    labels = np.where(positive, labels, case.params["num_classes"])
    np.testing.assert_array_equal(labels, arrays["official_labels" if prefix else "labels_after"])
    if prefix:
        np.testing.assert_array_equal(np.where(positive, assignment.gt, -1), arrays["official_gt"])
    np.testing.assert_array_equal(assignment.ignored, ~np.asarray(anchors.valid))


@pytest.mark.parametrize(
    ("values", "scheme", "positive", "ignored"),
    [
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "a", {0.9, 1.0, 1.05, 1.2}, set()),
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "b", {0.9, 1.0, 1.05}, {1.2, 3.0}),
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "c", {0.9, 1.0, 1.05}, set()),
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "d", {0.9, 1.0, 1.05}, {1.2}),
        ((0.7, 1.0, 1.3, 2.1, 2.3, 2.9, 3.4, 3.9), "c", {0.7, 1.0, 1.3}, set()),
        # The wide high component owns both ends: the cut is a prefix, not a component.
        ((0.5, 1.0, 1.1, 1.2, 1.25, 2.0), "c", {0.5, 1.0, 1.1}, set()),
        ((0.5, 1.0, 1.1, 1.2, 1.25, 2.0), "c_members", {1.0, 1.1}, set()),
        ((1.0, 3.0), "c", {1.0}, set()),
        ((4.0,), "c", {4.0}, set()),
        ((4.0,), "b", {4.0}, set()),
    ],
)
def test_sets_worked_out_by_hand(values, scheme, positive, ignored):
    assert cut(values, scheme=scheme) == (positive, ignored)


def test_degenerate_sets():
    equal = jnp.full((1, 8), 2.5)
    positive, _ = cut_sets(equal, jnp.arange(8)[None] < 4)["c", 1]
    np.testing.assert_array_equal(positive, [[True] + 7 * [False]])
    assert cut((4.0,), min_candidates=2) == (set(), set())
    nothing = cut_sets(equal, jnp.zeros(equal.shape, bool))
    assert not any(mask.any() for mask in jax.tree.leaves(nothing))


def test_without_a_low_component_all_are_positive():
    high = mixture.Mixture(
        origin=jnp.float32(0.0),
        mean=jnp.asarray([9.0, 1.0]),
        variance=jnp.ones(2),
        weight=jnp.asarray([0.5, 0.5]),
        iterations=jnp.int32(1),
    )
    loss, used = jnp.asarray([0.9, 1.0, 1.1, 0.0]), jnp.asarray([True, True, True, False])
    separate = jax.jit(paa.separate, static_argnames="scheme")
    for scheme in ("b", "c", "d"):
        positive, ignored = separate(loss, used, high, scheme=scheme)
        np.testing.assert_array_equal(positive, used)
        assert not ignored.any()
    for scheme in ("a", "c_members"):
        assert not separate(loss, used, high, scheme=scheme)[0].any()


SIDE, STRIDES = 256, (8, 16, 32, 64, 128)
GRID = make.grid(
    make.relative(scales=(8.0,), ratios=(1.0,)),
    maps=tuple((SIDE // s, SIDE // s) for s in STRIDES),
    strides=STRIDES,
)
COUNT = len(GRID.boxes)
STARTS = np.cumsum([0, *GRID.level_counts])
CODEC = codecs.deltas(stds=(0.1, 0.1, 0.2, 0.2), limit_both_sides=False)


targets_of = functools.partial(assignments.targets_of, slots=4)


def matrix(seed=0, slots=4):
    """A log-likelihood for every pair."""
    values = -np.random.default_rng(seed).exponential(2.0, (slots, COUNT))
    return jnp.asarray(values, jnp.float32)


def groups(targets):
    """How many candidates each object has on each level, before the best are taken."""
    sets = candidate_sets(targets, matrix(slots=targets.valid.shape[0]), topk=COUNT)
    level = np.searchsorted(STARTS, np.asarray(sets.anchor), side="right") - 1
    counts = [
        [(level[g][used] == k).sum() for k in range(len(STRIDES))]
        for g, used in enumerate(np.asarray(sets.used))
    ]
    return np.array(counts)


@functools.partial(jax.jit, static_argnames=("topk",))
def candidate_sets(targets, log_likelihood, topk=9):
    return paa.candidate_sets(GRID, targets, log_likelihood, topk=topk)


@functools.partial(jax.jit, static_argnames=("separation", "topk"))
def assign(targets, log_likelihood, **keywords):
    return paa.assign(GRID, targets, log_likelihood, **keywords)


def test_anchors_of_the_canvas():
    assert COUNT == 1364
    np.testing.assert_array_equal(GRID.boxes[0], [-28, -28, 36, 36])
    np.testing.assert_array_equal(GRID.boxes[1360], [-448, -448, 576, 576])


@pytest.mark.parametrize(
    ("box", "candidates", "slots"),
    [
        # Inside 49 anchors of P3 with the same IoU, 1/16, below the threshold.
        ((100, 100, 116, 116), (49, 0, 0, 0, 0), 9),
        ((101, 102, 165, 166), (131, 63, 0, 0, 0), 18),
        # Outside the image: the largest anchors reach it.
        ((-300, -300, -250, -250), (0, 0, 0, 0, 4), 4),
        ((50, 50, 50, 90), (0, 0, 0, 0, 0), 0),
        ((-2000, -2000, -1900, -1900), (0, 0, 0, 0, 0), 0),
    ],
)
def test_candidates_of_one_object(box, candidates, slots):
    targets = targets_of([box])
    np.testing.assert_array_equal(groups(targets)[0], candidates)
    sets = candidate_sets(targets, matrix())
    assert sets.used.shape == (4, 40)
    assert sets.used[0].sum() == slots
    assert not sets.used[1:].any()


def scene(seed=3, count=4):
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 160, (count, 2)), random.uniform(10, 90, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def test_sets_hold_the_best_of_each_level():
    targets, pairs = targets_of(scene()), np.asarray(matrix())
    sets = jax.tree.map(np.asarray, candidate_sets(targets, matrix()))
    everyone = jax.tree.map(np.asarray, candidate_sets(targets, matrix(), topk=COUNT))
    for g in range(4):
        own = everyone.anchor[g][everyone.used[g]]
        expected = []
        for low, high in itertools.pairwise(STARTS):
            level = sorted(a for a in own if low <= a < high)
            expected += sorted(level, key=lambda a, g=g: -pairs[g, a])[:9]
        expected.sort(key=lambda a, g=g: -pairs[g, a])
        used = sets.used[g]
        np.testing.assert_array_equal(sets.anchor[g][used], expected)
        np.testing.assert_array_equal(sets.loss[g][used], -pairs[g, expected])
        assert not used[len(expected) :].any()
    found = sets.anchor[sets.used]
    assert len(found) == len(set(found.tolist()))  # nobody is a candidate twice


def test_equal_losses_go_to_the_lower_anchor():
    targets = targets_of([(100, 100, 116, 116)])
    sets = candidate_sets(targets, jnp.zeros((4, COUNT)))
    best = np.asarray(sets.anchor[0, :9])
    everyone = candidate_sets(targets, matrix(), topk=COUNT)
    candidates = np.sort(np.asarray(everyone.anchor[0])[np.asarray(everyone.used[0])])
    np.testing.assert_array_equal(best, candidates[:9])
    found = np.flatnonzero(assign(targets, jnp.zeros((4, COUNT))).positive)
    np.testing.assert_array_equal(found, candidates[:1])


def test_identical_objects_go_to_the_lower_slot():
    box = (100, 100, 160, 150)
    found = assign(targets_of([box, box]), matrix())
    assert found.positive.any()
    assert not np.asarray(found.gt)[np.asarray(found.positive)].any()
    for g in (1, 2):
        assert not candidate_sets(targets_of([box, box]), matrix()).used[g].any()


@pytest.mark.parametrize("separation", ["b", "c"])
def test_slots_can_be_permuted_and_their_padding_is_nothing(separation):
    boxes, pairs = scene(), matrix(slots=7)
    keywords = {"separation": separation}
    want = assign(targets_of(boxes, slots=7), pairs, **keywords)
    assert want.ignored.any() == (separation == "b")
    for filler in (0.0, np.inf, 70.0):
        got = assign(
            targets_of(boxes, slots=7, filler=filler), pairs.at[4:].set(filler), **keywords
        )
        jax.tree.map(np.testing.assert_array_equal, got, want)
    order = np.array([5, 2, 0, 6, 1, 3, 4])
    moved = jax.tree.map(lambda leaf: leaf[order], targets_of(boxes, slots=7))
    got = assign(moved, pairs[order], **keywords)
    np.testing.assert_array_equal(got.positive, want.positive)
    np.testing.assert_array_equal(got.ignored, want.ignored)
    np.testing.assert_array_equal(np.where(got.positive, order[got.gt], 0), want.gt)


def test_a_function_of_the_objects_serves_as_the_matrix():
    pairs = matrix()

    @jax.jit
    def lazily(targets):
        return paa.assign(GRID, targets, lambda objects: pairs[objects, jnp.arange(COUNT)])

    for boxes in (scene(), []):
        targets = targets_of(boxes)
        jax.tree.map(np.testing.assert_array_equal, lazily(targets), assign(targets, pairs))


def predictions_at(boxes, logits):
    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (COUNT, len(logits)))
    return DensePredictions(
        logits=logits,
        codes=CODEC.encode(jnp.asarray(boxes, jnp.float32)[None], GRID.boxes),
        maps=tuple((SIDE // s, SIDE // s) for s in STRIDES),
    )


@jax.jit
def log_likelihood(predictions, targets, objects, lambda_s=1.0):
    pairs = likelihoods.class_box(predictions, GRID, targets, codec=CODEC, lambda_s=lambda_s)
    return pairs(objects)


@pytest.mark.parametrize(
    ("predicted", "box", "logits", "loss"),
    [
        ((5, 0, 15, 10), (5, 0, 15, 10), (0, 0, 0), 0.303252),
        ((0, 0, 10, 10), (5, 0, 15, 10), (0, 0, 0), 0.969919),  # IoU = GIoU = 1/3
        ((0, 0, 10, 10), (20, 0, 30, 10), (0, 0, 0), 0.303252 + 4 / 3),  # GIoU = -1/3
        ((5, 0, 15, 10), (5, 0, 15, 10), (-4.59512,) * 80, 1.128441),
    ],
)
def test_likelihood_by_hand(predicted, box, logits, loss):
    arguments = predictions_at(predicted, logits), targets_of([box])
    got = log_likelihood(*arguments, jnp.zeros(COUNT, jnp.int32))
    np.testing.assert_allclose(got[STARTS[:-1]], -loss, rtol=2e-4)  # one of each level
    empty = log_likelihood(*arguments, jnp.ones(COUNT, jnp.int32))  # a slot full of NaN
    assert np.isneginf(empty).all()


def test_the_weight_of_the_box_loss_is_a_keyword():
    arguments = predictions_at((0, 0, 10, 10), (0.0,) * 3), targets_of([(20, 0, 30, 10)])
    objects = jnp.zeros(COUNT, jnp.int32)
    one, two = (log_likelihood(*arguments, objects, x) for x in (1.0, 2.5))
    np.testing.assert_allclose(one[:9] - two[:9], 1.5 * 4 / 3, rtol=1e-4)


def test_signals_are_means_over_objects_with_a_mixture():
    targets, pairs = targets_of(scene()), matrix()
    signals = jax.jit(functools.partial(paa.signals, GRID))
    got = signals(targets, pairs)
    sets = candidate_sets(targets, pairs)
    assert (sets.used.sum(axis=1) > 1).all()
    fitted = jax.jit(jax.vmap(mixture.fit))(sets.loss, sets.used)
    gap, variance = fitted.mean[:, 1] - fitted.mean[:, 0], fitted.variance.mean(axis=1)
    expected = np.minimum(gap / np.sqrt(variance), 10.0).mean()
    assert float(got["mixture_separation"]) == pytest.approx(expected, rel=1e-4)
    assert float(got["mixture_iterations"]) == pytest.approx(fitted.iterations.mean())
    assert not any(signals(targets_of([]), pairs).values())
