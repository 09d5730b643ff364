"""SSD's greedy one-to-one matching: a slow reference, the two published rules, bounds, ties."""

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assign.test_max_iou import anchors_of, slow_iou
from assignments import IGNORED, NEGATIVE, coded, in_frame, targets_of

from anchors_jax import anchors as make
from anchors_jax.assign import bipartite, max_iou

assign = in_frame(bipartite.assign)


def slow_match(overlap, positive=0.5):
    """The rule on the whole matrix [G, A]."""
    result = np.where(overlap.max(0) >= positive, overlap.argmax(0), NEGATIVE)
    free = overlap.copy()
    for _ in range(min(overlap.shape)):
        # Anchors first: the lowest anchor wins a tie, then the lowest object.
        a, g = np.unravel_index(np.argmax(free.T), free.T.shape)
        if free[g, a] <= 1e-6:
            break
        result[a] = g
        free[g], free[:, a] = -1, -1
    return result


def scene(seed, count, crowded=False):
    """A small pyramid with unequal levels, and objects; crowded ones compete for few anchors.

    All corners lie on quarters of a pixel: what ties in theory ties in float32.
    """
    random = np.random.default_rng(seed)
    shapes = make.ssd(min_sizes=(10, 22), max_sizes=(22, 40), ratios=((2,), (2, 3)))
    anchors = make.grid(shapes, maps=((6, 6), (3, 3)), strides=(8, 16))
    anchors = anchors.replace(boxes=jnp.round(anchors.boxes * 4) / 4)
    spread = (20, 26) if crowded else (0, 48)
    centre, side = random.uniform(*spread, (count, 2)), random.uniform(6, 36, (count, 2))
    objects = np.concatenate([centre - side / 2, centre + side / 2], -1)
    return anchors, (np.round(objects * 4) / 4).astype(np.float32)


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_reference(seed, crowded):
    anchors, objects = scene(seed, 12, crowded)
    objects[3] = objects[2]  # equal objects want equal anchors
    overlap = slow_iou(objects, np.asarray(anchors.boxes))
    got = coded(assign(anchors, targets_of(objects, slots=14)))
    np.testing.assert_array_equal(got, slow_match(overlap))
    assert set(range(12)) <= set(got.tolist()), "every object has an anchor of its own"


def test_more_objects_than_anchors():
    anchors = anchors_of([[0, 0, 10, 10], [0, 0, 12, 10]])
    objects = [[0, 0, 10, 11], [0, 0, 10, 10], [0, 0, 12, 10], [40, 40, 50, 50]]
    np.testing.assert_array_equal(coded(assign(anchors, targets_of(objects))), [1, 2])


class TestTheTwoRules:
    """Two objects and three anchors on which the published implementations differ."""

    objects = targets_of([[0, 0, 10, 10], [1, 1, 11, 11]])
    anchors = anchors_of([[0, 0, 10, 10], [30, 30, 40, 40], [0, 0, 10, 20]])

    def test_bipartite(self):
        np.testing.assert_array_equal(coded(assign(self.anchors, self.objects)), [0, NEGATIVE, 1])

    def test_argmax(self):
        got = max_iou.assign(self.anchors, self.objects, negative_iou=0.5, assign_all_ties=False)
        np.testing.assert_array_equal(coded(got), [1, NEGATIVE, 0])


def test_an_object_that_meets_nothing_takes_nothing():
    anchors = anchors_of([[0, 0, 10, 10], [20, 0, 30, 10]])
    targets = targets_of([[50, 50, 60, 60], [3, 3, 3, 3], [0, 0, 1, 1]])
    np.testing.assert_array_equal(coded(assign(anchors, targets)), [2, NEGATIVE])


def test_half_is_enough_and_less_is_not():
    # IoUs 0.5 and 0.4999 with the object, whose own best anchor is the first one.
    anchors = anchors_of([[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 20.004]])
    got = coded(assign(anchors, targets_of([[0, 0, 10, 10]])))
    np.testing.assert_array_equal(got, [0, 0, NEGATIVE])


def test_ties_go_to_the_lower_anchor_then_to_the_lower_object():
    anchors = anchors_of([[0, 0, 10, 40], [0, 0, 40, 10], [50, 0, 60, 10]])
    got = coded(assign(anchors, targets_of([[0, 0, 10, 10], [0, 0, 10, 10]])))
    np.testing.assert_array_equal(got, [0, 1, NEGATIVE])


def test_crowd_regions_are_left_out_or_say_nothing():
    anchors = anchors_of([[0, 0, 10, 10], [20, 0, 30, 10]])
    targets = targets_of([[0, 0, 10, 9]], [[0, 0, 12, 10]], slots=4)
    np.testing.assert_array_equal(coded(assign(anchors, targets)), [IGNORED, NEGATIVE])
    nothing = assign(anchors, targets, ignore_iof=None)
    np.testing.assert_array_equal(coded(nothing), [0, NEGATIVE])


def test_no_slots_at_all():
    anchors, _ = scene(0, 1)
    empty = jax.tree.map(lambda leaf: leaf[:0], targets_of([[0, 0, 1, 1]]))
    np.testing.assert_array_equal(coded(bipartite.assign(anchors, empty)), NEGATIVE)


@golden_cases.cases("assign_max_iou")
def test_agrees_with_the_reference_where_nobody_competes(case):
    """Where no two objects want one anchor both rules are the same (forced matches, one each)."""
    if case.params["gt_max_assign_all"] or case.params["pos_iou_thr"] != case.params["neg_iou_thr"]:
        pytest.skip("not SSD's rule")
    arrays = case.arrays
    overlap = slow_iou(arrays["in_gt"], arrays["in_anchors"])
    wanted = overlap.argmax(1)
    alone = [
        g for g in range(len(wanted)) if overlap[g].max() > 0 and (wanted == wanted[g]).sum() == 1
    ]
    targets = targets_of(arrays["in_gt"], slots=len(wanted) + 2)
    got = coded(assign(anchors_of(arrays["in_anchors"]), targets))
    np.testing.assert_array_equal(got[wanted[alone]], np.asarray(alone))
    clear = ~arrays["mask_ambiguous"] & (overlap.max(0) < 0.5 - 1e-4)
    free = np.setdiff1d(np.flatnonzero(clear), np.flatnonzero(got >= 0))
    assert (got[free] == NEGATIVE).all()
