"""Hard examples and samples: slow references, and what a dense objective does with the choice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import boxes as geometry
from anchors_jax import codecs, losses, selection
from anchors_jax.assign import max_iou
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Assignment, DensePredictions, Targets

ANCHORS = make.grid(
    make.relative(scales=(2.0, 3.0), ratios=(1.0,)), maps=((6, 7), (3, 4)), strides=(8, 16)
)
COUNT = len(ANCHORS.boxes)
CLASSES = 3
CODEC = codecs.deltas()


class TestHardest:
    choose = staticmethod(jax.jit(selection.hardest))

    @pytest.mark.parametrize("count", [0, 1, 7, 60, 200])
    def test_equals_a_stable_ranking(self, count):
        random = np.random.default_rng(count)
        values = random.exponential(1.0, 200).astype(np.float32)
        values[::3] = np.float32(1.25)  # ties
        values[::17] = 0.0
        candidates = random.uniform(size=200) < 0.6
        ranked = np.argsort(-np.where(candidates, values, -1), kind="stable")
        want = np.zeros(200, bool)
        want[ranked[:count]] = True
        np.testing.assert_array_equal(self.choose(values, candidates, count), want & candidates)

    def test_extreme_values(self):
        values = jnp.float32([0.0, 3e38, 1e-42, np.inf, -1e-7])
        every = jnp.ones(5, bool)
        np.testing.assert_array_equal(
            self.choose(values, every, 2), [False, True, False, True, False]
        )
        assert self.choose(values, every, 9).all()


def slow_survivors(values, chosen, threshold):
    """Indices that greedy suppression leaves, by decreasing loss, one comparison at a time."""
    overlap = np.asarray(geometry.pairwise(geometry.iou, ANCHORS.boxes, ANCHORS.boxes))
    kept = []
    for index in np.argsort(-values, kind="stable"):
        if chosen[index] and all(overlap[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return kept


def slow_choice(values, positive, candidates, number, threshold, negatives_per_positive):
    """What `selection.online` says, from the whole list of survivors."""
    if negatives_per_positive is None:
        return slow_survivors(values, candidates, threshold)[:number]
    share = number // (1 + negatives_per_positive)
    hits = slow_survivors(values, candidates & positive, threshold)[:share]
    others = slow_survivors(values, candidates & ~positive, threshold)
    return hits + others[: min(number - share, negatives_per_positive * len(hits))]


def online(values, positive, candidates, **keywords):
    """The anchors that `selection.online` trains, from losses that are all of classes."""
    values, positive = jnp.asarray(values, jnp.float32), jnp.asarray(positive)
    given = Assignment(
        gt=jnp.zeros(COUNT, jnp.int32),
        positive=positive & candidates,
        ignored=jnp.asarray(~candidates),
    )
    losses_of = selection.Losses(classes=values, boxes=jnp.zeros(COUNT))
    chosen = selection.online(given, ANCHORS, lambda: losses_of, None, **keywords)
    assert chosen.count == max(chosen.trained.sum(), 1)
    return np.asarray(chosen.trained)


@pytest.mark.parametrize("negatives_per_positive", [None, 3])
@pytest.mark.parametrize(("number", "threshold"), [(8, 0.5), (16, 0.3), (COUNT, 0.7)])
def test_equals_the_whole_list_cut(number, threshold, negatives_per_positive):
    random = np.random.default_rng(number)
    values = random.exponential(1.0, COUNT).astype(np.float32)
    positive, candidates = random.uniform(size=(2, COUNT)) < [[0.05], [0.8]]
    got = online(
        values,
        positive,
        candidates,
        number=number,
        iou_threshold=threshold,
        negatives_per_positive=negatives_per_positive,
    )
    want = slow_choice(values, positive, candidates, number, threshold, negatives_per_positive)
    assert set(np.flatnonzero(got)) == set(want)
    assert 0 < len(want) <= number


def test_without_positives_a_fixed_proportion_trains_nothing():
    every = np.ones(COUNT, bool)
    assert not online(np.ones(COUNT), ~every, every, negatives_per_positive=3).any()


class TestDense:
    """The dense objective with mining, on one image with two objects."""

    targets = Targets(
        boxes=jnp.asarray([[2, 2, 20, 17], [20, 10, 50, 40], [0, 0, 0, 0]], jnp.float32),
        labels=jnp.asarray([2, 0, 1]),
        valid=jnp.asarray([True, True, False]),
        crowd=jnp.zeros(3, bool),
    )

    @staticmethod
    def objective(number):
        select = selection.everything
        if number is not None:
            select = functools.partial(selection.online, number=number)
        return dense.objective(
            assign=max_iou.assign,
            classify=terms.sigmoid(loss=losses.class_bce),
            regress=terms.on_codes(codec=CODEC),
            select=select,
        )

    @staticmethod
    def predictions():
        random = np.random.default_rng(3)
        return DensePredictions(
            logits=jnp.asarray(random.normal(-1.0, 1.0, (COUNT, CLASSES)), jnp.float32),
            codes=jnp.asarray(random.normal(0.0, 0.5, (COUNT, 4)), jnp.float32),
            maps=((6, 7), (3, 4)),
        )

    def run(self, number):
        """Terms, statistics, and the anchors with a gradient on their logits and on their codes."""
        objective = self.objective(number)

        def total(predictions):
            terms, statistics = objective.loss(predictions, ANCHORS, self.targets)
            return sum(term.total for term in terms.values()), (terms, statistics)

        slopes, (terms, statistics) = jax.jit(jax.grad(total, has_aux=True))(self.predictions())
        moved = (np.abs(leaf).sum(axis=1) > 0 for leaf in (slopes.logits, slopes.codes))
        return terms, statistics, *moved

    def test_only_chosen_anchors_are_trained_and_counted(self):
        predictions = self.predictions()
        found = max_iou.assign(ANCHORS, self.targets)
        positive = np.asarray(found.positive)
        labels = dense.class_labels(found, self.targets, num_classes=CLASSES)
        values = losses.bce(predictions.logits, losses.one_hot(labels, CLASSES).astype(float)).sum(
            axis=1
        )
        codes = CODEC.encode(self.targets.boxes[found.gt], ANCHORS.boxes)
        boxes = np.where(positive, np.abs(predictions.codes - codes).sum(axis=1), 0.0)
        both = np.asarray(values) + boxes
        chosen = slow_survivors(both, ~np.asarray(found.ignored), 0.7)[:10]
        hits = [index for index in chosen if positive[index]]
        assert 0 < len(hits) < len(chosen)

        terms, statistics, scored, moved = self.run(10)
        assert statistics["hard_examples"] == 10
        assert statistics["positives"] == positive.sum()  # of the assignment, before the choice
        assert set(np.flatnonzero(scored)) == set(chosen)
        assert set(np.flatnonzero(moved)) == set(hits)
        np.testing.assert_allclose(terms["class"].total, values[np.asarray(chosen)].sum(), 1e-5)
        np.testing.assert_allclose(terms["box"].total, boxes[hits].sum(), rtol=1e-5)
        assert terms["class"].count == terms["box"].count == 10

    def test_without_mining_positives_are_counted(self):
        terms, statistics, scored, _ = self.run(None)
        assert terms["class"].count == statistics["positives"] < scored.sum()
        assert "hard_examples" not in statistics
