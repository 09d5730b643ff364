"""FCOS: a slow reference and the counts of worked scenes on an 800 x 1024 canvas."""

import functools

import assignments
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import IGNORED, NEGATIVE, coded

from anchors_jax import anchors as make
from anchors_jax.assign import fcos

STRIDES = (8, 16, 32, 64, 128)
MAPS = ((100, 128), (50, 64), (25, 32), (13, 16), (7, 8))
SLOTS = 5

assign = assignments.in_frame(fcos.assign)


@pytest.fixture(scope="module")
def locations():
    return make.grid(make.locations(), maps=MAPS, strides=STRIDES)


targets_of = functools.partial(assignments.targets_of, slots=SLOTS)


def counts(anchors, *objects, of=0, **keywords):
    """Locations of each level that object `of` gets."""
    owned = coded(assign(anchors, targets_of(objects), **keywords)) == of
    ends = np.cumsum(anchors.level_counts)[:-1]
    return [int(level.sum()) for level in np.split(owned, ends)]


CENTRE = {"centre_radius": 1.5}
SCENES = [
    ((100, 100, 200, 200), [16, 35, 0, 0, 0], [9, 8, 0, 0, 0]),
    ((4, 4, 132, 132), [1, 64, 0, 0, 0], [1, 9, 0, 0, 0]),  # 64 pixels belong to both levels
    ((100, 100, 300, 160), [0, 12, 8, 0, 0], [0, 9, 2, 0, 0]),
    ((0, 0, 1000, 800), [0, 0, 0, 0, 48], [0, 0, 0, 0, 9]),
    ((105, 105, 107, 107), [0] * 5, [0] * 5),  # between locations
    ((101, 101, 103, 103), [0] * 5, [0] * 5),
    ((104, 104, 110, 110), [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
]


def test_locations(locations):
    assert len(locations.boxes) == 17_064
    starts = np.cumsum([0, *locations.level_counts[:-1]])
    first = np.asarray(locations.boxes)[starts].reshape(5, 2, 2).mean(axis=1)
    np.testing.assert_array_equal(first, np.repeat([[4], [8], [16], [32], [64]], 2, axis=1))


@pytest.mark.parametrize(("box", "full", "centre"), SCENES)
def test_counts_per_level(locations, box, full, centre):
    assert counts(locations, box) == full
    assert counts(locations, box, **CENTRE) == centre


def test_the_smaller_of_nested_objects_wins_in_any_order(locations):
    large, small = (0, 0, 400, 400), (150, 150, 250, 250)
    for order in ((large, small), (small, large)):
        a, b = order.index(large), order.index(small)
        assert counts(locations, *order, of=b) == [16, 48, 0, 0, 0]
        assert counts(locations, *order, of=a) == [0, 0, 16, 32, 0]
        assert counts(locations, *order, of=b, **CENTRE) == [4, 8, 0, 0, 0]
        assert counts(locations, *order, of=a, **CENTRE) == [0, 0, 9, 5, 0]


def test_of_equal_areas_the_first_wins(locations):
    pair = (100, 100, 180, 180), (140, 100, 220, 180)
    assert counts(locations, *pair, of=0) == [49, 16, 0, 0, 0]
    assert counts(locations, *pair, of=1) == [35, 12, 0, 0, 0]
    for of in (0, 1):
        assert counts(locations, *pair, of=of, **CENTRE) == [9, 0, 0, 0, 0]
    assert sum(counts(locations, pair[0], pair[0], of=1)) == 0


def test_a_location_on_the_edge_is_outside(locations):
    # (100, 100) and (108, 108) are locations of stride 8: the edges themselves do not count.
    assert counts(locations, (100, 100, 108, 108)) == [0, 0, 0, 0, 0]
    assert counts(locations, (99.9, 100, 108.1, 108.1))[0] == 2


def test_degenerate_objects_get_nothing(locations):
    for box in ((104, 100, 104, 140), (50, 50, 50, 50), (90, 90, 60, 60), (-90, -90, -50, -50)):
        assert sum(counts(locations, box)) == 0


def test_areas_have_no_limit():
    anchors = make.grid(make.locations(), maps=((4, 4),), strides=(8,))
    assert sum(counts(anchors, (-1e5, -1e5, 1e5, 1e5))) == 16


def test_invalid_locations_and_crowds_are_ignored(locations):
    valid = np.random.default_rng(0).uniform(size=17_064) < 0.5
    masked = locations.replace(valid=jnp.asarray(valid))
    box, crowd = (100, 100, 200, 200), (0, 0, 150, 1000)
    plain = coded(assign(locations, targets_of([box])))
    got = coded(assign(masked, targets_of([box], [crowd])))
    share = slow_share(np.asarray(locations.boxes), crowd)
    np.testing.assert_array_equal(got, np.where(valid & (share <= 0.5), plain, IGNORED))


def slow_share(boxes, region):
    """Share of each box in the region."""
    sides = [
        np.maximum(
            np.minimum(boxes[:, 2 + i], region[2 + i]) - np.maximum(boxes[:, i], region[i]), 0
        )
        for i in (0, 1)
    ]
    return sides[0] * sides[1] / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def slow_fcos(boxes, counts, strides, objects, *, radius, shrink, ranges):
    """The rule, location by location."""
    levels, result = np.repeat(np.arange(len(counts)), counts), []
    for box, level in zip(np.asarray(boxes, np.float64), levels, strict=True):
        x, y = (box[:2] + box[2:]) / 2
        choice, smallest = NEGATIVE, np.inf
        for g, (x0, y0, x1, y1) in enumerate(np.asarray(objects, np.float64)):
            cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            inner = [
                cx - shrink * w / 2,
                cy - shrink * h / 2,
                cx + shrink * w / 2,
                cy + shrink * h / 2,
            ]
            if radius is not None:
                reach = radius * strides[level]
                inner[:2] = max(cx - reach, inner[0]), max(cy - reach, inner[1])
                inner[2:] = min(cx + reach, inner[2]), min(cy + reach, inner[3])
            central = min(x - inner[0], y - inner[1], inner[2] - x, inner[3] - y) > 0
            farthest = max(x - x0, y - y0, x1 - x, y1 - y)
            fits = ranges[level][0] <= farthest <= ranges[level][1]
            if central and fits and w * h < smallest:
                choice, smallest = g, w * h
        result.append(choice)
    return np.array(result)


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("shrink", [1.0, 0.6])
def test_equals_the_slow_reference(radius, shrink):
    anchors = make.grid(make.locations(), maps=((12, 16), (6, 8), (3, 4)), strides=(8, 16, 32))
    random = np.random.default_rng(3)
    centre, side = random.uniform(10, 90, (SLOTS, 2)), random.uniform(8, 100, (SLOTS, 2))
    objects = np.concatenate([centre - side / 2, centre + side / 2], 1).astype(np.float32)
    for keywords, ranges in (
        ({"range_in_strides": 4.0}, ((-1, 32), (32, 64), (64, np.inf))),
        ({"ranges": ((0, 20), (15, 50), (45, 80))}, ((0, 20), (15, 50), (45, 80))),
    ):
        want = slow_fcos(
            anchors.boxes, anchors.level_counts, (8, 16, 32), objects,
            radius=radius, shrink=shrink, ranges=ranges,
        )  # fmt: skip
        targets = targets_of(objects)
        got = coded(assign(anchors, targets, centre_radius=radius, shrink=shrink, **keywords))
        np.testing.assert_array_equal(got, want)
        assert (want >= 0).sum() > 5


def test_ranges_must_fit_the_levels(locations):
    with pytest.raises(ValueError, match="2 ranges but 5 levels"):
        fcos.assign(locations, targets_of([]), ranges=((0, 64), (64, 1e8)))
