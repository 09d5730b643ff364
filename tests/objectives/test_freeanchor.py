"""FreeAnchor against reference values and against its paper's formulas."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import anchors_of
from golden_cases import cases
from objectives.freeanchor_problems import (
    STDS,
    confidence_of,
    freeanchor_with,
    regress_of,
    said,
    targets_of,
)

from anchors_jax import codecs, train
from anchors_jax.objectives import bag_matching, freeanchor


def reference(params):
    """The objective of a golden case. The reference takes in all anchors of the canvas."""
    return freeanchor.objective(
        regress=regress_of(
            stds=params["stds"], beta=params["smooth_l1_beta"], weight=params["box_weight"]
        ),
        bag_size=params["bag"],
        iou_threshold=params["bbox_thr"],
        alpha=params["alpha"],
        gamma=params["gamma"],
        mask_padding=False,
    )


@cases("freeanchor_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    objective, arrays = reference(case.params), case.arrays
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)

    def total(predictions):
        terms, _ = heads.over_images(objective.loss, predictions, anchors, targets)
        values = train.divide(terms, group=len(arrays["num_gt"]))
        return sum(values.values()), (values, terms["positive"].count.sum())

    predictions = heads.predictions_of(case)
    gradients, (values, count) = jax.jit(jax.grad(total, has_aux=True))(predictions)
    assert count == arrays["num_gt_total"]
    for name in ("positive", "negative"):
        want = arrays[f"{name}_bag_loss_f64"]
        np.testing.assert_allclose(values[name], want, rtol=1e-5, atol=1e-6)
    for got, name in ((gradients.logits, "grad_cls"), (gradients.codes, "grad_box")):
        want = heads.flat(case, name)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=5e-5 * np.abs(want).max() + 1e-12)


@cases("freeanchor_loss")
def test_bags_and_their_likelihoods_agree_with_the_reference(case):
    if "bag_idx" not in case.arrays:
        pytest.skip("the case has no objects")
    objective, params = reference(case.params), case.params
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)
    size = params["bag"]

    def one(prediction, target):
        everywhere = jnp.ones(len(anchors.boxes), bool)
        bag, _, _ = bag_matching.survey(
            anchors.boxes, anchors.boxes, everywhere, target.boxes, target.valid, bag_size=size
        )

        def alone(slot):
            only = target.replace(valid=target.valid & (jnp.arange(len(target.valid)) == slot))
            whole = anchors.replace(valid=everywhere)
            return objective.loss(prediction, whole, only)[0]["positive"].total

        return bag, jax.vmap(alone)(jnp.arange(len(target.valid)))

    bag, terms = jax.jit(jax.vmap(one))(heads.predictions_of(case), targets)
    for image, count in enumerate(case.arrays["num_gt"]):
        got, want = np.sort(bag[image, :count], axis=1), case.arrays["bag_idx"][image, :count]
        np.testing.assert_array_equal(got, want)
        want = case.arrays["positive_terms"][image, :count]
        np.testing.assert_allclose(terms[image, :count], want, rtol=1e-5, atol=1e-6)
        probability = np.exp(-terms[image, :count] / params["alpha"])
        want = case.arrays["bag_prob"][image, :count]
        np.testing.assert_allclose(probability, want, rtol=1e-4, atol=1e-9)


@cases("freeanchor_loss")
def test_confidence_agrees_with_the_reference(case):
    anchors = heads.anchors_of(case)
    one = functools.partial(
        confidence_of,
        stds=case.params["stds"],
        threshold=case.params["bbox_thr"],
        classes=case.params["num_classes"],
    )
    got = jax.jit(lambda p, t: jax.vmap(lambda p, t: one(p, anchors, t))(p, t))(
        heads.predictions_of(case), heads.targets_of(case)
    )
    want = np.zeros(got.shape)
    want[tuple(case.arrays["box_prob_nonzero_index"].T)] = case.arrays["box_prob_nonzero_value"]
    np.testing.assert_array_equal(np.asarray(got) > 0, want > 0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


def slow(predictions, anchors, targets, *, n, t=0.6, alpha=0.5, gamma=2.0, beta=0.11, weight=0.75):
    """(positive sum, negative sum) from the paper's formulas, in float64, one pair at a time."""
    prior = np.asarray(anchors.boxes, np.float64)
    p = 1 / (1 + np.exp(-np.asarray(predictions.logits, np.float64)))
    codes = np.asarray(predictions.codes, np.float64)
    codec = codecs.deltas(stds=STDS)
    decoded = np.asarray(codec.decode(predictions.codes, anchors.boxes), np.float64)
    use = np.flatnonzero(np.asarray(anchors.valid))

    def iou(a, b):
        low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
        shared = np.prod(np.maximum(high - low, 0))
        return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)

    positive, match = 0.0, np.zeros(p.shape)
    for slot in np.flatnonzero(np.asarray(targets.valid)):
        box, label = np.asarray(targets.boxes[slot], np.float64), targets.labels[slot]
        now = np.array([iou(box, decoded[a]) for a in use])
        for a, overlap in zip(use, now, strict=True):
            if now.max() > t and overlap > t:
                match[a, label] = max(match[a, label], min((overlap - t) / (now.max() - t), 1))
        bag = use[np.argsort([-iou(box, prior[a]) for a in use], kind="stable")[:n]]
        likely = []
        for a in bag:
            goal = np.asarray(codec.encode(jnp.asarray(box, jnp.float32), anchors.boxes[a]))
            error = np.abs(codes[a] - goal)
            loss = np.where(error < beta, error**2 / (2 * beta), error - beta / 2).sum()
            likely.append(p[a, label] * np.exp(-weight * loss))
        share = 1 / (1 - np.array(likely))
        positive -= np.log((share * likely).sum() / share.sum())
    q = p[use] * (1 - match[use])
    return alpha * positive, (1 - alpha) * (q**gamma * -np.log(1 - q)).sum()


def crowded(seed, *, anchors=60, objects=9, classes=3):
    """Overlapping objects of few classes among anchors whose boxes have moved towards them."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (objects, 2))], 1)
    boxes[objects // 2 :] = boxes[: objects - objects // 2] + rng.uniform(-2, 2, (1, 4))
    prior = boxes[rng.integers(0, objects, anchors)] + rng.normal(0, 4, (anchors, 4))
    predictions = said(
        rng.uniform(0.01, 0.95, (anchors, classes)), rng.normal(0, 0.3, (anchors, 4))
    )
    labels = rng.integers(0, classes, objects)
    return predictions, anchors_of(prior), targets_of(boxes, labels=labels, slots=12)


@pytest.mark.parametrize(("seed", "n", "stretch"), [(0, 5, 2048), (1, 12, 60), (2, 90, 7)])
def test_against_the_formulas(monkeypatch, seed, n, stretch):
    monkeypatch.setattr(bag_matching, "STRETCH", stretch)
    predictions, anchors, targets = crowded(seed)
    anchors = anchors.replace(valid=anchors.valid.at[jnp.asarray([0, 17, 58])].set(False))
    loss = jax.jit(freeanchor.objective(regress=regress_of(), bag_size=n).loss)
    terms, statistics = loss(predictions, anchors, targets)
    positive, negative = slow(predictions, anchors, targets, n=n)
    assert float(terms["positive"].total) == pytest.approx(positive, rel=2e-5)
    assert float(terms["negative"].total) == pytest.approx(negative, rel=2e-5)
    assert (terms["positive"].count, terms["negative"].count) == (9, 9 * n)
    assert statistics["objects"] == 9


def test_other_settings_against_the_formulas():
    predictions, anchors, targets = crowded(3)
    setting = {"alpha": 0.25, "gamma": 1.5}
    objective = freeanchor_with(
        bag_size=8, iou_threshold=0.7, regress=regress_of(beta=1.0, weight=0.5), **setting
    )
    terms, _ = jax.jit(objective.loss)(predictions, anchors, targets)
    want = slow(predictions, anchors, targets, n=8, t=0.7, beta=1.0, weight=0.5, **setting)
    got = [float(terms[name].total) for name in ("positive", "negative")]
    assert got == pytest.approx(want, rel=2e-5)
