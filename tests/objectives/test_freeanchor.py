import functools
import math
from typing import NamedTuple

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import cases

from anchors_jax import codecs, train
from anchors_jax.objectives import bag_matching, freeanchor
from anchors_jax.types import Anchors, DensePredictions, Targets

STDS = (0.1, 0.1, 0.2, 0.2)


def reference(params):
    """The objective of a golden case. The reference takes in all anchors of the canvas."""
    return freeanchor.objective(
        codec=codecs.deltas(stds=tuple(params["stds"])),
        bag_size=params["bag"],
        iou_threshold=params["bbox_thr"],
        alpha=params["alpha"],
        gamma=params["gamma"],
        box_weight=params["box_weight"],
        smooth_l1_beta=params["smooth_l1_beta"],
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


def confidence_of(prediction, anchors, target, *, threshold=0.6, classes, stds=STDS):
    """M [A, K] of one image, in one piece."""
    found = bag_matching.matching(
        prediction,
        anchors,
        target,
        codec=codecs.deltas(stds=tuple(stds)),
        iou_threshold=threshold,
        mask_padding=False,
    )
    return bag_matching.confidence(found.decoded, found, found.objects, threshold, classes)


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


def grid_of(boxes):
    boxes = jnp.asarray(boxes, jnp.float32)
    count = len(boxes)
    return Anchors(
        boxes=boxes,
        cell=jnp.arange(count),
        shape=jnp.zeros(count, jnp.int32),
        valid=jnp.ones(count, bool),
        level_sizes=((1, count, 1),),
        strides=((8.0, 8.0),),
    )


def said(probabilities, deltas=None):
    p = jnp.asarray(probabilities, jnp.float32)
    codes = jnp.zeros((len(p), 4)) if deltas is None else jnp.asarray(deltas, jnp.float32)
    return DensePredictions(logits=jnp.log(p) - jnp.log1p(-p), codes=codes, maps=((1, len(p)),))


def objects_of(boxes, labels, *, slots=4, filler=(0.0, 0.0, 0.0, 0.0), crowd=()):
    count = len(labels)
    rows = np.tile(np.asarray(filler, np.float32), (slots, 1))
    rows[:count] = np.reshape(boxes, (-1, 4))
    return Targets(
        boxes=jnp.asarray(rows),
        labels=jnp.asarray(list(labels) + [0] * (slots - count), jnp.int32),
        valid=jnp.arange(slots) < count,
        crowd=jnp.asarray([i in crowd for i in range(slots)], bool),
    )


@functools.cache
def freeanchor_with(**keywords):
    return freeanchor.objective(codec=codecs.deltas(stds=STDS), **keywords)


class Result(NamedTuple):
    """Terms of one image, divided as a group of its own; gradients of each of them."""

    values: dict
    statistics: dict
    slopes: dict
    terms: dict


@functools.partial(jax.jit, static_argnums=0)
def evaluate(objective, predictions, anchors, targets):
    def run(predictions):
        terms, statistics = objective.loss(predictions, anchors, targets)
        values = train.divide(jax.tree.map(lambda x: x[None], terms), group=1)
        return values, (terms, statistics)

    values, pull, (terms, statistics) = jax.vjp(run, predictions, has_aux=True)
    slopes = {}
    for name in values:
        slopes[name] = pull({other: jnp.float32(other == name) for other in values})[0]
    return Result(values, statistics, slopes, terms)


def assert_close(got, want, *, rtol=1e-5, atol=1e-7):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


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
    return predictions, grid_of(prior), objects_of(boxes, labels, slots=12, filler=(np.nan,) * 4)


@pytest.mark.parametrize(("seed", "n", "stretch"), [(0, 5, 2048), (1, 12, 60), (2, 90, 7)])
def test_against_the_formulas(monkeypatch, seed, n, stretch):
    monkeypatch.setattr(bag_matching, "STRETCH", stretch)
    predictions, anchors, targets = crowded(seed)
    anchors = anchors.replace(valid=anchors.valid.at[jnp.asarray([0, 17, 58])].set(False))
    loss = jax.jit(freeanchor.objective(codec=codecs.deltas(stds=STDS), bag_size=n).loss)
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
        bag_size=8, iou_threshold=0.7, smooth_l1_beta=1.0, box_weight=0.5, **setting
    )
    terms, _ = jax.jit(objective.loss)(predictions, anchors, targets)
    want = slow(predictions, anchors, targets, n=8, t=0.7, beta=1.0, weight=0.5, **setting)
    got = [float(terms[name].total) for name in ("positive", "negative")]
    assert got == pytest.approx(want, rel=2e-5)


ANCHORS = [
    [0, 0, 16, 16], [4, 4, 20, 20], [8, 0, 24, 16], [32, 32, 64, 64], [30, 30, 62, 62],
    [0, 40, 16, 56],
]  # fmt: skip
OBJECTS = [[2, 2, 18, 18], [32, 32, 60, 60], [6, 0, 22, 16]]
SCORES = [
    (0.6, 0.1, 0.1), (0.3, 0.2, 0.1), (0.5, 0.1, 0.2), (0.1, 0.1, 0.7), (0.1, 0.05, 0.4),
    (0.2, 0.1, 0.1),
]  # fmt: skip
DELTAS = [[0.0] * 4] * 3 + [[-0.5] * 4] + [[0.0] * 4] * 2


def miniature(**keywords):
    return said(SCORES, DELTAS), grid_of(ANCHORS), objects_of(OBJECTS, (0, 2, 0), **keywords)


def test_miniature_by_hand():
    predictions, anchors, targets = miniature()
    codec = codecs.deltas(stds=STDS)
    want = [31.9226, 31.9226, 60.8774, 60.8774]
    decoded = codec.decode(predictions.codes, anchors.boxes)
    np.testing.assert_allclose(decoded[3], want, rtol=1e-6)
    found = bag_matching.matching(predictions, anchors, targets, codec=codec, bag_size=2)
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
    turned = objects_of(OBJECTS[::-1], (0, 2, 0))
    run = functools.partial(evaluate, freeanchor_with(bag_size=2), predictions, anchors)
    assert_close(run(turned), run(targets))


@pytest.mark.parametrize(("p", "want"), [(0.5, 0.0866434), (0.02, 4.0405e-6), (0.9, 0.932547)])
def test_negative_element_by_hand(p, want):
    anchors, nothing = grid_of([[0, 0, 16, 16]]), objects_of([], ())
    result = evaluate(freeanchor_with(), said([[p]]), anchors, nothing)
    assert float(result.values["negative"]) == pytest.approx(want, rel=2e-5)
    by_score = 0.5 * (-2 * p * math.log(1 - p) + p * p / (1 - p))
    got = float(result.slopes["negative"].logits[0, 0]) / (p * (1 - p))
    assert got == pytest.approx(by_score, rel=1e-4)


def test_the_best_box_of_an_object_is_punished_for_nothing():
    anchors, target = grid_of([[0, 0, 16, 16]]), objects_of([[0, 0, 16, 16]], (1,))
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
        grid_of([[0, 0, 16, 16], [0, 3.6, 16, 18.4]]),
        objects_of(boxes, labels[::turn]),
        classes=2,
    )
    best = 14.4 / 16.4
    second = 0.0 if labels == (0, 0) else (7 / 9 - 0.6) / (best - 0.6)
    np.testing.assert_allclose(match[0], [1.0, second], rtol=1e-5, atol=1e-6)


NOTHING_SAID = [(0.5, 0.1, 0.1), (0.02, 0.02, 0.02), (0.9, 0.1, 0.1)]


@pytest.mark.parametrize("slots", [0, 4])
def test_an_image_without_objects(slots):
    anchors, nothing = grid_of(ANCHORS[:3]), objects_of([], (), slots=slots)
    result = evaluate(freeanchor_with(), said(NOTHING_SAID), anchors, nothing)
    assert {name: float(term.count) for name, term in result.terms.items()} == {
        "positive": 0, "negative": 0,
    }  # fmt: skip
    assert result.values["positive"] == 0.0
    assert float(result.values["negative"]) == pytest.approx(1.021309, rel=1e-5)  # the sum itself
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    for slope in result.slopes.values():
        np.testing.assert_array_equal(slope.codes, np.zeros((3, 4)))
    np.testing.assert_array_equal(result.slopes["positive"].logits, np.zeros((3, 3)))


def test_fewer_anchors_than_the_bag_holds():
    few = evaluate(freeanchor_with(), *miniature())
    whole = evaluate(freeanchor_with(bag_size=6), *miniature())
    assert few.terms["negative"].count == 150
    assert_close(few.values["positive"], whole.values["positive"])


@pytest.mark.parametrize("box", [[5, 5, 5, 20], [7, 7, 7, 7], [20, 0, 4, 16], [0, 0, 9, 1e-4]])
def test_objects_without_an_area_do_not_count(box):
    predictions, anchors, targets = miniature()
    thin = objects_of([*OBJECTS, box], (0, 2, 0, 1))
    run = functools.partial(evaluate, freeanchor_with(bag_size=2), predictions, anchors)
    assert_close(run(thin), run(targets), rtol=1e-6)


def with_masked_anchors(predictions, anchors):
    """Two more anchors, invalid, with the objects' own boxes and loud predictions."""
    more = grid_of([*ANCHORS, *OBJECTS[:2]])
    louder = DensePredictions(
        logits=jnp.pad(predictions.logits, ((0, 2), (0, 0)), constant_values=9.0),
        codes=jnp.pad(predictions.codes, ((0, 2), (0, 0)), constant_values=9.0),
        maps=predictions.maps,
    )
    return louder, more.replace(valid=jnp.arange(8) < len(anchors.boxes))


@pytest.mark.parametrize("filler", [(np.nan,) * 4, (0.0, 0.0, 16.0, 16.0), (-1e30, 0.0, 1e30, 9.0)])
def test_padding_changes_nothing(filler):
    predictions, anchors, targets = miniature()
    objective = freeanchor_with(bag_size=2)
    want = evaluate(objective, predictions, anchors, targets)
    _, _, padded = miniature(slots=7, filler=filler)
    got = evaluate(objective, *with_masked_anchors(predictions, anchors), padded)
    assert not any(np.asarray(leaf)[6:].any() for leaf in jax.tree.leaves(got.slopes))
    got = got._replace(slopes=jax.tree.map(lambda leaf: leaf[:6], got.slopes))
    assert_close(got, want, rtol=1e-6)


def test_padding_may_count_as_in_the_references():
    predictions, anchors, targets = miniature()
    arguments = *with_masked_anchors(predictions, anchors), targets
    counted = evaluate(freeanchor_with(bag_size=2, mask_padding=False), *arguments)
    louder, more, _ = arguments
    everywhere = more.replace(valid=jnp.ones(8, bool))
    assert_close(counted, evaluate(freeanchor_with(bag_size=2), louder, everywhere, targets))
    assert (
        counted.values["negative"]
        > evaluate(freeanchor_with(bag_size=2), *arguments).values["negative"]
    )


def test_which_predictions_each_term_teaches():
    slopes = evaluate(freeanchor_with(bag_size=2), *miniature()).slopes
    np.testing.assert_array_equal(slopes["negative"].codes, np.zeros((6, 4)))
    taught = np.abs(slopes["positive"].codes).max(axis=1) > 0
    np.testing.assert_array_equal(taught, [True, True, True, True, True, False])
    taught = np.asarray(slopes["positive"].logits) != 0
    np.testing.assert_array_equal(taught[:, 1], np.zeros(6, bool))
    np.testing.assert_array_equal(taught[:, 0], [True, True, True, False, False, False])
    np.testing.assert_array_equal(taught[:, 2], [False, False, False, True, True, False])


def test_an_object_far_from_every_anchor_still_learns():
    anchors = grid_of([[x, y, x + 16, y + 16] for x in range(0, 48, 8) for y in range(0, 48, 8)])
    target = objects_of([[0, 0, 40, 40]], (0,))
    predictions = said(np.full((36, 2), 0.1))
    result = evaluate(freeanchor_with(bag_size=10), predictions, anchors, target)
    assert result.statistics["positives"] == 0
    assert result.statistics["objects_without_box"] == 1
    assert np.isfinite(result.values["positive"])
    assert (np.asarray(result.slopes["positive"].logits)[:, 0] < 0).sum() == 10


def test_extreme_predictions_are_finite():
    rng = np.random.default_rng(0)
    _, anchors, targets = miniature()
    predictions = DensePredictions(
        logits=jnp.asarray(rng.choice([-90.0, 90.0], (6, 3)), jnp.float32),
        codes=jnp.asarray(rng.choice([-50.0, 50.0], (6, 4)), jnp.float32),
        maps=((1, 6),),
    )
    result = evaluate(freeanchor_with(bag_size=2), predictions, anchors, targets)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    assert result.values["positive"] > 10
    limited = evaluate(freeanchor_with(bag_size=2, log_limit=20.0), predictions, anchors, targets)
    assert float(limited.values["positive"]) == pytest.approx(10.0)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(limited.slopes["positive"]))


@pytest.mark.parametrize(("z", "value"), [(60.0, 30.0), (90.0, 45.0), (-90.0, 0.0)])
@pytest.mark.parametrize("limit", [None, 25.0])
def test_saturated_scores_of_the_background(z, value, limit):
    anchors, nothing = grid_of([[0, 0, 16, 16]]), objects_of([], ())
    predictions = DensePredictions(
        logits=jnp.full((1, 1), z), codes=jnp.zeros((1, 4)), maps=((1, 1),)
    )
    result = evaluate(freeanchor_with(log_limit=limit), predictions, anchors, nothing)
    limited = limit is not None and z > 0
    want = 0.5 * limit if limited else value
    assert float(result.values["negative"]) == pytest.approx(want, rel=1e-6)
    want = 0.0 if limited or z < 0 else 0.5
    assert float(result.slopes["negative"].logits[0, 0]) == pytest.approx(want, abs=1e-6)


def test_anchors_in_a_crowd_take_no_part():
    predictions, anchors, targets = miniature()
    crowd = objects_of([*OBJECTS, [0, 38, 20, 60]], (0, 2, 0, 1), crowd=(3,))
    without = anchors.replace(valid=anchors.valid.at[5].set(False))
    objective = freeanchor_with(bag_size=2)
    want = evaluate(objective, predictions, without, targets)
    assert_close(evaluate(objective, predictions, anchors, crowd), want)
    ordinary = evaluate(freeanchor_with(bag_size=2, ignore_iof=1.0), predictions, anchors, crowd)
    assert_close(ordinary, evaluate(objective, predictions, anchors, targets))


def test_groups_divide_by_their_objects():
    predictions, anchors, targets = miniature()

    def of(*masks):
        images = [targets.replace(valid=jnp.asarray(mask, bool)) for mask in masks]
        terms = [evaluate(freeanchor_with(bag_size=2), predictions, anchors, x) for x in images]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(x.terms for x in terms))

    divide = jax.pmap(train.divide, axis_name="batch", devices=jax.local_devices()[:2])

    def on_two_devices(terms):
        losses = divide(jax.tree.map(lambda x: x.reshape(2, 1), terms))
        return {name: float(value.mean()) for name, value in losses.items()}

    terms, nobody = of([1, 0, 0, 0], [1, 1, 1, 0]), of([0] * 4, [0] * 4)
    for name, n in (("positive", 1), ("negative", 2)):
        first, second = (float(x) for x in terms[name].total)
        together = (first + second) / (4 * n)
        assert float(train.divide(terms, group=2)[name]) == pytest.approx(together, rel=1e-6)
        assert on_two_devices(terms)[name] == pytest.approx(together, rel=1e-6)
        apart = (first / n + second / (3 * n)) / 2
        assert float(train.divide(terms, group=1)[name]) == pytest.approx(apart, rel=1e-6)
        raw = float(nobody[name].total.sum())  # a group without objects is divided by 1
        assert on_two_devices(nobody)[name] == pytest.approx(raw, rel=1e-6)
        assert float(train.divide(nobody, group=2)[name]) == pytest.approx(raw, rel=1e-6)
    assert float(nobody["positive"].total.sum()) == 0.0
