"""What the Semi-Anchored paper says must hold of its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.semi_anchored_problem import (
    ANCHORS,
    CODEC,
    SHAPES,
    TWO,
    decode,
    label,
    loss,
    plain,
    predictions,
    targets_of,
)

from anchors_jax import anchors as make
from anchors_jax.objectives import semi_anchored


@jax.jit
def loss_and_gradients(predictions, targets):
    """Terms, and the gradient of each with respect to the predictions."""

    def total(predictions, name):
        terms, _ = plain().loss(predictions, ANCHORS, targets)
        return terms[name].total, terms

    found = {
        name: jax.grad(total, has_aux=True)(predictions, name)
        for name in ("class", "box", "anchor")
    }
    return found["class"][1], {name: gradient for name, (gradient, _) in found.items()}


@pytest.mark.parametrize(
    ("term", "taught"), [("class", "logits"), ("box", "codes"), ("anchor", "anchor_logits")]
)
def test_each_term_teaches_one_output(term, taught):
    # In particular the anchors' labels, though they come from the boxes, do not teach the boxes.
    found = loss_and_gradients(predictions(), TWO)[1][term]
    for name in ("logits", "codes", "anchor_logits"):
        assert np.any(getattr(found, name)) == (name == taught), name


def test_a_slow_reading_of_the_loss():
    """All three terms of one image from the module's docstring, in float64."""
    terms, statistics = loss(predictions(), ANCHORS, TWO)
    decoded = np.asarray(CODEC.decode(predictions().codes, ANCHORS.boxes.reshape(6, 3, 4)))
    p, found = jax.tree.map(np.asarray, (predictions(), label(ANCHORS, TWO)))
    objects, labels = np.asarray(TWO.boxes), np.asarray(TWO.labels)

    def iou(a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        w, h = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
        return w * h / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - w * h)

    def focal(z, yes, t=1.0, gamma=2):
        q = 1 / (1 + np.exp(-np.float64(z)))
        if yes:
            return -0.25 * abs(t - q) ** gamma * t * np.log(q)
        return -0.75 * q**gamma * np.log(1 - q)

    total = dict.fromkeys(("class", "box", "anchor"), 0.0)
    after = 0
    for i in np.flatnonzero(~found.ignored):
        for c in range(2):
            yes = bool(found.positive[i]) and found.label[i] == c
            total["class"] += focal(p.logits[i, c], yes, gamma=1)
        if not found.positive[i]:
            continue
        mine = [g for g in range(2) if labels[g] == found.label[i]]
        mu = np.array([max(iou(box, objects[g]) for g in mine) for box in decoded[i]])
        for k in range(3):
            if found.regressed[i, k]:
                total["box"] -= 2 * np.log(iou(decoded[i, k], objects[found.gt[i, k]]))
            after += mu[k] >= 0.5
            soft = (mu[k] / mu.max()) ** 0.9
            total["anchor"] += focal(p.anchor_logits[i, k], mu[k] >= 0.5, soft)
    counts = {"class": found.positive.sum(), "box": found.regressed.sum(), "anchor": after}
    assert counts["class"] >= 2
    assert after > 0
    for name, term in terms.items():
        np.testing.assert_allclose(term.total, total[name], rtol=1e-5, err_msg=name)
        assert term.count == counts[name], name
    assert statistics["positives"] == counts["class"]
    assert statistics["anchors_regressed"] == counts["box"]
    assert statistics["anchors_positive_after"] == after
    assert (statistics["objects"], statistics["objects_without_anchor"]) == (2, 0)


def test_labels_after_regression_can_differ_from_those_before():
    """A poor anchor regressed well becomes positive, a good one regressed badly negative."""
    box = [[1, 1, 15, 15]]
    target = targets_of(box, labels=[1])
    found = label(ANCHORS, target)
    np.testing.assert_array_equal(found.prior[0], [True, False, False])
    prior = ANCHORS.boxes.reshape(6, 3, 4)
    exact = CODEC.encode(jnp.broadcast_to(target.boxes[0], prior.shape), prior)
    codes = exact.at[0, 0].add(jnp.asarray([1.0, 1.0, 0.0, 0.0])).at[0, 2].set(0.0)
    predicted = predictions().replace(codes=codes)
    mu = semi_anchored.regressed_overlaps(codes, ANCHORS, found, target, codec=CODEC)
    np.testing.assert_allclose(mu[0, 1], 1.0, rtol=1e-4)
    np.testing.assert_array_equal(mu[0] >= 0.5, [False, True, False])
    terms, statistics = loss(predicted, ANCHORS, target)
    assert terms["anchor"].count == 1
    assert statistics["positives"] == 1
    assert statistics["share_of_labels_changed"] == pytest.approx(2 / 3)


def test_soft_targets():
    mu = jnp.asarray([[0.8, 0.4, 0.0], [0.3, 0.3, 0.1], [0.0, 0.0, 0.0]])
    ratio = np.array([[1, 0.5, 0], [1, 1, 1 / 3], [0, 0, 0]])
    for sigma in (0.1, 0.9, 1.0):
        got = semi_anchored.soft_targets(mu, sigma=sigma)
        np.testing.assert_allclose(got, ratio**sigma, rtol=1e-5)
        np.testing.assert_array_equal(got[:2, 0], 1.0)  # the best of every location
    small = semi_anchored.soft_targets(mu, sigma=1e-6)
    np.testing.assert_allclose(small, ratio > 0, atol=1e-5)


def test_a_larger_canvas_changes_no_loss():
    """Cells to the right of and below the image, full of wild predictions, have no say."""
    p, larger = predictions(), make.grid(SHAPES, maps=((3, 5),), strides=(16,))
    cells = (np.arange(15) // 5 < 2) & (np.arange(15) % 5 < 3)

    def widen(values):
        wide = np.full((15, *values.shape[1:]), 40.0, np.float32)
        wide[cells] = values
        return jnp.asarray(wide)

    valid = make.inside(larger, jnp.asarray([32, 48]), divisor=16)
    np.testing.assert_array_equal(valid, np.repeat(cells, 3))
    # Slots are padding, too.
    far = targets_of([[1, 1, 15, 15], [24, 8, 58, 38]], labels=[1, 0], filler=0.0)
    want = loss(p, ANCHORS, TWO)
    got = loss(jax.tree.map(widen, p), larger.replace(valid=valid), far)
    for name, term in want[0].items():
        np.testing.assert_allclose(got[0][name].total, term.total, rtol=1e-5, err_msg=name)
        assert got[0][name].count == term.count
    assert got[1]["positives"] == want[1]["positives"]
    hidden = decode(jax.tree.map(widen, p), larger.replace(valid=valid))
    assert not np.asarray(hidden.scores)[~cells].any()
    np.testing.assert_allclose(np.asarray(hidden.scores)[cells], decode(p).scores, rtol=1e-6)


@pytest.mark.parametrize("boxes", [[], [[5, 5, 5, 20]], [[-90, -90, -80, -80]]])
def test_nothing_to_find_is_finite_and_teaches_no_boxes(boxes):
    target = targets_of(boxes)
    terms, gradients = loss_and_gradients(predictions(), target)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradients)))
    assert terms["box"].total == terms["anchor"].total == 0.0
    assert terms["class"].total > 0.0
    assert not np.any(gradients["box"].codes)
    assert not np.any(gradients["anchor"].anchor_logits)


@jax.jit
def match(predictions, targets):
    return plain().match(predictions, ANCHORS, targets)


def test_the_match_is_the_anchors_that_regress():
    found, want = match(predictions(), TWO), label(ANCHORS, TWO)
    np.testing.assert_array_equal(found.positive, want.regressed.reshape(-1))
    np.testing.assert_array_equal(found.gt, want.gt.reshape(-1))
    ignored = np.repeat(want.ignored, 3) & ~np.asarray(found.positive)
    np.testing.assert_array_equal(found.ignored, ignored)
