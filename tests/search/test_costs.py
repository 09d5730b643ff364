"""Every published cost of the paper, from its formulas."""

import numpy as np
import pytest

from anchors_jax import anchors
from anchors_jax.models.dense_head import DenseHead
from anchors_jax.models.ssd_head import SSDHead
from anchors_jax.search import costs
from anchors_jax.search.layout import Layout

# SSD300 on COCO: spec of the heads that the published numbers are about.
CELLS = (38 * 38, 19 * 19, 10 * 10, 5 * 5, 3 * 3, 1)
CHANNELS = (512, 1024, 512, 256, 256, 256)
SSD300 = Layout(CELLS, (4, 6, 6, 6, 4, 4))
HEAD = SSDHead(num_classes=80)
FREE = {5, 7, 13, 16, 17, 19, 22, 25, 26, 27, 28}  # removed at no loss
CONFIGURATIONS = {  # removed, multiply-adds, boxes
    "base": (set(), 4_231_319_040, 8732),
    "A": (FREE, 3_607_764_480, 7814),
    "B": (FREE - {22} | {1, 2, 24}, 2_476_592_640, 4926),
    "C": (FREE | {1, 2, 3, 8}, 1_628_213_760, 3121),
    "D": (FREE | {0, 1, 2, 3, 6, 8, 20}, 774_938_880, 1291),
}
PRICE = (565_585_920, 282_792_960, 39_168_000, 4_896_000, 1_762_560, 195_840)
Q, Z = {1, 2, 3, 6, 8}, {0, 1, 2, 3, 6, 8}
FRONT = [  # (mAP in thousandths, what is removed beside FREE), best first
    (256, set()), (255, {2}), (254, {2, 10, 12}), (253, {2, 10, 12, 20, 23}), (252, {1, 2}),
    (251, {1, 2, 10, 12}), (250, {1, 2, 10, 12, 18, 20}), (249, {1, 2, 8, 10}),
    (248, {1, 2, 8, 10, 12, 20}), (247, {1, 2, 3}), (246, {1, 2, 3, 10, 12}),
    (245, {1, 2, 3, 10, 12, 18, 20}), (244, {1, 2, 3, 8}), (243, {1, 2, 3, 8, 10, 12}),
    (242, {1, 2, 3, 8, 10, 12, 20, 24}), (241, {1, 2, 3, 8, 10, 12, 18, 20, 24}),
    (239, {1, 2, 3, 8, 10, 12, 14, 24}), (238, Q | {11}), (237, Q | {10, 12, 20}),
    (236, Q | {10, 12, 18, 20}), (235, Q | {10, 12, 18, 20, 24}), (234, Q | {10, 12, 14}),
    (233, Q | {10, 12, 14, 20}), (232, Q | {10, 12, 14, 18, 20}),
    (231, Q | {10, 12, 14, 18, 20, 24}), (230, Q | {9}), (229, Q | {9, 12, 20}),
    (228, Q | {9, 11, 18, 20}), (227, Q | {9, 12, 15}), (226, Q | {9, 12, 15, 18, 20}),
    (225, Q | {9, 12, 15, 18, 20, 24}), (224, Q | {9, 12, 15, 18, 20, 23, 24}),
    (223, Q | {9, 12, 14, 15, 23, 24}), (222, Q | {9, 12, 14, 15, 18, 24}),
    (221, Q | {9, 12, 14, 15, 18, 20}), (220, Q | {9, 12, 14, 15, 18, 20, 24}),
    (219, Q | {9, 12, 14, 15, 18, 20, 23, 24}), (216, Z | {11}), (215, Z | {10, 12, 20}),
    (214, Z | {10, 12, 18, 20}), (213, Z | {10, 12, 18, 20, 24}), (212, Z | {10, 12, 14}),
    (211, Z | {10, 12, 14, 18, 24}), (210, Z | {10, 12, 14, 18, 20}),
    (209, Z | {10, 12, 14, 18, 20, 24}), (208, Z | {10, 12, 14, 18, 20, 23, 24}),
    (207, Z | {9, 11, 20}), (206, Z | {9, 12, 18, 20}), (205, Z | {9, 12, 15}),
    (204, Z | {9, 12, 15, 20, 23}), (203, Z | {9, 12, 15, 18, 20, 24}),
    (202, Z | {9, 12, 15, 18, 20, 23, 24}), (201, Z | {9, 12, 14, 15, 24}),
    (200, Z | {9, 12, 14, 15, 18, 24}),
]  # fmt: skip


def macs(removed):
    return HEAD.multiply_adds(CELLS, SSD300.counts(removed), CHANNELS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_published_configurations(name):
    removed, expected, boxes = CONFIGURATIONS[name]
    assert macs(removed) == expected
    assert costs.boxes(CELLS, SSD300.counts(removed)) == boxes


def test_kept_anchors_of_the_published_table():
    kept = {name: SSD300.counts(row[0]) for name, row in CONFIGURATIONS.items()}
    assert kept == {
        "base": (4, 6, 6, 6, 4, 4),
        "A": (4, 4, 5, 3, 2, 1),
        "B": (2, 4, 5, 3, 2, 1),
        "C": (1, 3, 5, 3, 2, 1),
        "D": (0, 2, 5, 2, 2, 1),
    }


@pytest.mark.parametrize("anchor", range(30))
def test_the_price_of_one_anchor(anchor):
    level = SSD300.level[anchor]
    assert macs(set()) - macs({anchor}) == PRICE[level]
    assert costs.boxes(CELLS, SSD300.counts({anchor})) == 8732 - CELLS[level]


def test_the_published_front_falls_in_both_and_has_its_known_ends():
    assert len(FRONT) == 54
    removed = [FREE | more for _, more in FRONT]
    integers = [macs(gone) for gone in removed]
    assert integers == sorted(set(integers), reverse=True)
    points = [point for point, _ in FRONT]
    assert points == sorted(set(points), reverse=True)
    assert [integers[0], integers[4], integers[-1]] == [
        3_607_764_480, 2_476_592_640, 372_879_360,
    ]  # fmt: skip
    assert integers[points.index(216)] == pytest.approx(740.7e6, rel=1e-4)
    # By hand, from the price list: 565 585 920 for anchor 2, and 2 * 39 168 000 more.
    assert integers[1] == 3_042_178_560
    assert integers[2] == 2_963_842_560
    assert set.intersection(*({*range(30)} - gone for gone in removed)) == {4, 21, 29}


@pytest.mark.parametrize(("more", "expected"), [(m, FREE | m) for _, m in FRONT])
def test_costs_of_the_front_from_the_price_list(more, expected):
    base = 4_231_319_040
    assert macs(expected) == base - sum(PRICE[SSD300.level[n]] for n in FREE | more)


def test_the_heads_of_ssd_at_other_sizes():
    whole = SSD300.counts(())
    voc = SSDHead(num_classes=20)
    assert voc.multiply_adds(CELLS, whole, CHANNELS) == 1_244_505_600
    cells, kept = tuple(n * n for n in (64, 32, 16, 8, 4, 2, 1)), (4, 6, 6, 6, 6, 4, 4)
    channels = (512, 1024, 512, 256, 256, 256, 256)
    assert HEAD.multiply_adds(cells, kept, channels) == 11_929_789_440
    assert voc.multiply_adds(cells, kept, channels) == 3_508_761_600


def test_ssdlite_head():
    cells, channels = (400, 100, 25, 9, 4, 1), (96, 1280, 512, 256, 256, 128)
    full = costs.ssdlite_macs(cells, (6,) * 6, channels=channels, outputs=85)
    assert full == 96_442_368
    without = costs.ssdlite_macs(cells, (0,) + (6,) * 5, channels=channels, outputs=85)
    assert full - without == 400 * (2 * 9 * 96 + 96 * 6 * 85)


RETINA = tuple(h * w for h, w in ((100, 150), (50, 75), (25, 38), (13, 19), (7, 10)))


def shared(kept):
    return DenseHead(num_classes=80).multiply_adds(RETINA, kept, (256,) * 5)


def test_retinanet_head_as_published():
    full, pruned = shared((9,) * 5), shared((0, 8, 8, 8, 8))
    assert round(full / 1e9) == 129
    assert round(pruned / 1e9) == 31
    assert pruned / full == pytest.approx(1 - 0.76, abs=0.005)


def test_a_shared_head_saves_nothing_by_one_slot_of_one_level():
    full = shared((9,) * 5)
    assert shared((9, 8, 9, 9, 9)) == full
    assert shared((8,) * 5) < full
    assert shared((9, 9, 9, 9, 0)) < full
    assert shared((0,) * 5) == 0


def test_a_head_between_other_widths():
    head = DenseHead(num_classes=5, depth=2, width=64)
    assert head.multiply_adds((10,), (3,), (32,)) == 10 * (
        2 * 9 * (32 * 64 + 64 * 64) + 9 * 64 * 3 * 9
    )
    head = DenseHead(num_classes=5, depth=0, width=64)
    assert head.multiply_adds((10,), (3,), (32,)) == 10 * 9 * 32 * 3 * 9


def test_which_prototype_every_prior_of_ssd300_is():
    prior = SSD300.prior_shape()
    assert prior.shape == (8732,)
    assert prior[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert prior[5776] == 4
    assert prior[-4:].tolist() == [26, 27, 28, 29]
    np.testing.assert_array_equal(np.bincount(prior), np.repeat(CELLS, SSD300.shapes))


def test_the_layout_numbers_as_the_grid_does():
    shapes = anchors.explicit(sizes=[[(4, 4), (8, 4)], [], [(9, 9)]])
    maps = ((3, 4), (2, 2), (1, 2))
    grid = anchors.grid(shapes, maps=maps, strides=(8, 16, 32))
    layout = Layout.of_anchors(grid.level_sizes)
    np.testing.assert_array_equal(layout.prior_shape(), grid.shape)
    assert layout.size == 3
    assert layout.kept({0}) == ((1,), (), (0,))
    assert layout.keep_mask({0, 2}).tolist() == [False, True, False]
    assert layout.level.tolist() == [0, 0, 2]
    assert layout.slot.tolist() == [0, 1, 0]


def test_precise_shapes_of_a_scale_and_a_ratio():
    """Side 300 * .15 and ratio height / width 2: w = S s / sqrt(r), h = S s sqrt(r)."""
    tall, wide = anchors.sizes(sizes=[[45.0]], ratios=(2.0, 0.5))(((16, 16),))[0]
    np.testing.assert_allclose(tall, (31.8198, 63.6396), atol=1e-4)
    np.testing.assert_allclose(wide, tall[::-1], atol=1e-12)
    assert anchors.explicit(sizes=[[]])(((8, 8),))[0].shape == (0, 2)
    assert anchors.grid(
        anchors.explicit(sizes=[[], [(4, 4)]]), maps=((2, 2), (1, 1)), strides=(8, 16)
    ).boxes.shape == (1, 4)


def test_ids_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"anchor 30 does not exist: ids are 0\.\.29"):
        SSD300.check({3, 30})
    with pytest.raises(ValueError, match="removes every anchor"):
        SSD300.check(range(30))
