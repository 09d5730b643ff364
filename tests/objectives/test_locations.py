"""Labels of locations: reference values, the paper's proposition, ties, a slow reference."""

import functools
from fractions import Fraction

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import targets_of
from golden_cases import cases

from anchors_jax.assign import fcos, max_iou
from anchors_jax.objectives import locations
from anchors_jax.types import Anchors, Assignment, Targets


def coded(found, num_classes):
    """Class, num_classes for background, -1 for ignored."""
    label = np.where(found.positive, found.label, num_classes)
    assert not np.asarray(found.positive & found.ignored).any()
    return np.where(found.ignored, -1, label)


def coded_gt(found):
    """Object of each anchor that regresses, -1 elsewhere: [N, A]."""
    gt = np.where(found.regressed, found.gt, -1)
    return gt.reshape(len(gt), -1)


@cases("semi_loss")
def test_labels_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)
    gammas = [float(gamma) for gamma in arrays["gamma_values"]]

    def one(_, anchors, targets):
        assignment = max_iou.assign(
            anchors,
            targets,
            positive_iou=params["pos_iou_thr"],
            negative_iou=params["neg_iou_thr"],
        )
        label = functools.partial(
            locations.by_anchors, anchors, targets, assign=lambda *_: assignment
        )
        return assignment, {
            "default": label(),
            "no_ignore": label(ignore_between=False),
            "all": label(regress="all_at_positive"),
            **{str(gamma): label(gamma=gamma) for gamma in gammas},
        }

    assignment, found = jax.jit(functools.partial(heads.over_images, one))(
        anchors.valid, anchors, targets
    )
    gt = np.where(assignment.positive, assignment.gt, np.where(assignment.ignored, -2, -1))
    np.testing.assert_array_equal(np.where(anchors.valid, gt, -3), arrays["anchor_gt"])
    classes = params["num_classes"]
    equal = np.testing.assert_array_equal
    equal(coded(found["default"], classes), arrays["loc_label"])
    equal(coded(found["all"], classes), arrays["loc_label"])
    equal(coded(found["no_ignore"], classes), arrays["loc_label_no_ignore"])
    for index, gamma in enumerate(gammas):
        equal(
            coded(found[str(gamma)], classes), arrays["loc_label_gamma"][:, index], f"gamma {gamma}"
        )
    equal(coded_gt(found["default"]), arrays["reg_gt"])
    equal(coded_gt(found["all"]), arrays["all_reg_gt"])


@cases("semi_loss")
@pytest.mark.parametrize("rule", ["fcos", "fcos_shrink"])
def test_labels_by_centres_agree_with_the_reference(case, rule):
    params, arrays = case.params, case.arrays
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)
    assign = functools.partial(
        fcos.assign,
        ranges=params["regress_ranges"],
        shrink=params["shrink"] if rule == "fcos_shrink" else 1.0,
    )

    def one(_, anchors, targets):
        return locations.by_centres(anchors, targets, assign=assign)

    # The reference labels every cell of the canvas.
    anchors = anchors.replace(valid=jnp.ones_like(anchors.valid))
    found = jax.jit(functools.partial(heads.over_images, one))(anchors.valid, anchors, targets)
    label = coded(found, params["num_classes"])
    np.testing.assert_array_equal(label, arrays[f"loc_label_{rule}"])
    gt = coded_gt(found).reshape(*label.shape, -1)
    want = np.broadcast_to(arrays[f"loc_gt_{rule}"][..., None], gt.shape)
    np.testing.assert_array_equal(gt, want)


def drawn(rng, cells, shapes, classes, *, positive=0.1, ignored=0.2):
    """An assignment of random anchors to objects, one object per class, and its grid."""
    count = cells * shapes
    state = rng.choice(3, count, p=[1 - positive - ignored, positive, ignored])
    gt = np.where(state == 1, rng.integers(0, classes, count), 0)
    anchors = Anchors(
        boxes=jnp.asarray(np.tile(np.float32([0, 0, 8, 8]), (count, 1))),
        cell=jnp.asarray(np.repeat(np.arange(cells), shapes)),
        shape=jnp.asarray(np.tile(np.arange(shapes), cells)),
        valid=jnp.ones(count, bool),
        level_sizes=((1, cells, shapes),),
        strides=((8.0, 8.0),),
    )
    assignment = Assignment(
        gt=jnp.asarray(gt, jnp.int32),
        positive=jnp.asarray(state == 1),
        ignored=jnp.asarray(state == 2),
    )
    return anchors, assignment


def objects_of(labels, boxes=None):
    """One object per label."""
    return targets_of([[0, 0, 8, 8]] * len(labels) if boxes is None else boxes, labels=labels)


@functools.partial(jax.jit, static_argnames=("gamma", "ignore_between", "regress"))
def label(anchors, targets, assignment, **keywords):
    return locations.by_anchors(anchors, targets, assign=lambda *_: assignment, **keywords)


def slow(assignment, labels, shapes, gamma):
    """Class of each location as written in Eqns 1 and 4, in exact arithmetic; -1 background."""
    gt, positive, ignored = (
        np.asarray(x).reshape(-1, shapes)
        for x in (assignment.gt, assignment.positive, assignment.ignored)
    )
    result = []
    for owners, yes, left_out in zip(gt, positive, ignored, strict=True):
        counts = {}
        for k in range(shapes):
            if yes[k]:
                counts[labels[owners[k]]] = counts.get(labels[owners[k]], 0) + 1
        background = sum(not yes[k] and not left_out[k] for k in range(shapes))
        best = min(counts, key=lambda c: (-counts[c], c), default=-1)
        if gamma is not None and best >= 0:
            score = (1 - gamma) * Fraction(counts[best], shapes)
            best = best if score >= gamma * Fraction(background, shapes) else -1
        result.append(best)
    return np.array(result)


@pytest.mark.parametrize("shapes", [1, 2, 9, 25])
def test_both_equations_agree_with_their_text_and_with_proposition_1(shapes):
    rng = np.random.default_rng(shapes)
    labels = [3, 1, 1, 0]
    anchors, assignment = drawn(rng, 200, shapes, len(labels), positive=0.5 / shapes + 0.05)
    targets = objects_of(labels)
    # Below 1 / K: one label for all of them, Eqn 4's.
    bound = Fraction(1, shapes)
    for gamma in (None, Fraction(1, shapes + 1), bound * Fraction(999, 1000), Fraction(0)):
        found = label(anchors, targets, assignment, gamma=None if gamma is None else float(gamma))
        want = slow(assignment, labels, shapes, gamma)
        np.testing.assert_array_equal(np.where(found.positive, found.label, -1), want)
        np.testing.assert_array_equal(want, slow(assignment, labels, shapes, None))
    for gamma in (Fraction(1, 5), Fraction(1, 2), Fraction(9, 10), Fraction(1)):
        found = label(anchors, targets, assignment, gamma=float(gamma))
        want = slow(assignment, labels, shapes, gamma)
        np.testing.assert_array_equal(np.where(found.positive, found.label, -1), want)


def one_location(owners, labels, *, shapes=25, between=(), **keywords):
    """The label of a single location whose first anchors belong to `owners`; -1 background."""
    index = np.arange(shapes)
    anchors, _ = drawn(np.random.default_rng(0), 1, shapes, 1)
    assignment = Assignment(
        gt=jnp.asarray(np.pad(owners, (0, shapes - len(owners))), jnp.int32),
        positive=jnp.asarray(index < len(owners)),
        ignored=jnp.asarray(np.isin(index, between)),
    )
    found = label(anchors, objects_of(labels), assignment, **keywords)
    return -2 if found.ignored[0] else int(found.label[0]) if found.positive[0] else -1


def test_one_location():
    assert one_location([0] * 3 + [1] * 5, [4, 2]) == 2
    assert one_location([0] * 5 + [1] * 5, [4, 2]) == 2, "equal counts: the lower class"
    assert one_location([0, 1, 2], [4, 2, 4]) == 4, "two objects of one class count together"
    # gamma = 0.2, K = 25: one positive anchor weighs 0.8 against 24 * 0.2.
    assert one_location([0], [4]) == 4
    assert one_location([0], [4], gamma=0.2) == -1
    assert one_location([0] * 5, [4], gamma=0.2) == 4, "5 * 0.8 = 20 * 0.2: a tie is foreground"
    assert one_location([0] * 4, [4], gamma=0.2) == -1
    # Anchors between the thresholds are no background, and without a positive one they count.
    assert one_location([0], [4], between=range(5, 25), gamma=0.2) == 4
    assert one_location([], [4], between=[3]) == -2
    assert one_location([], [4], between=[3], ignore_between=False) == -1
    assert one_location([0], [4], between=[3]) == 4
    # Background by gamma is background, not ignored.
    assert one_location([0], [4], between=[3], gamma=0.5) == -1


def test_which_anchors_regress():
    """A location with three anchors: two of object 1 (class 2), one of object 0 (class 0)."""
    boxes = jnp.asarray([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 52, 10], [60, 0, 70, 10]])
    anchors, _ = drawn(np.random.default_rng(0), 1, 4, 1)
    anchors = anchors.replace(boxes=boxes.astype(jnp.float32))
    objects = [[40, 0, 50, 10], [0, 0, 10, 10], [20, 0, 30, 10]]
    targets = objects_of([0, 2, 2], objects)
    assignment = Assignment(
        gt=jnp.asarray([1, 1, 0, 0]),
        positive=jnp.asarray([True, True, True, False]),
        ignored=jnp.zeros(4, bool),
    )
    found = label(anchors, targets, assignment)
    assert found.label[0] == 2
    np.testing.assert_array_equal(found.gt[0], [1, 1, 0, 0])
    np.testing.assert_array_equal(found.regressed[0], [True, True, True, False])
    np.testing.assert_array_equal(found.prior[0], [True, True, False, False])
    # Every anchor, to the largest IoU among objects of class 2; the first where none is met.
    found = label(anchors, targets, assignment, regress="all_at_positive")
    np.testing.assert_array_equal(found.gt[0], [1, 2, 1, 1])
    assert found.regressed.all()
    np.testing.assert_array_equal(found.prior[0], [True, True, False, False])


def test_crowds_are_ignored_with_and_without_the_switch():
    anchors, _ = drawn(np.random.default_rng(0), 2, 2, 1)
    boxes = jnp.asarray([[0, 0, 8, 8], [0, 0, 16, 8], [40, 0, 48, 8], [40, 0, 56, 8]])
    anchors = anchors.replace(boxes=boxes.astype(jnp.float32))
    targets = objects_of([1], [[0, 0, 20, 20]]).replace(crowd=jnp.asarray([True]))
    for switch in (True, False):
        found = locations.by_anchors(anchors, targets, assign=max_iou.assign, ignore_between=switch)
        assert not found.positive.any()
        np.testing.assert_array_equal(found.ignored, [True, False])


def slow_best(boxes, label, chosen, targets):
    iou, gt = np.zeros(boxes.shape[:2]), np.zeros(boxes.shape[:2], int)
    for i, k in np.ndindex(iou.shape):
        best = -1.0
        for g in np.flatnonzero(targets.valid & ~targets.crowd & (targets.labels == label[i])):
            a, b = boxes[i, k].astype(np.float64), targets.boxes[g].astype(np.float64)
            w, h = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
            union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - w * h
            if chosen[i] and w * h / union > best:
                best, gt[i, k] = w * h / union, g
        iou[i, k] = max(best, 0.0)
    return iou, gt


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_best_of_class_agrees_with_a_slow_reference(share):
    rng = np.random.default_rng(0)
    cells, shapes, slots = 150, 3, 7
    low = rng.uniform(0, 40, (cells, shapes, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 30, low.shape)], -1).astype(np.float32)
    low = rng.uniform(0, 40, (slots, 2))
    objects = np.concatenate([low, low + rng.uniform(5, 30, low.shape)], -1).astype(np.float32)
    label, chosen = rng.integers(0, 3, cells), rng.uniform(size=cells) < share
    targets = Targets(
        boxes=np.where(np.arange(slots)[:, None] < 5, objects, np.nan),
        labels=rng.integers(0, 2, slots),
        valid=np.arange(slots) < 5,
        crowd=np.arange(slots) == 2,
    )

    @jax.jit
    def fast(boxes, label, chosen, targets):
        return locations.best_of_class(lambda cells: boxes[cells], label, chosen, targets, shapes)

    arguments = jax.tree.map(jnp.asarray, (boxes, label, chosen, targets))
    iou, gt = fast(*arguments)
    want_iou, want_gt = slow_best(boxes, label, chosen, targets)
    np.testing.assert_allclose(iou, want_iou, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.where(want_iou > 0, gt, 0), np.where(want_iou > 0, want_gt, 0))
    assert not np.asarray(iou)[~chosen].any()
    empty = jax.tree.map(lambda leaf: leaf[:0], arguments[-1])
    assert not fast(*arguments[:-1], empty)[0].any()


def inside_last(points, targets):
    """Locations whose centre lies in an object, which is the last such."""
    centre = (points.boxes[None, :, :2] + points.boxes[None, :, 2:]) / 2
    boxes = targets.boxes[:, None]
    inside = ((centre > boxes[..., :2]) & (centre < boxes[..., 2:])).all(-1)
    inside &= targets.objects[:, None] & points.valid[None]
    return Assignment(
        gt=jnp.max(jnp.where(inside, jnp.arange(len(boxes))[:, None], 0), axis=0),
        positive=inside.any(axis=0),
        ignored=~points.valid,
    )


def test_labels_by_centres():
    """Cells centred at 4, 12, 20, 28; two anchors each: 8 and 16 pixels wide, 8 high."""
    shapes = 2
    anchors, _ = drawn(np.random.default_rng(0), 4, shapes, 1)
    middle = np.repeat(np.arange(4) * 8 + 4.0, shapes)
    half = np.tile([4.0, 8.0], 4)
    boxes = np.stack([middle - half, np.zeros(8), middle + half, np.full(8, 8.0)], 1)
    anchors = anchors.replace(boxes=jnp.asarray(boxes, jnp.float32))
    anchors = anchors.replace(valid=jnp.arange(8) < 6)
    targets = objects_of([1, 3], [[0, 0, 8, 8], [10, 0, 32, 8]])
    found = locations.by_centres(anchors, targets, assign=inside_last)
    np.testing.assert_array_equal(coded(found, 5), [1, 3, 3, -1])
    np.testing.assert_array_equal(found.gt, [[0, 0], [1, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(found.regressed[:, 0], [True, True, True, False])
    # IoUs with the location's object: 8/8, 8/16; 6/24, 10/28; 8/22, 16/22.
    want = [[True, True], [False, False], [False, True], [False, False]]
    np.testing.assert_array_equal(found.prior, want)


def test_bad_input_is_named():
    anchors, assignment = drawn(np.random.default_rng(0), 4, 2, 1)
    with pytest.raises(ValueError, match=r"gamma 1\.5 is not between 0 and 1"):
        label(anchors, objects_of([0]), assignment, gamma=1.5)
    empty = anchors.replace(level_sizes=((1, 2, 4), (1, 1, 0)))
    with pytest.raises(ValueError, match=r"at least one anchor on every level, not \[4, 0\]"):
        locations.cells_of(empty)
