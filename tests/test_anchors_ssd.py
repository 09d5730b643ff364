"""SSD's default boxes: the published sizes, single boxes by hand, sums that sizes do not change."""

import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import spec
from configs import ssd

# Variant: min sizes of all levels; the last maximum; boxes of all levels; sum of all coordinates.
PUBLISHED = {
    "paper": ((21, 45, 99, 153, 207, 261), 315, 8732, 5_332_736),
    "voc300": ((30, 60, 111, 162, 213, 264), 315, 8732, 5_332_736),
    "paper512": ((20, 51, 133, 215, 296, 378, 460), 542, 24564, 25_153_536),
    "voc512": ((35, 76, 153, 230, 307, 384, 460), 537, 24564, 25_153_536),
}
MAPS = {300: (38, 19, 10, 5, 3, 1), 512: (64, 32, 16, 8, 4, 2, 1)}


def boxes_of(variant):
    record = spec.plain(ssd.get_config(variant).detector)["anchors"]
    sides = MAPS[ssd.SIZES[variant][0]]
    return spec.build(record)(maps=[(side, side) for side in sides])


@pytest.mark.parametrize("variant", PUBLISHED)
def test_sizes_and_numbers_of_the_published_networks(variant):
    low, last, count, total = PUBLISHED[variant]
    shapes = ssd.get_config(variant).detector.anchors.shapes
    assert tuple(shapes.min_sizes) == low
    assert tuple(shapes.max_sizes) == (*low[1:], last)
    boxes = np.asarray(boxes_of(variant).boxes, np.float64)
    assert len(boxes) == count
    np.testing.assert_allclose(boxes.sum(), total, rtol=1e-6)


@pytest.mark.parametrize("variant", ssd.SIZES)
def test_the_head_has_a_prediction_for_every_box(variant):
    config = ssd.get_config(variant)
    shapes = spec.build(spec.plain(config.detector.anchors.shapes))
    strides = tuple((s, s) for s in config.detector.anchors.strides)
    counts = tuple(len(level) for level in shapes(strides))
    assert tuple(config.detector.model.head.shapes_per_cell) == counts


def test_single_boxes_of_ssd300():
    boxes = np.asarray(boxes_of("paper").boxes)
    for index, expected in {
        0: (-6.5, -6.5, 14.5, 14.5),
        1: (-11.3704, -11.3704, 19.3704, 19.3704),
        2: (-10.8492, -3.4246, 18.8492, 11.4246),  # wide, then its transpose
        3: (-3.4246, -10.8492, 11.4246, 18.8492),
        4: (1.5, -6.5, 22.5, 14.5),  # columns move first
        5776: (-14.5, -14.5, 30.5, 30.5),
        -1: (57.7226, -34.5549, 242.2774, 334.5549),
    }.items():
        np.testing.assert_allclose(boxes[index], expected, atol=1e-3, err_msg=str(index))


def test_levels_without_shapes_have_no_anchors():
    shapes = make.explicit(sizes=[[(4, 4), (8, 4)], [], [(16, 16)]])
    anchors = make.grid(shapes, maps=((2, 3), (1, 2), (1, 1)), strides=(8, 16, 32))
    assert anchors.level_sizes == ((2, 3, 2), (1, 2, 0), (1, 1, 1))
    assert anchors.level_counts == (12, 0, 1)
    np.testing.assert_array_equal(anchors.shape[-1], 2)
    np.testing.assert_array_equal(anchors.cell[-1], 8)  # cells of an empty level count
