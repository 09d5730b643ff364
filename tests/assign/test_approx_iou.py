"""Shape targets: reference values, worked examples, shapes tried, objects that meet none."""

import functools

import guided
import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import IGNORED, NEGATIVE, anchors_of, coded, in_frame, targets_of
from golden_cases import cases

from anchors_jax import anchors as make
from anchors_jax import boxes as geometry
from anchors_jax.assign import approx_iou, frame

BOX = [64, 64, 192, 192]
GRIDS = {"rpn": guided.grid(**guided.RPN), "retina": guided.grid(**guided.RETINA)}
SETTINGS = {"rpn": guided.RPN_SETTINGS, "retina": guided.RETINA_SETTINGS}


@functools.cache
def assigner(kind):
    return functools.partial(in_frame(guided.shape_assigner(SETTINGS[kind])), GRIDS[kind])


def assigned(kind, *boxes):
    """Codes of all cells, one map per level."""
    return guided.maps_of(coded(assigner(kind)(targets_of(boxes, slots=4))), GRIDS[kind])


def thresholds(params):
    return {
        "positive_iou": params["pos_iou_thr"],
        "negative_iou": params["neg_iou_thr"],
        "min_positive_iou": params["min_pos_iou"],
        "ignore_iof": params["ignore_iof_thr"],
    }


@cases("assign_approx_max_iou")
@pytest.mark.parametrize("crowds", [False, True])
def test_agrees_with_the_reference(case, crowds):
    arrays = case.arrays
    squares, stored = arrays["in_squares"], arrays["in_approxs"]
    shapes = stored.shape[1]
    assert shapes == 9, "three scales and three ratios"
    tried = approx_iou.approximations(jnp.asarray(squares))
    np.testing.assert_allclose(jnp.moveaxis(tried, 0, 1), stored, rtol=1e-5, atol=1e-3)
    regions = arrays["in_gt_ignore"] if crowds else ()
    targets, keywords = targets_of(arrays["in_gt"], regions), thresholds(case.params)
    found = coded(in_frame(approx_iou.assign)(anchors_of(squares), targets, **keywords))
    want = arrays["out_assigned_ignore" if crowds else "out_assigned"]
    clear = ~arrays["mask_ambiguous"]
    np.testing.assert_array_equal(found[clear], want[clear])


@cases("anchor_guided")
def test_squares_and_shapes_tried_are_those_of_the_reference(case):
    params = case.params
    grid = make.grid(
        make.octaves(base_scale=params["octave_base_scale"], scales_per_octave=1, ratios=(1.0,)),
        maps=[tuple(size) for size in params["feat_sizes"]],
        strides=params["strides"],
        offset=0,
    )
    tried = approx_iou.approximations(
        grid.boxes, scales_per_octave=params["scales_per_octave"], ratios=tuple(params["ratios"])
    )
    levels = range(len(params["strides"]))
    squares = np.concatenate([case.arrays[f"out_square_l{level}"] for level in levels])
    shapes = np.concatenate([case.arrays[f"out_approx_l{level}"] for level in levels])
    np.testing.assert_allclose(grid.boxes, squares, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(jnp.moveaxis(tried, 0, 1), shapes, rtol=1e-5, atol=1e-4)


@cases("ga_loss")
def test_agrees_with_the_reference_on_a_pyramid(case):
    anchors, targets = guided.anchors_of(case), heads.targets_of(case)

    def one(valid, targets):
        image = anchors.replace(valid=valid)
        return frame.assigned(guided.shape_assigner(case.params), image, targets)

    found = jax.jit(jax.vmap(one))(anchors.valid, targets)
    want = case.arrays["shape_assigned_gt"]
    np.testing.assert_array_equal(coded(found), np.where(want == -3, IGNORED, want))


def test_worked_examples():
    levels = assigned("rpn", BOX)
    want = {(8, 8), (7, 8), (9, 8), (8, 7), (8, 9)}
    assert {tuple(cell) for cell in np.argwhere(levels[2] == 0).tolist()} == want
    assert [int((one == IGNORED).sum()) for one in levels] == [0, 145, 88, 0, 0]
    assert sum(int((one == NEGATIVE).sum()) for one in levels) == 5218
    levels = assigned("retina", BOX)
    assert [int((one >= 0).sum()) for one in levels] == [0, 9, 5, 0, 0]
    assert (levels[1][7:10, 7:10] == 0).all()
    assert sum(int((one == IGNORED).sum()) for one in levels) == 20
    assert sum(int((one == NEGATIVE).sum()) for one in levels) == 1330


def test_of_two_equal_objects_the_last_claims_the_best_cell():
    level = assigned("rpn", BOX, BOX)[2]
    assert level[8, 8] == 1
    assert (level == 0).sum() == 4


@pytest.mark.parametrize("box", [[100, 100, 102, 102], [60, 60, 196, 70], [300, 300, 380, 380]])
@pytest.mark.parametrize("kind", GRIDS)
def test_tiny_long_and_far_objects_teach_no_shape(kind, box):
    assert all((one != 0).all() for one in assigned(kind, box))


def test_long_objects_reach_less_than_any_threshold():
    tried = approx_iou.approximations(GRIDS["rpn"].boxes).reshape(-1, 4)
    best = geometry.iou(tried, jnp.array([[60.0, 60.0, 196.0, 70.0]])).max()
    np.testing.assert_allclose(best, 0.236, atol=0.005)


def test_the_best_of_the_shapes_counts():
    anchors = anchors_of([[0, 0, 32, 32]])
    wide = targets_of([[16 - 22.627, 16 - 11.314, 16 + 22.627, 16 + 11.314]])
    all_nine = functools.partial(approx_iou.assign, positive_iou=0.99)
    assert coded(jax.jit(all_nine)(anchors, wide)) == 0
    square = functools.partial(all_nine, ratios=(1.0,), scales_per_octave=1, min_positive_iou=0.6)
    assert coded(jax.jit(square)(anchors, wide)) != 0


def test_objects_without_area_and_padding_change_nothing():
    want = coded(assigner("retina")(targets_of([BOX], slots=4)))
    flat = [[40, 40, 40, 90], [0, 0, 0, 0], [90, 90, 60, 60]]
    found = coded(assigner("retina")(targets_of([BOX, *flat])))
    np.testing.assert_array_equal(found, want)
