"""Largest-IoU assignment: a slow reference, reference values, ties, padding, transformations."""

import dataclasses
import functools

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import IGNORED, NEGATIVE, anchors_of, coded, in_frame, targets_of

from anchors_jax import anchors as make
from anchors_jax.assign import max_iou

assign = in_frame(max_iou.assign)


def slow_iou(objects, boxes):
    objects, boxes = np.asarray(objects, np.float64), np.asarray(boxes, np.float64)
    result = np.zeros((len(objects), len(boxes)))
    for g, o in enumerate(objects):
        for a, b in enumerate(boxes):
            shared = max(min(o[2], b[2]) - max(o[0], b[0]), 0) * max(
                min(o[3], b[3]) - max(o[1], b[1]), 0
            )
            areas = (o[2] - o[0]) * (o[3] - o[1]) + (b[2] - b[0]) * (b[3] - b[1])
            result[g, a] = shared / max(areas - shared, 1e-6)
    return result


def slow_match(overlap, positive=0.5, negative=0.4, minimum=0.0, own=False, tolerance=1e-5):
    """The rule, anchor by anchor and object by object."""
    result = []
    for a in range(overlap.shape[1]):
        column = overlap[:, a]
        best = int(np.argmax(column))
        claims = [
            g
            for g, row in enumerate(overlap)
            if row.max() > 0 and row.max() >= minimum and row[a] >= row.max() * (1 - tolerance)
        ]
        if claims:
            result.append(best if own else claims[-1])
        elif column[best] >= positive:
            result.append(best)
        else:
            result.append(NEGATIVE if column[best] < negative else IGNORED)
    return np.array(result)


@pytest.mark.parametrize(
    ("overlap", "claiming", "own"),
    [
        ([[0.5, 0.45, 0.39, 0.1], [0.2, 0.1, 0, 0.05]], [1, -2, -1, -1], [0, -2, -1, -1]),
        ([[0.9, 0.3, 0], [0.8, 0.2, 0.1]], [1, -1, -1], [0, -1, -1]),
        ([[0.3, 0.3, 0.1]], [0, 0, -1], [0, 0, -1]),
        ([[0.6, 0.2], [0.6, 0.2]], [1, -1], [0, -1]),
        ([[0.9, 0.4, 0.5]], [0, -2, 0], [0, -2, 0]),
    ],
)
def test_the_slow_reference_knows_the_rule(overlap, claiming, own):
    np.testing.assert_array_equal(slow_match(np.array(overlap)), claiming)
    np.testing.assert_array_equal(slow_match(np.array(overlap), own=True), own)


@pytest.fixture(scope="module")
def scene():
    """Anchors of a small pyramid and 7 objects, one equal to an anchor, one without area."""
    random = np.random.default_rng(5)
    anchors = make.grid(make.octaves(), maps=((8, 8), (4, 4), (2, 2)), strides=(8, 16, 32))
    centre, side = random.uniform(0, 64, (7, 2)), random.uniform(8, 40, (7, 2))
    objects = np.concatenate([centre - side / 2, centre + side / 2], axis=-1).astype(np.float32)
    objects[2] = np.asarray(anchors.boxes)[100]
    objects[4, 2] = objects[4, 0]
    return anchors, objects


KEYWORDS = {
    "retinanet": ({}, {}),
    "rpn": (
        {"positive_iou": 0.7, "negative_iou": 0.3, "min_positive_iou": 0.3},
        {"positive": 0.7, "negative": 0.3, "minimum": 0.3},
    ),
    "own": ({"low_quality_owner": "own"}, {"own": True}),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_equals_the_slow_reference_whatever_the_padding(scene, name):
    anchors, objects = scene
    ours, slow = KEYWORDS[name]
    expected = slow_match(slow_iou(objects, anchors.boxes), **slow)
    assert {NEGATIVE, IGNORED} < set(expected.tolist())
    np.testing.assert_array_equal(coded(assign(anchors, targets_of(objects), **ours)), expected)
    np.testing.assert_array_equal(
        coded(assign(anchors, targets_of(objects, slots=13), **ours)), expected
    )


def test_number_of_objects_does_not_retrace(scene):
    anchors, objects = scene
    traces = []

    @jax.jit
    def counted(targets):
        traces.append(None)
        return max_iou.assign(anchors, targets)

    for count in (0, 1, 7):
        got = coded(counted(targets_of(objects[:count], slots=9)))
        assert set(got.tolist()) <= {NEGATIVE, IGNORED, *range(count)}
    assert len(traces) == 1


def test_slots_in_any_order(scene):
    anchors, objects = scene
    base = targets_of(objects, slots=10)
    order = np.array([9, 0, 8, 1, 2, 3, 7, 4, 5, 6])  # objects keep their order among rubbish
    moved = jax.tree.map(lambda leaf: leaf[order], base)
    expected, got = coded(assign(anchors, base)), coded(assign(anchors, moved))
    np.testing.assert_array_equal(np.where(got >= 0, order[np.maximum(got, 0)], got), expected)


def test_invalid_anchors_take_part_in_nothing(scene):
    anchors, objects = scene
    valid = np.random.default_rng(6).uniform(size=len(anchors.boxes)) < 0.5
    masked = anchors.replace(valid=jnp.asarray(valid))
    got = coded(assign(masked, targets_of(objects, slots=9)))
    np.testing.assert_array_equal(got[~valid], IGNORED)
    np.testing.assert_array_equal(
        got[valid], slow_match(slow_iou(objects, np.asarray(anchors.boxes)[valid]))
    )


def test_anchors_inside_a_crowd_are_ignored_before_anything_else():
    anchors = anchors_of([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    crowd = [[0, 0, 12, 5.1], [20, 0, 25, 10]]  # 51 % of the first two, exactly half of the third
    targets = targets_of([[0, 0, 10, 10]], crowd, slots=5)
    np.testing.assert_array_equal(coded(assign(anchors, targets)), [-2, -2, -1, -1])
    everything = assign(anchors, targets, ignore_iof=0.6)
    np.testing.assert_array_equal(coded(everything), [0, 0, -1, -1])


def test_an_object_that_meets_no_anchor_claims_none():
    anchors = anchors_of([[0, 0, 10, 10], [20, 0, 30, 10]])
    targets = targets_of([[50, 50, 60, 60], [3, 3, 3, 3]])
    np.testing.assert_array_equal(coded(assign(anchors, targets)), [-1, -1])
    reference = assign(anchors, targets, claim_without_overlap=True)
    np.testing.assert_array_equal(coded(reference), [1, 1])


def test_positives_with_their_centre_outside_the_object_are_ignored():
    # Centres at x = 5, 10, 10.01 and 16 of an object from 0 to 10, and one claimed from afar.
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [5.01, 0, 15.01, 10], [11, 0, 21, 10], [50, 0, 60, 10]]
    anchors = anchors_of(np.asarray(boxes, np.float32))
    targets = targets_of([[0, 0, 10, 10], [56, 0, 70, 10]])
    keywords = {"positive_iou": 0.3, "negative_iou": 0.2}
    free = coded(assign(anchors, targets, **keywords))
    np.testing.assert_array_equal(free, [0, 0, 0, NEGATIVE, 1])
    bound = assign(anchors, targets, **keywords, centre_margin=0.01)
    np.testing.assert_array_equal(coded(bound), [0, IGNORED, IGNORED, NEGATIVE, IGNORED])
    inside = assign(anchors, targets, **keywords, centre_margin=-1.5)
    np.testing.assert_array_equal(coded(inside), [0, 0, 0, NEGATIVE, 1])


def test_only_the_first_of_equal_anchors():
    anchors = anchors_of([[0, 0, 10, 40], [0, 0, 40, 10], [50, 50, 60, 60]])
    targets = targets_of([[0, 0, 10, 10]])
    np.testing.assert_array_equal(coded(assign(anchors, targets)), [0, 0, -1])
    first = assign(anchors, targets, assign_all_ties=False)
    np.testing.assert_array_equal(coded(first), [0, -1, -1])


def test_same_under_vmap_pmap_and_inside_a_differentiated_function(scene):
    anchors, objects = scene
    images = [targets_of(objects[:count], slots=8) for count in (7, 0)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    expected = [coded(assign(anchors, image)) for image in images]

    def one_image(targets, boxes):
        moved = dataclasses.replace(anchors, boxes=jax.lax.stop_gradient(boxes))
        return max_iou.assign(moved, targets)

    for mapped in (jax.vmap, functools.partial(jax.pmap, devices=jax.devices()[:2])):
        got = mapped(one_image, in_axes=(0, None))(batch, anchors.boxes)
        for index, image in enumerate(expected):
            one = jax.tree.map(lambda leaf, index=index: leaf[index], got)
            np.testing.assert_array_equal(coded(one), image)

    def loss(boxes):
        got = jax.vmap(one_image, in_axes=(0, None))(batch, boxes)
        return jnp.sum(jnp.where(got.positive[..., None], boxes, 0.0))

    gradient = jax.jit(jax.grad(loss))(anchors.boxes)
    np.testing.assert_array_equal(gradient[:, 0], expected[0] >= 0)


def keywords_of(params):
    return {
        "positive_iou": float(params["pos_iou_thr"]),
        "negative_iou": float(params["neg_iou_thr"]),
        "min_positive_iou": float(params["min_pos_iou"]),
        "match_low_quality": params["match_low_quality"],
        "assign_all_ties": params["gt_max_assign_all"],
        "ignore_iof": float(params["ignore_iof_thr"]),
        "claim_without_overlap": True,
        "tie_tolerance": 1e-6,  # the reference compares for equality
    }


@golden_cases.cases("assign_max_iou")
def test_reference(case):
    arrays, keywords = case.arrays, keywords_of(case.params)
    anchors, objects, crowds = (
        anchors_of(arrays["in_anchors"]),
        arrays["in_gt"],
        arrays.get("in_gt_ignore", np.zeros((0, 4), np.float32)),
    )
    slots = len(objects) + len(crowds) + 2
    clear = ~arrays.get("mask_ambiguous", np.zeros(len(anchors.boxes), bool))
    results = {
        "out_assigned": targets_of(objects, slots=slots),
        "out_assigned_ignore": targets_of(objects, crowds, slots=slots),
    }
    for name, targets in results.items():
        if name in arrays:
            got = coded(assign(anchors, targets, **keywords))
            np.testing.assert_array_equal(got[clear], arrays[name][clear])
    if "out_tv_matches" in arrays:
        # Its SSD matcher lets the object claim, its other matcher does not.
        owner = "own" if case.params["gt_max_assign_all"] else "claiming"
        targets = targets_of(objects, slots=slots)
        matches = assign(anchors, targets, **keywords, low_quality_owner=owner)
        expected = arrays["out_tv_matches"]
        without_minimum = case.params["min_pos_iou"] <= 0 or not case.params["match_low_quality"]
        reachable = slow_peaks(objects, arrays["in_anchors"]) >= case.params["min_pos_iou"]
        if without_minimum or reachable.all():
            np.testing.assert_array_equal(coded(matches)[clear], expected[clear])


def slow_peaks(objects, boxes):
    return slow_iou(objects, boxes).max(axis=1, initial=0.0)


@golden_cases.cases("retinanet_tiny_gt")
def test_tiny_objects_claim_only_tied_anchors(case):
    arrays, params = case.arrays, case.params
    for image in range(len(arrays["num_gt"])):
        count = int(arrays["num_gt"][image])
        targets = targets_of(arrays["gt_boxes"][image, :count], slots=count + 3)
        anchors = anchors_of(arrays["anchors"], arrays["valid"][image])
        got = coded(
            max_iou.assign(
                anchors,
                targets,
                positive_iou=params["pos_iou_thr"],
                negative_iou=params["neg_iou_thr"],
                min_positive_iou=params["min_pos_iou"],
            )
        )
        tied = arrays["tie_set"] | (arrays["iou_f64"] >= params["pos_iou_thr"])
        for g in range(count):
            owned = got == g
            assert owned.any()
            assert not (owned & ~tied[g]).any()
            # With the tolerance the whole set is claimed, save what later objects took.
            assert (got[arrays["tie_set"][g] & arrays["valid"][image]] >= g).all()
