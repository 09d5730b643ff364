"""Anchors: the published numbers, every reference generator, the order, and the masks."""

import functools

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import boxes as geometry

STRIDES = (8, 16, 32, 64, 128)


def maps_of(height: int, width: int, strides=STRIDES):
    return tuple((-(-height // s), -(-width // s)) for s in strides)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def size_of(boxes) -> np.ndarray:
    return np.asarray(geometry.sizes(jnp.asarray(boxes)))


@functools.cache
def retinanet(offset: float = 0.0):
    return make.grid(make.octaves(), maps=maps_of(800, 1344), strides=STRIDES, offset=offset)


def test_retinanet_counts_order_and_values():
    anchors = retinanet()
    assert anchors.level_counts == (151200, 37800, 9450, 2457, 693)
    boxes = np.asarray(anchors.boxes)
    close(boxes[0], [-22.6274, -11.3137, 22.6274, 11.3137])
    close(boxes[1], [-28.5088, -14.2544, 28.5088, 14.2544])
    close(boxes[5], [-25.3984, -25.3984, 25.3984, 25.3984])
    close(boxes[9], [-14.6274, -11.3137, 30.6274, 11.3137])
    close(boxes[168 * 9], boxes[0] + [0, 8, 0, 8])
    close(boxes[-1], [992.6497, 193.2994, 1567.3503, 1342.7006])


def test_default_centres_are_the_middles_of_cells():
    anchors = make.grid(make.octaves(), maps=maps_of(64, 96), strides=STRIDES)
    close(geometry.to_centres(anchors.boxes)[0, :2], [4.0, 4.0])
    shifted = make.grid(make.octaves(), maps=maps_of(64, 96), strides=STRIDES, offset=0.0)
    level = np.repeat(np.arange(len(STRIDES)), anchors.level_counts)
    half = np.asarray(STRIDES)[level, None] / 2
    close(anchors.boxes, np.asarray(shifted.boxes) + half)


def test_cells_and_shapes_are_numbered_over_all_levels():
    sizes = (((8, 8), (9, 9)), ((20, 10),))
    anchors = make.grid(make.explicit(sizes=sizes), maps=((2, 3), (1, 2)), strides=(8, (16, 24)))
    assert anchors.level_sizes == ((2, 3, 2), (1, 2, 1))
    assert anchors.strides == ((8, 8), (16, 24))
    np.testing.assert_array_equal(anchors.cell, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7])
    np.testing.assert_array_equal(anchors.shape, [0, 1] * 6 + [2, 2])
    close(size_of(anchors.boxes)[-1], [20, 10])
    close(geometry.to_centres(anchors.boxes)[-1, :2], [36, 8])
    assert bool(anchors.valid.all())


def test_torchvision_shapes_and_steps():
    shapes = make.octaves(rounding="torchvision")
    half = shapes(tuple((s, s) for s in STRIDES))[0] / 2
    expected = [(23, 11), (28, 14), (35, 18), (16, 16), (20, 20), (25, 25)]
    np.testing.assert_array_equal(half, [*expected, (11, 23), (14, 28), (18, 35)])
    anchors = make.grid(
        shapes,
        maps=maps_of(800, 1344),
        strides=STRIDES,
        canvas=(800, 1344),
        offset=0.0,
        steps_from_canvas=True,
    )
    assert anchors.strides[3:] == ((61, 64), (114, 122))
    sides = shapes(tuple((s, s) for s in STRIDES))
    truncated = [[64, 80, 101], [128, 161, 203], [256, 322, 406], [512, 645, 812]]
    for level, expected in zip(sides[1:], truncated, strict=True):
        np.testing.assert_array_equal(level[3:6, 0], 2 * np.round(np.asarray(expected) / 2))


def test_legacy_windows():
    shapes = make.octaves(rounding="legacy")(tuple((s, s) for s in STRIDES))
    first_of_each_ratio = [level[[0, 3, 6]].tolist() for level in shapes]
    assert first_of_each_ratio == [
        [[44, 24], [32, 32], [24, 48]],
        [[92, 48], [64, 64], [44, 88]],
        [[180, 88], [128, 128], [92, 184]],
        [[364, 184], [256, 256], [180, 360]],
        [[724, 360], [512, 512], [364, 728]],
    ]
    boxes = make.grid(make.octaves(rounding="legacy"), maps=maps_of(8, 8), strides=STRIDES).boxes
    inclusive = np.asarray(boxes[:9]) - np.array([0, 0, 1, 1])
    close(inclusive[0], [-18, -8, 25, 15])
    close(inclusive[1], [-23.7183, -11.1191, 30.7183, 18.1191])
    close(inclusive[5], [-21.3984, -21.3984, 28.3984, 28.3984])
    close(inclusive[8], [-15.0488, -34.0976, 22.0488, 41.0976])


def test_scale_major_reorders_the_same_shapes():
    (ratio_major,) = make.octaves()(((8, 8),))
    (scale_major,) = make.octaves(scale_major=True)(((8, 8),))
    np.testing.assert_array_equal(
        scale_major, ratio_major.reshape(3, 3, 2).swapaxes(0, 1).reshape(9, 2)
    )


def test_disagreeing_levels_are_named():
    with pytest.raises(ValueError, match="2 maps but 5 strides"):
        make.grid(make.octaves(), maps=((1, 1), (2, 2)), strides=STRIDES)
    with pytest.raises(ValueError, match="1 levels, but 2 strides"):
        make.grid(make.explicit(sizes=[[(1, 2)]]), maps=((1, 1), (2, 2)), strides=(8, 16))
    with pytest.raises(ValueError, match="needs the canvas"):
        make.grid(make.octaves(), maps=((1, 1),), strides=(8,), steps_from_canvas=True)


def test_inside_counts_whole_cells_and_is_traceable():
    anchors = make.grid(make.octaves(), maps=maps_of(128, 192), strides=STRIDES)
    inside = jax.jit(lambda size: make.inside(anchors, size))
    masked = inside(jnp.asarray([33, 100]))
    expected = []
    for (rows, columns, count), stride in zip(anchors.level_sizes, STRIDES, strict=True):
        cells = np.zeros((rows, columns), bool)
        cells[: -(-64 // stride), : -(-128 // stride)] = True
        expected.append(np.repeat(cells.reshape(-1), count))
    np.testing.assert_array_equal(masked, np.concatenate(expected))
    assert bool(inside(jnp.asarray([128, 192])).all())


def grid_of(case, shapes, strides, **keywords):
    maps = tuple(tuple(size) for size in case.params["feat_sizes"])
    return make.grid(shapes, maps=maps, strides=strides, **keywords)


def per_level(anchors):
    return np.split(np.asarray(anchors.boxes), np.cumsum(anchors.level_counts)[:-1])


def check_levels(case, anchors):
    for index, boxes in enumerate(per_level(anchors)):
        count = anchors.level_sizes[index][2]
        if f"out_grid_l{index}" in case.arrays:
            close(boxes, case.arrays[f"out_grid_l{index}"])
        if f"out_base_l{index}" in case.arrays:
            close(boxes[:count], case.arrays[f"out_base_l{index}"])
    if "out_level_sizes" in case.arrays:
        np.testing.assert_array_equal(anchors.level_counts, case.arrays["out_level_sizes"])
    if "in_rows" in case.arrays:
        close(anchors.boxes[case.arrays["in_rows"]], case.arrays["out_grid_rows"])
        total = np.asarray(anchors.boxes, np.float64).sum(axis=0)
        np.testing.assert_allclose(total, case.arrays["out_grid_sum"], rtol=1e-5, atol=1.0)


@golden_cases.cases("anchor_grid")
def test_reference_grid(case):
    params = case.params
    shapes = make.relative(scales=params["scales"], ratios=params["ratios"])
    check_levels(case, grid_of(case, shapes, params["strides"], offset=params["center_offset"]))
    if "octave_base_scale" in params:
        octaves = make.octaves(
            base_scale=params["octave_base_scale"],
            scales_per_octave=params["scales_per_octave"],
            ratios=params["ratios"],
        )
        check_levels(
            case, grid_of(case, octaves, params["strides"], offset=params["center_offset"])
        )


@golden_cases.cases("anchor_grid_torchvision")
def test_reference_torchvision_grid(case):
    shapes = make.sizes(
        sizes=case.params["sizes"], ratios=case.params["ratios"], round_corners=True
    )
    anchors = grid_of(
        case,
        shapes,
        strides=[1] * len(case.params["sizes"]),  # these shapes do not depend on the stride
        canvas=tuple(case.params["image_size"]),
        offset=0.0,
        steps_from_canvas=True,
    )
    assert [list(step) for step in anchors.strides] == case.params["strides_used"]
    check_levels(case, anchors)


@golden_cases.cases("anchor_ssd")
def test_reference_ssd(case):
    params = case.params
    shapes = make.ssd(
        min_sizes=params["min_sizes"], max_sizes=params["max_sizes"], ratios=params["ratios"]
    )
    check_levels(case, grid_of(case, shapes, params["strides"]))


@pytest.mark.parametrize(
    ("side", "levels", "lowest", "ratio_range", "expected"),
    [
        (300, 6, (7, 15), (15, 90), ((21, 45, 99, 153, 207, 261), (45, 99, 153, 207, 261, 315))),
        (300, 6, (10, 20), (20, 90), ((30, 60, 111, 162, 213, 264), (60, 111, 162, 213, 264, 315))),
        (
            512,
            7,
            (4, 10),
            (10, 90),
            ((20, 51, 133, 215, 296, 378, 460), (51, 133, 215, 296, 378, 460, 542)),
        ),
    ],
)
def test_ssd_ladder(side, levels, lowest, ratio_range, expected):
    got = make.ssd_ladder(side=side, levels=levels, lowest=lowest, ratio_range=ratio_range)
    assert got == expected


@golden_cases.cases("anchor_ssd_torchvision")
def test_reference_ssd_torchvision(case):
    params = case.params
    unit = make.ssd_scales(
        scales=params["scales"], ratios=params["ratios"], image_size=(1, 1), clip=False
    )
    for index, sizes in enumerate(unit(tuple((s, s) for s in params["steps"]))):
        if f"out_wh_l{index}" in case.arrays:
            close(sizes, case.arrays[f"out_wh_l{index}"])
    shapes = make.ssd_scales(
        scales=params["scales"],
        ratios=params["ratios"],
        image_size=tuple(params["image_size"]),
        clip=params["clip"],
    )
    check_levels(case, grid_of(case, shapes, params["steps"]))


@golden_cases.cases("anchor_guided")
def test_reference_guided(case):
    params = case.params
    octaves = make.octaves(
        base_scale=params["octave_base_scale"],
        scales_per_octave=params["scales_per_octave"],
        ratios=params["ratios"],
    )
    square = make.relative(scales=[params["octave_base_scale"]], ratios=[1.0])
    for name, shapes in (("approx", octaves), ("square", square)):
        anchors = grid_of(case, shapes, params["strides"], offset=0.0)
        for index, boxes in enumerate(per_level(anchors)):
            expected = case.arrays[f"out_{name}_l{index}"]
            close(boxes.reshape(expected.shape), expected)


@golden_cases.cases("anchor_yolo")
def test_reference_yolo(case):
    shapes = make.explicit(sizes=case.params["base_sizes"])
    check_levels(case, grid_of(case, shapes, case.params["strides"]))


@golden_cases.cases("points")
def test_reference_points(case):
    maps = tuple(tuple(size) for size in case.params["feat_sizes"])
    located = make.grid(
        make.locations(), maps=maps, strides=case.params["strides"], offset=case.params["offset"]
    )
    expected = [case.arrays[f"out_points_l{index}"] for index in range(len(maps))]
    close(geometry.to_centres(located.boxes), np.concatenate(expected))


@golden_cases.cases("anchor_flags")
def test_reference_flags(case):
    params = case.params
    shapes = make.relative(scales=params["scales"], ratios=params["ratios"])
    anchors = grid_of(case, shapes, params["strides"], offset=0.0)
    close(anchors.boxes, case.arrays["in_anchors"])
    valid = make.inside(anchors, jnp.asarray(params["pad_shape"]), divisor=1)
    np.testing.assert_array_equal(valid, case.arrays["out_valid"])
    for index, border in enumerate(params["allowed_borders"]):
        inside = make.within_border(
            jnp.asarray(case.arrays["in_anchors"]),
            jnp.asarray(params["img_shape"]),
            allowed_border=border,
        )
        np.testing.assert_array_equal(valid & inside, case.arrays[f"out_inside_{index}"])


def test_points_hold_the_stride_as_their_side():
    located = make.grid(make.locations(), maps=((2, 2),), strides=((8, 16),))
    close(size_of(located.boxes), [[16, 8]] * 4)


def test_the_padding_may_count_as_image_but_not_that_of_a_batch():
    anchors = make.grid(make.locations(), maps=((4, 4),), strides=(8,))
    assert make.inside(anchors, jnp.asarray([9, 9]), divisor=None).all()
    assert not make.inside(anchors, jnp.asarray([0, 0]), divisor=None).any()


def test_hidden_shapes_are_there_but_not_valid():
    maps, strides = [(2, 3), (1, 2)], (8, 16)
    shapes = make.octaves(scales_per_octave=1, ratios=(0.5, 1.0))  # ids 0, 1 and 2, 3
    whole = make.grid(shapes, maps=maps, strides=strides)
    assert np.asarray(whole.valid).all()
    some = make.grid(shapes, maps=maps, strides=strides, hidden=(0, 3))
    np.testing.assert_array_equal(some.boxes, whole.boxes)
    np.testing.assert_array_equal(some.valid, np.isin(np.asarray(some.shape), (1, 2)))
    with pytest.raises(ValueError, match="no shape 4 to hide"):
        make.grid(shapes, maps=maps, strides=strides, hidden=(4,))


def test_boxes_from_somewhere_else_are_anchors_on_no_grid():
    boxes = jnp.asarray([[0.0, 0.0, 4.0, 4.0], [3.0, 1.0, 9.0, 8.0]])
    found = make.free(boxes, jnp.asarray([True, False]))
    assert found.level_counts == (2,)
    np.testing.assert_array_equal(found.boxes, boxes)
    with pytest.raises(ValueError, match="no stride"):
        found.stride_of_anchor()


def test_every_anchor_knows_its_stride():
    anchors = make.grid(make.explicit(sizes=[[(1, 2), (3, 4)], [(5, 6)]]), maps=((1, 2), (1, 1)),
                        strides=(8, (16, 24)))  # fmt: skip
    want = [[8, 8]] * 4 + [[24, 16]]
    np.testing.assert_array_equal(anchors.stride_of_anchor(), want)
