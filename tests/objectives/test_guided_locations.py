"""Centre and ignore regions: reference values, levels, rounding, overlaps, a slow painter."""

import functools

import guided
import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import anchors_of, targets_of
from golden_cases import cases

from anchors_jax.objectives import guided_locations

ANCHORS = guided.grid(**guided.RPN)
BOX = [64, 64, 192, 192]
SLOTS = 6
find = jax.jit(lambda targets: guided_locations.find(ANCHORS, targets))
paint = jax.jit(lambda targets: guided_locations.find(ANCHORS, targets, overlap="last"))


def found(*boxes, crowds=(), by=find):
    """Centres and weights, one map per level."""
    result = by(targets_of(boxes, crowds, slots=SLOTS))
    return [guided.maps_of(values, ANCHORS) for values in result]


def cells(mask):
    """{(row, column)} of a map."""
    return {(int(y), int(x)) for y, x in np.argwhere(mask)}


def block(low, high):
    """The cells low..high in both directions."""
    return {(y, x) for y in range(low, high + 1) for x in range(low, high + 1)}


def settings_of(params):
    return {
        "centre": params["center_ratio"],
        "ignore": params["ignore_ratio"],
        "outside_weight": params["outside_weight"],
    }


@cases("ga_loss")
@pytest.mark.parametrize(
    ("overlap", "key"), [("last", "loc_weights"), ("best", "paper_loc_weights")]
)
def test_agrees_with_the_reference(case, overlap, key):
    anchors = guided.anchors_of(case)
    search = functools.partial(guided_locations.find, overlap=overlap, **settings_of(case.params))
    result = jax.jit(jax.vmap(functools.partial(search, anchors)))(heads.targets_of(case))
    np.testing.assert_array_equal(result.centre, case.arrays["loc_targets"] == 1)
    np.testing.assert_allclose(result.weight, case.arrays[key], rtol=1e-6)


def test_one_object_marks_its_level_and_the_two_beside():
    centre, weight = found(BOX)
    assert cells(centre[2]) == block(7, 9)
    assert cells(weight[2] == 0) == block(6, 10) - block(7, 9)
    assert (weight[2][7:10, 7:10] == 1).all()
    assert cells(weight[1] == 0) == block(12, 20)
    assert cells(weight[3] == 0) == block(3, 5)
    for level in (0, 1, 3, 4):
        assert not centre[level].any()
    for level in range(5):
        assert set(np.unique(weight[level])) <= {np.float32(x) for x in (0, 0.1, 1)}
    assert (weight[0] == np.float32(0.1)).all()
    assert (weight[4] == np.float32(0.1)).all()


@pytest.mark.parametrize(
    ("side", "level"),
    [(45.2, 0), (45.3, 1), (90.5, 1), (90.6, 2), (181.0, 2), (181.1, 3), (362.0, 3), (362.1, 4)],
)
def test_levels_meet_at_geometric_means(side, level):
    low = 128 - side / 2
    centre, _ = found([low, low, low + side, low + side])
    assert [one.any() for one in centre] == [number == level for number in range(5)]


def test_corners_are_rounded_half_to_even():
    centre, weight = found([64, 64, 80, 80])
    assert cells(centre[0]) == {(18, 18)}
    assert cells(weight[0] != np.float32(0.1)) == block(17, 19)
    assert cells(weight[1] == 0) == block(8, 10)  # 8.5 and 9.5; half up would begin at 9


def test_tiny_objects_have_a_centre():
    centre, weight = found([100, 100, 102, 102])
    assert cells(centre[0]) == {(25, 25)}
    assert cells(weight[1] == 0) == {(13, 13)}


def test_regions_outside_the_map_mark_nothing():
    for box in ([300, 300, 380, 380], [-100, -100, -50, -50], [0, 0, 2000, 2000]):
        centre, weight = found(box)
        assert not any(one.any() for one in centre)
        assert all((one == np.float32(0.1)).all() for one in weight)


def test_centre_goes_before_ignore_whatever_the_order():
    other = [96, 96, 224, 224]
    centre, weight = found(BOX, other)
    assert centre[2].sum() == 17
    assert ((weight[2] == 1) == centre[2]).all()
    assert (weight[2] == 0).sum() == 24
    swapped = found(other, BOX)
    for one, same in zip((centre, weight), swapped, strict=True):
        for level in range(5):
            np.testing.assert_array_equal(one[level], same[level])
    centre, weight = found(BOX, other, by=paint)
    counts = [int(x) for x in (centre[2].sum(), (weight[2] == 1).sum(), (weight[2] == 0).sum())]
    assert counts == [17, 14, 27]


def slow_painter(boxes, anchors, *, centre=0.2, ignore=0.5):
    """MMDetection's rule, box by box and cell by cell."""
    side = np.asarray(anchors.boxes)[0, 2] * 2
    labels = [np.zeros(size[:2], bool) for size in anchors.level_sizes]
    weights = [np.full(size[:2], -1.0) for size in anchors.level_sizes]
    beside = [np.zeros(size[:2], bool) for size in anchors.level_sizes]

    def region(box, stride, share):
        margin = (1 - share) / 2
        x0, y0, x1, y1 = np.float32(box) / np.float32(stride)
        ends = [
            np.round(np.float32(a * (1 - margin) + b * margin))
            for a, b in ((x0, x1), (y0, y1), (x1, x0), (y1, y0))
        ]
        x0, y0, x1, y1 = (int(end) for end in ends)
        return slice(max(y0, 0), max(y1 + 1, 0)), slice(max(x0, 0), max(x1 + 1, 0))

    for box in boxes:
        scale = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = int(np.clip(np.floor(np.log2(scale / side) + 0.5), 0, len(labels) - 1))
        for near in (level - 1, level + 1):
            if 0 <= near < len(labels):
                beside[near][region(box, anchors.strides[near][0], ignore)] = True
        stride = anchors.strides[level][0]
        weights[level][region(box, stride, ignore)] = 0.0
        weights[level][region(box, stride, centre)] = 1.0
        labels[level][region(box, stride, centre)] = True
    for one, near in zip(weights, beside, strict=True):
        one[(one < 0) & near] = 0.0
        one[one < 0] = 0.1
    return labels, weights


@pytest.mark.parametrize("seed", range(6))
def test_painted_regions_agree_with_a_slow_painter(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 180, (SLOTS, 2))
    boxes = np.concatenate([low, low + np.exp(rng.uniform(1.5, 5, (SLOTS, 2)))], 1)
    boxes = np.round(boxes.astype(np.float32), 2)
    want = slow_painter(boxes, ANCHORS)
    got = found(*boxes, by=paint)
    for level in range(5):
        np.testing.assert_array_equal(got[0][level], want[0][level])
        np.testing.assert_allclose(got[1][level], want[1][level], rtol=1e-6)
    centres, weights = found(*boxes)  # the same centres; none of them is left out
    for level in range(5):
        np.testing.assert_array_equal(centres[level], want[0][level])
        np.testing.assert_array_equal(weights[level] == 1, centres[level])


def test_crowds_padding_and_flat_objects_have_no_region():
    alone = find(targets_of([BOX], slots=SLOTS))
    crowded = targets_of([BOX, [5, 5, 5, 90], [30, 9, 20, 99]], [[10, 10, 200, 200]], slots=SLOTS)
    for one, other in zip(alone, find(crowded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_centres_follow_the_grid():
    # A grid moved by half a cell has the regions of objects moved as far.
    moved = guided.grid(strides=(8, 16), base_scale=4, side=128, offset=0.5)
    still = guided.grid(strides=(8, 16), base_scale=4, side=128)
    box = np.float32([20, 33, 61, 70])
    search = jax.jit(guided_locations.find)
    for level, stride in enumerate((8, 16)):
        one = search(still, targets_of([box]))
        other = search(moved, targets_of([box + stride / 2]))
        for a, b in zip(one, other, strict=True):
            maps = [guided.maps_of(values, still)[level] for values in (a, b)]
            np.testing.assert_array_equal(*maps)


def test_one_anchor_per_cell():
    anchors = anchors_of([[0, 0, 8, 8], [0, 0, 16, 16]]).replace(level_sizes=((1, 1, 2),))
    with pytest.raises(ValueError, match="need one anchor per cell"):
        guided_locations.find(anchors, targets_of([BOX]))


def test_sizes_of_regions_are_keywords():
    search = jax.jit(functools.partial(guided_locations.find, ANCHORS, centre=1.0, ignore=1.0))
    whole = search(targets_of([BOX], slots=SLOTS))
    centre = guided.maps_of(whole.centre, ANCHORS)[2]
    assert cells(centre) == block(4, 12)
    assert jnp.all((whole.weight == 1) == whole.centre)
