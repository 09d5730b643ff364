"""Probabilistic assignment on a canvas: candidates, ties, padding, likelihoods, signals."""

import functools
import itertools

import assignments
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import codecs, likelihoods, mixture
from anchors_jax.assign import frame, paa
from anchors_jax.types import Predicted

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


def of_pairs(pairs):
    """A matrix of log-likelihoods as a function of each anchor's object."""
    return lambda objects: pairs[objects, jnp.arange(COUNT)]


@functools.partial(jax.jit, static_argnames=("topk",))
def candidate_sets(targets, pairs, topk=9):
    return paa.candidate_sets(GRID, targets, of_pairs(pairs), topk=topk)


NOTHING = Predicted(boxes=GRID.boxes, logits=jnp.zeros((COUNT, 1)))


@functools.partial(jax.jit, static_argnames=("separation", "topk"))
def assign(targets, pairs, **keywords):
    def likelihood(predicted, targets):
        return of_pairs(pairs)

    given = functools.partial(paa.assign, likelihood=likelihood, **keywords)
    return frame.assigned(given, GRID, targets, NOTHING)


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


def predictions_at(boxes, logits):
    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (COUNT, len(logits)))
    boxes = CODEC.decode(
        CODEC.encode(jnp.asarray(boxes, jnp.float32)[None], GRID.boxes), GRID.boxes
    )
    return Predicted(boxes=boxes, logits=logits)


@jax.jit
def log_likelihood(predicted, targets, objects, lambda_s=1.0):
    return likelihoods.class_box(predicted, targets, lambda_s=lambda_s)(objects)


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
    got = assign(targets, pairs).signals
    sets = candidate_sets(targets, pairs)
    assert (sets.used.sum(axis=1) > 1).all()
    fitted = jax.jit(jax.vmap(mixture.fit))(sets.loss, sets.used)
    gap, variance = fitted.mean[:, 1] - fitted.mean[:, 0], fitted.variance.mean(axis=1)
    expected = np.minimum(gap / np.sqrt(variance), 10.0).mean()
    assert float(got["mixture_separation"]) == pytest.approx(expected, rel=1e-4)
    assert float(got["mixture_iterations"]) == pytest.approx(fitted.iterations.mean())
    assert not any(assign(targets_of([]), pairs).signals.values())
