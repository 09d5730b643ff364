"""The frame around assigners: crowds, padding, what an assigner may ask for, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import anchors_of, coded, targets_of

from anchors_jax.assign import frame, max_iou
from anchors_jax.types import END, Assignment, Predicted

ANCHORS = anchors_of([[0, 0, 10, 10], [0, 0, 10, 12], [40, 0, 50, 10]])
TARGETS = targets_of([[0, 0, 10, 10]], [[0, 0, 12, 11]], slots=3)


def nearest(anchors, targets):
    """All usable anchors belong to the first slot; tells what it saw."""
    positive = anchors.valid & targets.valid[0]
    return Assignment(
        gt=jnp.zeros(positive.shape, jnp.int32),
        positive=positive,
        ignored=jnp.zeros_like(positive),
        signals={"crowds": targets.crowd.sum(), "slots": targets.valid.sum()},
    )


def test_assigners_see_neither_crowds_nor_what_lies_in_them():
    found = frame.assigned(nearest, ANCHORS, TARGETS)
    np.testing.assert_array_equal(coded(found), [-2, -2, 0])
    assert (found.signals["crowds"], found.signals["slots"]) == (0, 1)


@pytest.mark.parametrize(("share", "want"), [(0.95, [-2, 0, 0]), (1.0, [0] * 3), (None, [0] * 3)])
def test_the_share_inside_a_crowd_is_a_keyword(share, want):
    found = frame.assigned(nearest, ANCHORS, TARGETS, ignore_iof=share)
    np.testing.assert_array_equal(coded(found), want)


def test_invalid_anchors_are_ignored_whatever_the_assigner_says():
    masked = ANCHORS.replace(valid=jnp.asarray([True, True, False]))
    found = frame.assigned(nearest, masked, TARGETS, ignore_iof=None)
    np.testing.assert_array_equal(coded(found), [0, 0, -2])


def test_assigners_are_told_what_they_ask_for():
    def curious(anchors, targets, predicted, step):
        signals = {"seen": predicted.boxes.sum(), "step": jnp.asarray(step)}
        return nearest(anchors, targets).replace(signals=signals)

    predicted = Predicted(boxes=jnp.ones((3, 4)), logits=jnp.zeros((3, 2)))
    found = frame.assigned(curious, ANCHORS, TARGETS, predicted, step=jnp.int32(7))
    assert (found.signals["seen"], found.signals["step"]) == (12, 7)
    late = frame.assigned(curious, ANCHORS, TARGETS, predicted)
    assert late.signals["step"] == END.step
    with pytest.raises(ValueError, match="looks at predictions"):
        frame.assigned(curious, ANCHORS, TARGETS)
    bound = functools.partial(curious, predicted=predicted)
    assert frame.assigned(bound, ANCHORS, TARGETS).signals["seen"] == 12


def test_no_gradient_passes():
    def by_logits(anchors, targets, predicted):
        found = max_iou.assign(anchors, targets)
        return found.replace(score=jax.nn.sigmoid(predicted.logits[:, 0]))

    def total(logits):
        predicted = Predicted(boxes=ANCHORS.boxes, logits=logits)
        found = frame.assigned(by_logits, ANCHORS, TARGETS, predicted, ignore_iof=None)
        return jnp.sum(found.score * logits[:, 0])

    logits = jnp.asarray([[0.5], [-1.0], [2.0]])
    np.testing.assert_allclose(jax.grad(total)(logits), jax.nn.sigmoid(logits), rtol=1e-6)
