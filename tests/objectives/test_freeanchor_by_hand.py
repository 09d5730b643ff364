"""FreeAnchor worked out by hand on six anchors and three objects."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import anchors_of
from objectives.freeanchor_problems import (
    OBJECTS,
    SCORES,
    STDS,
    assert_close,
    confidence_of,
    evaluate,
    freeanchor_with,
    miniature,
    said,
    targets_of,
)

from anchors_jax import codecs
from anchors_jax.objectives import bag_matching, dense


def test_miniature_by_hand():
    predictions, anchors, targets = miniature()
    codec = codecs.deltas(stds=STDS)
    want = [31.9226, 31.9226, 60.8774, 60.8774]
    decoded = codec.decode(predictions.codes, anchors.boxes)
    np.testing.assert_allclose(decoded[3], want, rtol=1e-6)
    predicted = dense.predicted(predictions, anchors, codec=codec)
    found = bag_matching.matching(predicted, anchors, targets, bag_size=2)
    np.testing.assert_allclose(found.decoded, decoded)
    np.testing.assert_array_equal(np.sort(found.bag[:3], axis=1), [[0, 1], [3, 4], [1, 2]])
    match = confidence_of(predictions, anchors, targets, classes=3)
    want = np.zeros((6, 3))
    want[[0, 1, 2], 0], want[3, 2], want[4, 2] = 1.0, 1.0, 0.494201
    np.testing.assert_allclose(match, want, atol=2e-5)
    result = evaluate(freeanchor_with(bag_size=2), predictions, anchors, targets)
    assert result.values == pytest.approx({"positive": 0.934941, "negative": 0.00380339}, rel=2e-5)
    statistics = dict(result.statistics)
    assert statistics.pop("positives") == pytest.approx(4.494201, rel=1e-5)
    assert 0 < statistics.pop("bag_entropy") < math.log(2)
    assert statistics == {"objects": 3, "objects_without_box": 0, "objects_found": 0}
    slope = jax.tree.map(np.add, result.slopes["positive"], result.slopes["negative"])
    p = np.array(SCORES)
    by_score = slope.logits / (p * (1 - p))
    want = [-0.193580, -0.209711, -0.341376, -0.262175, -0.036592]
    np.testing.assert_allclose(by_score[[0, 1, 2, 3, 4], [0, 0, 0, 2, 2]], want, rtol=1e-4)
    np.testing.assert_allclose(slope.codes[0], [-0.087111, -0.087111, 0, 0], atol=2e-6)
    np.testing.assert_allclose(slope.codes[2], [0.128016, 0, 0, 0], atol=2e-6)
    np.testing.assert_array_equal(slope.codes[5], np.zeros(4))


def test_the_match_shows_whose_score_an_anchor_may_have():
    match = jax.jit(freeanchor_with(bag_size=2).match)(*miniature())
    # Anchor 4 has a confidence of 0.494; anchor 1 one of 1 with the first object.
    np.testing.assert_array_equal(match.positive, [True, True, True, True, False, False])
    np.testing.assert_array_equal(match.gt, [0, 0, 2, 1, 0, 0])
    assert not match.ignored.any()


def test_each_object_of_the_miniature_by_hand():
    predictions, anchors, targets = miniature()
    got = []
    for slot in range(3):
        only = targets.replace(valid=jnp.arange(4) == slot)
        terms = evaluate(freeanchor_with(bag_size=2), predictions, anchors, only).terms
        got.append(2 * float(terms["positive"].total))
    assert got == pytest.approx([2.582046, 0.918826, 2.108774], rel=1e-5)


def test_the_order_of_objects_changes_nothing():
    predictions, anchors, targets = miniature()
    turned = targets_of(OBJECTS[::-1], labels=(0, 2, 0))
    run = functools.partial(evaluate, freeanchor_with(bag_size=2), predictions, anchors)
    assert_close(run(turned), run(targets))


@pytest.mark.parametrize(("p", "want"), [(0.5, 0.0866434), (0.02, 4.0405e-6), (0.9, 0.932547)])
def test_negative_element_by_hand(p, want):
    anchors, nothing = anchors_of([[0, 0, 16, 16]]), targets_of([])
    result = evaluate(freeanchor_with(), said([[p]]), anchors, nothing)
    assert float(result.values["negative"]) == pytest.approx(want, rel=2e-5)
    by_score = 0.5 * (-2 * p * math.log(1 - p) + p * p / (1 - p))
    got = float(result.slopes["negative"].logits[0, 0]) / (p * (1 - p))
    assert got == pytest.approx(by_score, rel=1e-4)


def test_the_best_box_of_an_object_is_punished_for_nothing():
    anchors, target = anchors_of([[0, 0, 16, 16]]), targets_of([[0, 0, 16, 16]], labels=(1,))
    result = evaluate(freeanchor_with(), said([[0.3, 0.97]]), anchors, target)
    assert result.values["negative"] > 0
    slope = result.slopes["negative"].logits
    np.testing.assert_array_equal(slope[0, 1], 0.0)
    assert slope[0, 0] > 0


@pytest.mark.parametrize("labels", [(0, 0), (0, 1)])
@pytest.mark.parametrize("turn", [1, -1])
def test_two_objects_on_one_anchor(labels, turn):
    """The first anchor has IoU 1 and 7/9; the second object's best box is the second anchor's."""
    boxes = [[0, 0, 16, 16], [0, 2, 16, 18]][::turn]
    match = confidence_of(
        said(np.full((2, 2), 0.5)),
        anchors_of([[0, 0, 16, 16], [0, 3.6, 16, 18.4]]),
        targets_of(boxes, labels=labels[::turn]),
        classes=2,
    )
    best = 14.4 / 16.4
    second = 0.0 if labels == (0, 0) else (7 / 9 - 0.6) / (best - 0.6)
    np.testing.assert_allclose(match[0], [1.0, second], rtol=1e-5, atol=1e-6)


def test_which_predictions_each_term_teaches():
    slopes = evaluate(freeanchor_with(bag_size=2), *miniature()).slopes
    np.testing.assert_array_equal(slopes["negative"].codes, np.zeros((6, 4)))
    taught = np.abs(slopes["positive"].codes).max(axis=1) > 0
    np.testing.assert_array_equal(taught, [True, True, True, True, True, False])
    taught = np.asarray(slopes["positive"].logits) != 0
    np.testing.assert_array_equal(taught[:, 1], np.zeros(6, bool))
    np.testing.assert_array_equal(taught[:, 0], [True, True, True, False, False, False])
    np.testing.assert_array_equal(taught[:, 2], [False, False, False, True, True, False])
