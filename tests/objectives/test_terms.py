"""The parts of objectives: ranks that are checked, soft scores, weights, steps, random samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import anchors_of, targets_of

from anchors_jax import codecs, losses, selection
from anchors_jax.assign import max_iou
from anchors_jax.objectives import dense, terms
from anchors_jax.types import DensePredictions, Moment

ANCHORS = anchors_of([[0, 0, 10, 10], [0, 0, 10, 12], [40, 0, 50, 10], [80, 0, 90, 10]])
TARGETS = targets_of([[0, 0, 10, 10], [40, 0, 50, 9]], slots=3, labels=(1, 0))
CODEC = codecs.deltas()
PREDICTIONS = DensePredictions(
    logits=jnp.asarray([[0.2, -0.3], [1.0, 0.4], [-2.0, 0.1], [0.3, 0.9]]),
    codes=jnp.asarray([[0.1, 0.2, -0.1, 0.0]] * 4),
    maps=((1, 4),),
)


def objective(assign=max_iou.assign, **parts):
    whole = {"classify": terms.sigmoid(), "regress": terms.on_codes(codec=CODEC)} | parts
    return dense.objective(assign=assign, **whole)


def test_a_loss_of_boxes_is_refused_on_codes_and_the_other_way_round():
    with pytest.raises(ValueError, match="use on_boxes"):
        terms.on_codes(codec=CODEC, loss=losses.giou)
    with pytest.raises(ValueError, match="use on_codes"):
        terms.on_boxes(codec=CODEC, loss=losses.l1)


def test_soft_scores_reach_a_loss_that_asks_for_them():
    score = jnp.asarray([0.9, 0.5, 0.3, 0.0])

    def soft(anchors, targets):
        return max_iou.assign(anchors, targets).replace(score=score)

    def quality_focal(logits, labels, score):
        return losses.quality_focal(logits, labels, score)

    got, _ = objective(soft, classify=terms.sigmoid(loss=quality_focal)).loss(
        PREDICTIONS, ANCHORS, TARGETS
    )
    labels = jnp.asarray([1, 1, 0, 2])
    want = losses.quality_focal(PREDICTIONS.logits, labels, score).sum()
    np.testing.assert_allclose(got["class"].total, want, rtol=1e-6)
    with pytest.raises(ValueError, match="no argument 'score'"):
        objective(soft).loss(PREDICTIONS, ANCHORS, TARGETS)


def test_weights_multiply_losses_and_count_in_the_divisor():
    weight = jnp.asarray([0.5, 2.0, 1.5, 0.25])

    def weighted(anchors, targets):
        return max_iou.assign(anchors, targets).replace(weight=weight)

    got, _ = objective(weighted).loss(PREDICTIONS, ANCHORS, TARGETS)
    each = losses.focal(PREDICTIONS.logits, jnp.asarray([1, 1, 0, 2])).sum(axis=1)
    np.testing.assert_allclose(got["class"].total, (weight * each).sum(), rtol=1e-6)
    assert got["class"].count == got["box"].count == 4.0
    plain, _ = objective().loss(PREDICTIONS, ANCHORS, TARGETS)
    ones = jnp.ones(4)

    def unweighted(anchors, targets):
        return max_iou.assign(anchors, targets).replace(weight=ones)

    same, _ = objective(unweighted).loss(PREDICTIONS, ANCHORS, TARGETS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), same, plain)


def test_losses_and_assigners_may_ask_for_the_step():
    def warm(logits, labels, step):
        return losses.focal(logits, labels) * jnp.where(step < 10, 0.0, 1.0)

    def later(anchors, targets, step):
        found = max_iou.assign(anchors, targets)
        return found.replace(positive=found.positive & (step >= 10))

    run = jax.jit(objective(later, classify=terms.sigmoid(loss=warm)).loss)
    before, _ = run(PREDICTIONS, ANCHORS, TARGETS, Moment(jnp.int32(9)))
    after, _ = run(PREDICTIONS, ANCHORS, TARGETS, Moment(jnp.int32(10)))
    assert before["class"].total == before["box"].total == 0
    assert after["class"].total > 0
    assert after["box"].total > 0


def test_a_sample_is_drawn_by_the_key_of_the_moment():
    many = anchors_of([[20 * i, 0, 20 * i + 10, 10] for i in range(64)])
    random = np.random.default_rng(0).normal(size=(64, 2))
    predictions = DensePredictions(
        logits=jnp.asarray(random, jnp.float32), codes=jnp.zeros((64, 4)), maps=((1, 64),)
    )
    select = functools.partial(selection.drawn, number=8)
    run = jax.jit(objective(select=select).loss)

    def total(seed):
        return run(predictions, many, TARGETS, Moment(0, jax.random.key(seed)))[0]["class"].total

    assert total(1) == total(1)
    assert total(1) != total(2)


def test_softmax_scores_leave_the_background_out():
    classify = terms.softmax()
    logits = jnp.asarray([[1.0, 2.0, 0.5]])
    np.testing.assert_allclose(classify.scores(logits), jax.nn.softmax(logits)[:, :2], rtol=1e-6)
    assert classify.background(3) == 2
    assert classify.loss(logits, jnp.asarray([2]), None, 0).shape == (1, 1)
