"""The best anchor by rounding against all anchors; recall; what bare anchors reach."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from coverage_cases import LEVELS, covered, grid, source

from anchors_jax import anchors as grids
from anchors_jax import evaluation
from anchors_jax.search import coverage, coverage_boxes, coverage_report


def overlaps(boxes, others):
    """IoU of all pairs, in float64."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(-1)
    area = [np.maximum(x[..., 2:] - x[..., :2], 0).prod(-1) for x in (a, b)]
    return shared / np.maximum(area[0] + area[1] - shared, 1e-6)


GRIDS = {
    "centres in the middle of cells": {},
    "corners": {"offset": 0},
    "strides of two numbers": {"strides": ((8, 10), (16, 20), (32, 40), (64, 80))},
    "steps from the canvas": {"steps_from_canvas": True},
}


def some_boxes(count, rng):
    """Inside, across and beyond a canvas of 104 x 152; slivers, points and inverted boxes too."""
    centre = rng.uniform(-30, 180, (count, 2))
    side = np.exp(rng.uniform(np.log(0.5), np.log(200), (count, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
    boxes[:3] = [[5, 5, 5, 9], [7, 7, 7, 7], [20, 20, 10, 10]]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("keywords", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("divisor", [None, 1, 32])
def test_the_best_of_a_few_is_the_best_of_all(keywords, divisor):
    anchors, rng = grid(**keywords), np.random.default_rng(1)
    levels = coverage.levels_of(anchors)
    boxes = some_boxes(300, rng)
    sizes = rng.integers(1, (104, 152), (300, 2), endpoint=True)
    cells = coverage.usable_cells(levels, sizes, divisor=divisor)
    found = coverage.best_anchors(boxes, levels, cells)
    inside = np.stack(
        [np.asarray(grids.inside(anchors, jnp.asarray(s), divisor=divisor)) for s in sizes[:60]]
    )
    every = overlaps(boxes[:60], anchors.boxes)
    np.testing.assert_allclose(
        found.iou[:60], np.where(inside, every, 0).max(1), rtol=1e-4, atol=1e-5
    )
    meets = found.iou[:60] > 0
    rows = np.arange(60)[meets]
    named = found.anchor[:60][meets]
    np.testing.assert_allclose(every[rows, named], found.iou[rows], rtol=1e-4, atol=1e-5)
    assert inside[rows, named].all()
    assert (np.asarray(anchors.shape)[named] == found.shape[rows]).all()
    owner = np.repeat(np.arange(4), anchors.level_counts)
    assert (owner[named] == found.level[rows]).all()
    assert np.isfinite(found.iou).all()
    assert meets.sum() > 15
    assert (found.iou[:3] == 0).all()  # boxes without area


def test_blocks_do_not_matter(monkeypatch):
    levels = coverage.levels_of(grid())
    boxes = some_boxes(70, np.random.default_rng(0))
    cells = coverage.usable_cells(levels, np.tile([[104, 152]], (70, 1)))
    whole = coverage.best_anchors(boxes, levels, cells)
    monkeypatch.setattr(coverage, "_BLOCK", 16)
    for one, other in zip(whole, coverage.best_anchors(boxes, levels, cells), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_anchor_is_its_own_best():
    anchors = grid()
    levels = coverage.levels_of(anchors)
    boxes = np.asarray(anchors.boxes)
    cells = coverage.usable_cells(levels, np.tile([[104, 152]], (len(boxes), 1)), divisor=None)
    found = coverage.best_anchors(boxes, levels, cells)
    np.testing.assert_array_equal(found.anchor, np.arange(len(boxes)))
    np.testing.assert_allclose(found.iou, 1, atol=1e-5)


def test_cells_in_the_padding_are_those_of_the_detector():
    anchors, rng = grid(), np.random.default_rng(3)
    levels = coverage.levels_of(anchors)
    for size in rng.integers(1, (104, 152), (20, 2)):
        cells = coverage.usable_cells(levels, size[None])[0]
        counts = [r * c * len(level.shapes) for (r, c), level in zip(cells, levels, strict=True)]
        assert sum(counts) == int(grids.inside(anchors, jnp.asarray(size)).sum())


def test_anchors_that_are_no_grid_are_refused():
    anchors = grid()
    moved = anchors.replace(boxes=anchors.boxes.at[600].add(1.0))
    with pytest.raises(ValueError, match="level 1: anchors are not the same shapes"):
        coverage.levels_of(moved)
    none = grids.grid(grids.explicit(sizes=[[], []]), maps=((2, 2), (1, 1)), strides=(8, 16))
    with pytest.raises(ValueError, match="every level is without shapes"):
        coverage.best_anchors(
            np.zeros((1, 4), np.float32), coverage.levels_of(none), np.ones((1, 2, 2), np.int64)
        )


def test_recall_counts_the_threshold_itself():
    iou = np.float32([0.5, 0.2, 0.75, 0.4999])
    assert coverage.recall(iou, (0.2, 0.5, 0.75, 0.8)) == [1.0, 0.5, 0.25, 0.0]
    assert coverage.recall(iou[:0], (0.5,)) == [0.0]
    assert coverage.IOUS[0] == 0.3
    assert coverage.IOUS[-1] == 0.95
    np.testing.assert_allclose(coverage.COCO_IOUS, np.arange(0.5, 1, 0.05))


def test_an_anchor_serves_the_object_it_fits_best():
    iou, anchor = np.float32([0.5, 0.8, 0.6, 0.7, 0.7]), np.array([3, 3, 3, 4, 4])
    group = np.array([0, 0, 1, 1, 1])
    assert coverage.served(iou, anchor, group).tolist() == [False, True, True, True, False]
    assert coverage.served(iou[:0], anchor[:0], group[:0]).tolist() == []


def test_bare_anchors_are_what_coco_makes_of_them():
    data = source()
    found = covered(data)
    boxes, best = found.boxes, found.best
    # Distinct best anchors of each image and class, with the best IoU that they have.
    order = np.argsort(-best.iou)
    keys = np.stack([boxes.image, boxes.labels, best.anchor], 1)[order]
    first = order[np.unique(keys, axis=0, return_index=True)[1]]
    table = evaluation.DetectionTable(
        image_id=boxes.image[first] + 1,
        category_id=boxes.labels[first].astype(np.int64) + 1,
        box=np.asarray(grid().boxes)[best.anchor[first]],
        score=best.iou[first],
    )
    truth = data.ground_truth()
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    expected = evaluation.coco_metrics(truth, table)
    bare = coverage_report.bare_anchors(found, 3)
    for key in ("AP", "AP50", "AP75"):  # COCO reads precision at 101 points
        assert bare[key] == pytest.approx(expected[key], abs=0.012)
    assert 0 < bare["AP"] < bare["AP50"]


def test_crowds_are_no_objects_and_groups_are_disjoint():
    data = source()
    found = covered(data)
    assert len(found.boxes.row) == 72 - 8
    grouped = coverage_report.groups(found, data.classes)
    for masks in grouped.values():
        assert (np.sum(list(masks.values()), axis=0) == 1).all()
    content = coverage_report.report(found, data, threshold=0.5)
    assert content["objects"] == 64
    assert sum(row["objects"] for row in content["by_class"].values()) == 64
    missed = content["unreached"]
    assert missed["count"] == (found.best.iou < 0.5).sum() == len(missed["listed"])
    assert missed["listed"][0]["best_iou"] == pytest.approx(found.best.iou.min(), abs=1e-4)
    worst = data.table.objects.ids.tolist().index(missed["listed"][0]["annotation_id"])
    assert data.table.files[data.table.objects.image[worst]] == missed["listed"][0]["file"]


def test_equal_boxes_share_their_anchor():
    data = source(images=1, objects=4, crowd=False)
    objects = data.table.objects
    objects.xywh[:] = [14, 14, 20, 20]  # an anchor of the second level
    objects.labels[:] = [0, 0, 0, 1]
    bare = coverage_report.bare_anchors(covered(data), 3)
    assert bare["shared"] == 2
    assert bare["AP50"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("count", [0, 1])
def test_no_object_and_one_object(count):
    data = source(images=1, objects=count, crowd=False)
    found = covered(data)
    content = coverage_report.report(found, data, threshold=0.5)
    assert content["objects"] == count
    assert content["all"]["mean_iou"] is None if count == 0 else content["all"]["mean_iou"] > 0
    assert content["bare_anchors"]["AP"] is None if count == 0 else True


def test_canvases_have_their_own_anchors():
    data = source(images=2, objects=3, crowd=False)
    data.table.sizes[1] = [152, 104]
    tall = ((152, 104), (104, 152))
    boxes = coverage_boxes.network_boxes(data, canvases=tall, transforms=())
    assert boxes.canvas.tolist() == [1, 0]
    seen = []

    @functools.cache
    def grids_of(canvas):
        seen.append(canvas)
        maps = [tuple(-(-side // s) for side in tall[canvas]) for s in (8, 16, 32, 64)]
        return grids.grid(grids.explicit(sizes=LEVELS), maps=maps, strides=(8, 16, 32, 64))

    found = coverage_report.cover(boxes, grids_of)
    assert sorted(seen) == [0, 1]
    for image, canvas in enumerate(boxes.canvas):
        mine = found.boxes.image == image
        best = overlaps(found.boxes.boxes[mine], grids_of(int(canvas)).boxes).max(1)
        np.testing.assert_allclose(found.best.iou[mine], best, atol=1e-5)
