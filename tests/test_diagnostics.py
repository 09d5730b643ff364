import numpy as np
import pytest

from anchors_jax import diagnostics, visualize
from anchors_jax.data import images

LEVELS = (4, 2)


def example():
    gt = np.array([0, 0, 1, 0, 1, 0])
    positive = np.array([True, True, False, False, True, False])
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 50, 50], [0, 0, 200, 200], [1, 1, 2, 2]], np.float32)
    objects = np.array([True, True, True, False])
    return gt, positive, boxes, objects


def test_counts_by_hand():
    counts = diagnostics.count_positives(*example(), LEVELS)
    assert counts == {
        "objects": 3, "objects_without": 1, "positives": 3, "level_0": 2, "level_1": 1,
        "objects_small": 1, "positives_small": 2, "objects_medium": 1, "positives_medium": 1,
        "objects_large": 1, "positives_large": 0,
    }  # fmt: skip
    summary = diagnostics.summarise(diagnostics.merge([counts, counts]))
    assert summary["positives_per_object"] == 1
    assert summary["share_without_positive"] == pytest.approx(1 / 3)
    assert summary["positives_per_small_object"] == 2
    assert summary["share_on_level_0"] == pytest.approx(2 / 3)


def test_nothing_gives_zeros():
    nothing = diagnostics.count_positives(
        np.zeros(6, int), np.zeros(6, bool), np.zeros((2, 4), np.float32), np.zeros(2, bool), LEVELS
    )
    assert set(diagnostics.summarise(nothing).values()) == {0.0}


def test_overlap():
    one, other = np.array([True, True, False]), np.array([False, True, True])
    assert diagnostics.overlap(one, other) == pytest.approx(1 / 3)
    assert diagnostics.overlap(one & other & False, one & False) == 1


def test_the_picture_is_written(tmp_path):
    gt, positive, boxes, objects = example()
    panel = visualize.Panel(
        title="a",
        image=np.zeros((60, 60, 3), np.uint8),
        objects=boxes,
        visible=objects,
        anchors=np.tile(boxes[1], (6, 1)),
        stride=np.repeat(np.float32([4, 8]), LEVELS),
        gt=gt,
        positive=positive,
    )
    path = tmp_path / "assign.png"
    visualize.assignments([panel, panel], path)
    height, width = images.size_of(path.read_bytes(), name="assign.png")
    assert width > height > 300
