"""ATSS: a slow reference, reference values, worked examples, few candidates, ties."""

import functools

import assignments
import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import IGNORED, NEGATIVE, coded

from anchors_jax import anchors as make
from anchors_jax.assign import atss
from anchors_jax.types import Anchors

SLOTS = 8

assign = assignments.in_frame(atss.assign)


targets_of = functools.partial(assignments.targets_of, slots=SLOTS)


def square(side, strides, maps) -> Anchors:
    return make.grid(make.relative(scales=(side,), ratios=(1.0,)), maps=maps, strides=strides)


@pytest.fixture(scope="module")
def pyramid():
    """One square anchor of eight strides per cell of a 256 x 256 canvas."""
    return square(8.0, (8, 16, 32, 64, 128), tuple((n, n) for n in (32, 16, 8, 4, 2)))


def slow_iou(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / max(union, 1e-6)


def slow_atss(boxes, counts, sizes, valid, objects):
    """The rule, object by object, in double precision. Returns codes and each threshold."""
    boxes, objects = np.asarray(boxes, np.float64), np.asarray(objects, np.float64)
    best, owner = np.full(len(boxes), -1.0), np.full(len(boxes), NEGATIVE)
    thresholds = []
    for g, o in enumerate(objects):
        candidates, start = [], 0
        for count, size in zip(counts, sizes, strict=True):
            level = [a for a in range(start, start + count) if valid[a]]
            away = [
                np.hypot(*((boxes[a, :2] + boxes[a, 2:] - o[:2] - o[2:]) / 2).tolist())
                for a in level
            ]
            candidates += [level[i] for i in np.argsort(away, kind="stable")[:size]]
            start += count
        overlaps = np.array([slow_iou(o, boxes[a]) for a in candidates])
        deviation = overlaps.std(ddof=1) if len(candidates) > 1 else 0.0
        thresholds.append(overlaps.mean() + deviation)
        for a, overlap in zip(candidates, overlaps, strict=True):
            x, y = (boxes[a, :2] + boxes[a, 2:]) / 2
            inside = min(x - o[0], y - o[1], o[2] - x, o[3] - y) > 0.01
            if inside and overlap >= thresholds[-1] * (1 - 1e-5) and overlap > best[a]:
                best[a], owner[a] = overlap, g
    return np.where(valid, owner, IGNORED), np.array(thresholds)


def random_objects(count, seed):
    random = np.random.default_rng(seed)
    centre, side = random.uniform(20, 108, (count, 2)), random.uniform(10, 90, (count, 2))
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1).astype(np.float32)


@pytest.mark.parametrize("per_shape", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_equals_the_slow_reference(per_shape, share):
    shapes = make.relative(scales=(3.0, 4.0), ratios=(0.8,))
    anchors = make.grid(shapes, maps=((16, 16), (8, 8), (4, 4), (2, 2)), strides=(8, 16, 32, 64))
    # Corners on quarters of a pixel: the shapes of a cell are equally near, exactly.
    anchors = anchors.replace(boxes=jnp.round(anchors.boxes * 4) / 4)
    valid = np.random.default_rng(4).uniform(size=len(anchors.boxes)) < share
    sizes = [min((18 if per_shape else 9), count) for count in anchors.level_counts]
    positives = 0
    for seed in range(3):
        objects = random_objects(6, seed)
        want, _ = slow_atss(anchors.boxes, anchors.level_counts, sizes, valid, objects)
        masked = anchors.replace(valid=jnp.asarray(valid))
        got = coded(assign(masked, targets_of(objects), topk_per_shape=per_shape))
        np.testing.assert_array_equal(got, want)
        positives += (want >= 0).sum()
    assert positives > 20


def test_worked_example_and_shared_anchors(pyramid):
    first, second = (60.5, 48, 130.5, 140), (70.5, 50, 150.5, 138)
    _, thresholds = slow_atss(
        pyramid.boxes, pyramid.level_counts, (9, 9, 9, 9, 4), pyramid.valid, [first]
    )
    np.testing.assert_allclose(thresholds, [0.477766], atol=1e-6)
    alone = coded(assign(pyramid, targets_of([first])))
    want = [331, 332, 362, 363, 364, 365, 394, 395, 396]
    np.testing.assert_array_equal(np.flatnonzero(alone == 0), want)
    both = coded(assign(pyramid, targets_of([first, second])))
    np.testing.assert_array_equal(both[[364, 365, 396]], [0, 1, 0])


def test_centres_on_the_border_are_outside(pyramid):
    got = coded(assign(pyramid, targets_of([(100, 100, 116, 116)])))
    np.testing.assert_array_equal(np.flatnonzero(got >= 0), [429])


def test_objects_outside_or_without_area_get_nothing(pyramid):
    nowhere = [(-300, -300, -250, -250), (40, 40, 40, 90), (80, 80, 80, 80), (90, 90, 60, 60)]
    assert (coded(assign(pyramid, targets_of(nowhere))) == NEGATIVE).all()


def test_of_two_equal_objects_the_first_gets_all(pyramid):
    box = (60.5, 48, 130.5, 140)
    got = coded(assign(pyramid, targets_of([box, box])))
    assert set(got.tolist()) == {0, NEGATIVE}


def test_the_deviation_is_unbiased():
    """Nine IoUs of 1/4 and nine of 1/16: the biased deviation would let the first nine pass."""
    anchors = square(8.0, (8, 16), ((8, 8), (4, 4)))
    targets = targets_of([(17, 18.5, 49, 50.5)])
    assert (coded(assign(anchors, targets)) == NEGATIVE).all()
    _, thresholds = slow_atss(
        anchors.boxes, (64, 16), (9, 9), anchors.valid, [(17, 18.5, 49, 50.5)]
    )
    np.testing.assert_allclose(thresholds, [0.252718], atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_usable_anchors(pyramid, count):
    """One candidate is its own threshold; none is no reason for NaN."""
    object_ = (104, 104, 152, 152)  # centred on anchor 527; 528 is its neighbour
    valid = np.zeros(len(pyramid.boxes), bool)
    valid[[528, 527][:count]] = True
    got = coded(assign(pyramid.replace(valid=jnp.asarray(valid)), targets_of([object_])))
    assert (got[~valid] == IGNORED).all()
    # Of two equal candidates the deviation is zero, and rounding must not fail both.
    np.testing.assert_array_equal(got[valid], np.zeros(count))


def test_equal_overlaps_pass_in_spite_of_rounding():
    """On one level all candidates contain a small object: all have the mean IoU."""
    anchors = square(8.0, (8,), ((16, 16),))
    for shift in np.linspace(0, 7, 8):
        box = np.array([60.0, 60, 70.3, 69.1]) + shift
        got = coded(assign(anchors, targets_of([box])))
        inside = slow_atss(anchors.boxes, (256,), (9,), anchors.valid, [box.astype(np.float32)])[0]
        assert (got >= 0).sum() == (inside >= 0).sum() >= 1


def test_positives_per_object_are_about_a_fifth_of_the_candidates(pyramid):
    """0.2 k L = 9 on average, whatever the size, says the paper."""
    random = np.random.default_rng(0)
    centre, side = random.uniform(64, 192, (200, 2)), np.exp(random.uniform(3, 5, (200, 1)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    images = [targets_of([box], slots=1) for box in boxes]
    found = jax.vmap(lambda image: atss.assign(pyramid, image))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    )
    counts = found.positive.sum(axis=1)
    assert 8 < np.mean(counts) < 10
    quarters = np.sort(side[:, 0]).reshape(4, -1)
    for low, high in zip(quarters[:, 0], quarters[:, -1], strict=True):
        assert 8 < np.mean(counts[(low <= side[:, 0]) & (side[:, 0] <= high)]) < 10


def test_crowd_regions_are_left_out(pyramid):
    box = (60.5, 48, 130.5, 140)
    alone = coded(assign(pyramid, targets_of([box])))
    got = coded(assign(pyramid, targets_of([box], crowds=[(0, 0, 256, 90)])))
    assert (got == IGNORED).any()
    assert not ((got == IGNORED) & (got >= 0)).any()
    everywhere = coded(assign(pyramid, targets_of([box], crowds=[(-1000, -1000, 1300, 1300)])))
    assert (everywhere == IGNORED).all()
    assert (alone != IGNORED).all()


def test_memory_does_not_grow_with_slots():
    """[slots, candidates] is all that is kept of the objects."""
    anchors = square(8.0, (4,), ((100, 100),))

    def temporaries(slots):
        program = jax.jit(functools.partial(atss.assign, anchors)).lower(
            targets_of([], slots=slots)
        )
        return program.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(64) - temporaries(8) < 4 * len(anchors.boxes)


@golden_cases.cases("assign_atss")
def test_reference(case):
    arrays, params = case.arrays, case.params
    counts = params["num_level_anchors"]
    anchors = Anchors(
        boxes=jnp.asarray(arrays["in_anchors"]),
        cell=jnp.zeros(sum(counts), jnp.int32),
        shape=jnp.zeros(sum(counts), jnp.int32),
        valid=jnp.ones(sum(counts), bool),
        level_sizes=tuple((1, count, 1) for count in counts),
        strides=((8.0, 8.0),) * len(counts),
    )
    objects = arrays["in_gt"]
    crowds = arrays.get("in_gt_ignore", np.zeros((0, 4), np.float32))
    slots = len(objects) + len(crowds) + 2
    clear = ~arrays.get("mask_ambiguous", np.zeros(sum(counts), bool))
    keywords = {"topk": params["topk"], "ignore_iof": params["ignore_iof_thr"]}
    for name, regions in (("out_assigned", ()), ("out_assigned_ignore", crowds)):
        # Without objects the reference does not look at the regions.
        if name in arrays and (len(objects) or name == "out_assigned"):
            got = coded(assign(anchors, targets_of(objects, regions, slots=slots), **keywords))
            np.testing.assert_array_equal(got[clear], arrays[name][clear])
