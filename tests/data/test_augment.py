"""SSD's augmentation: what each transform promises, on images whose pixels say where they were."""

import pickle

import numpy as np
import pytest

from anchors_jax.data import augment
from tests.data.mapped import mapped, patch_of, scene, seeded
from tests.data.tiny_data import example

FILL = (1, 2, 250)  # no pixel of `mapped` has it
ALWAYS = {
    "expand": augment.expand(p=1.0, fill=FILL),
    "crop": augment.min_iou_crop(modes=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9)),
    "crop any": augment.min_iou_crop(modes=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9), rule="any"),
    "colours": augment.photometric_distortion(p=1.0, swap_p=1.0),
}
SEEDS = range(25)


def _iou(a, b) -> float:
    """IoU by the book, of two boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def _centre_in(box, patch) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return patch[0] < x < patch[2] and patch[1] < y < patch[3]


@pytest.mark.parametrize("name", ALWAYS)
def test_what_every_transform_keeps(name):
    for seed in SEEDS:
        before = scene(seed)
        image, boxes = before.image.copy(), before.boxes.copy()
        after = ALWAYS[name](before, seeded(seed, 1))
        assert after.image.dtype == np.uint8
        assert after.image.flags["C_CONTIGUOUS"]
        assert after.boxes.dtype == np.float32
        assert (after.boxes >= 0).all()
        assert (after.boxes <= np.tile(after.size[::-1], 2)).all()
        assert (after.boxes[:, 2:] > after.boxes[:, :2]).all()
        fields = (after.labels, after.crowd, after.area, after.annotation_ids)
        assert {len(field) for field in fields} == {len(after.boxes)}
        where = after.labels  # of the example: 0, 1, 2, ...
        np.testing.assert_array_equal(after.crowd, before.crowd[where])
        np.testing.assert_array_equal(after.annotation_ids, before.annotation_ids[where])
        assert (after.file, after.image_id, after.canvas) == ("x.jpg", 5, (64, 64))
        np.testing.assert_array_equal(before.image, image)  # pure
        np.testing.assert_array_equal(before.boxes, boxes)
        again = pickle.loads(pickle.dumps(ALWAYS[name]))(before, seeded(seed, 1))
        np.testing.assert_array_equal(again.image, after.image)
        np.testing.assert_array_equal(again.boxes, after.boxes)


def test_never_is_the_identity():
    before = scene(0)
    never = (
        augment.photometric_distortion(p=0.0, swap_p=0.0),
        augment.expand(p=0.0),
        augment.min_iou_crop(modes=(1.0,)),
    )
    assert all(transform(before, seeded(i)) is before for i in range(5) for transform in never)


def test_probabilities():
    before = example([[10, 10, 40, 30]])

    def share(transform):
        return np.mean([transform(before, seeded(i)) is not before for i in range(600)])

    assert 0.25 < share(augment.expand(p=0.3)) < 0.35
    # Whole in one of seven cases; every other mode can be met by this large object.
    assert 0.8 < share(augment.min_iou_crop(modes=(1.0, *(6 * (0.0,))))) < 0.91
    assert 0.9 < share(augment.photometric_distortion()) < 1.0  # 1 - 1/32 change something


@pytest.mark.parametrize("seed", SEEDS)
def test_expand_keeps_every_pixel(seed):
    before = scene(seed)
    after = ALWAYS["expand"](before, seeded(seed, 2))
    (height, width), (rows, columns) = before.size, after.size
    assert height <= rows <= 4 * height
    assert abs(rows / height - columns / width) < 2 / min(height, width)
    inside = (after.image != FILL).any(2)
    assert inside.sum() == height * width
    top, left = np.argwhere(inside)[0]
    np.testing.assert_array_equal(after.image[top:, left:][:height, :width], before.image)
    np.testing.assert_array_equal(after.boxes, before.boxes + np.float32([left, top, left, top]))
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.scale, [1, 1])


def test_expand_goes_everywhere():
    before = mapped(20, 20, [[5, 5, 15, 15]])
    all_over = [augment.expand(p=1.0)(before, seeded(i)) for i in range(400)]
    ratio = np.array([after.size[0] / 20 for after in all_over])
    assert (ratio >= 1).all()
    assert (ratio <= 4).all()
    assert 2.3 < ratio.mean() < 2.6  # floor of U(1, 4)
    free = np.array([np.array(after.size[::-1]) - 20 for after in all_over])
    offset = np.array([after.boxes[0, :2] - 5 for after in all_over])
    share = (offset / np.maximum(free, 1))[free.min(1) > 5]
    assert share.min() < 0.05
    assert share.max() > 0.95
    np.testing.assert_allclose(share.mean(0), 0.5, atol=0.06)


def test_expand_reduces_what_would_become_too_large():
    before = example([[0, 0, 600, 300]], height=300, width=600)
    after = augment.expand(p=1.0, ratios=(2.0, 2.0), max_side=400)(before, seeded(0))
    assert after.size == (200, 400)
    np.testing.assert_allclose(after.scale, [1 / 3, 1 / 3])
    np.testing.assert_allclose(after.boxes[0, 2:] - after.boxes[0, :2], [200, 100], rtol=1e-6)


@pytest.mark.parametrize("rule", ["all", "any"])
@pytest.mark.parametrize("mode", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_crop_reaches_its_bound_and_keeps_what_is_centred_in_it(mode, rule):
    crop = augment.min_iou_crop(modes=(mode,), rule=rule)
    cropped = 0
    for seed in SEEDS:
        before = scene(seed)
        after = crop(before, seeded(seed, 3))
        if after is before:  # no such patch was found
            continue
        cropped += 1
        patch = patch_of(after)
        height, width = after.size
        assert height > 0.3 * before.size[0] - 1
        assert width > 0.3 * before.size[1] - 1
        assert (height + 1) / (width - 1) >= 0.5  # whole pixels
        assert (height - 1) / (width + 1) <= 2
        objects = before.boxes[~before.crowd]
        overlaps = [_iou(box, patch) for box in objects]
        assert not overlaps or (min if rule == "all" else max)(overlaps) >= mode - 1e-6
        expected, kept = [], []
        for i, box in enumerate(before.boxes):
            centred = _centre_in(box, patch)
            if _iou(box, patch) > 0 if before.crowd[i] else centred:
                x, y = (
                    np.clip(box[::2] - patch[0], 0, width),
                    np.clip(box[1::2] - patch[1], 0, height),
                )
                expected.append([x[0], y[0], x[1], y[1]])
                kept.append(i)
        assert after.labels.tolist() == kept
        np.testing.assert_allclose(after.boxes, np.reshape(expected, (-1, 4)), atol=1e-4)
        assert not len(objects) or not after.crowd.all()
        y, x = np.mgrid[patch[1] : patch[3], patch[0] : patch[2]]
        np.testing.assert_array_equal(after.image[:, :, :2], np.stack([x, y], 2))
        np.testing.assert_array_equal(after.scale, before.scale)
    assert cropped >= {0.0: 20, 0.1: 4}.get(mode, 1 if mode < 0.9 or rule == "any" else 0)


def test_far_apart_objects_divide_the_rules():
    boxes = [[0, 0, 95, 95], [105, 105, 200, 200]]
    before = mapped(200, 200, boxes)
    for seed in range(10):
        assert augment.min_iou_crop(modes=(0.5,))(before, seeded(seed)) is before
    by_any = augment.min_iou_crop(modes=(0.5,), rule="any")
    found = [by_any(before, seeded(seed)) for seed in range(10)]
    assert all(after is not before for after in found)
    assert {label for after in found for label in after.labels.tolist()} == {0, 1}
    assert all(len(after.boxes) == 1 for after in found)


def test_another_mode_is_drawn_when_one_cannot_be_met():
    before = mapped(200, 200, [[0, 0, 10, 10]])  # IoU of any patch: below 0.03
    whole_or_tight = augment.min_iou_crop(modes=(0.9, 1.0))
    assert all(whole_or_tight(before, seeded(i)) is before for i in range(5))
    free_or_tight = augment.min_iou_crop(modes=(0.9, 0.0), trials=200)
    after = [free_or_tight(before, seeded(i)) for i in range(5)]
    assert all(one is not before and one.labels.tolist() == [0] for one in after)


def test_a_crowd_has_no_say_and_is_shown_where_it_is_seen():
    crowd = [0, 0, 200, 100]
    before = mapped(200, 200, [[90, 90, 170, 170], crowd], crowd=[False, True])
    tight = augment.min_iou_crop(modes=(0.5,))
    seen = 0
    for seed in range(20):
        after = tight(before, seeded(seed))
        left, top, right, bottom = patch_of(after)
        assert _iou((left, top, right, bottom), before.boxes[0]) >= 0.5
        assert after.crowd.tolist() == [False, True][: len(after.crowd)]
        assert after.crowd.any() == (top < 100)
        seen += int(after.crowd.any())
        if after.crowd.any():  # even where its centre is outside
            np.testing.assert_array_equal(
                after.boxes[1], [0, 0, right - left, min(bottom, 100) - top]
            )
    assert seen > 0
    alone = before.keep(before.crowd)
    assert any(tight(alone, seeded(i)).size != (200, 200) for i in range(5))  # as if empty


def test_an_image_without_objects_is_cropped_freely():
    before = mapped(100, 100, [])
    for rule in ("all", "any"):
        after = augment.min_iou_crop(modes=(0.9,), rule=rule)(before, seeded(0))
        assert after.size != before.size
        assert after.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: augment.photometric_distortion(p=1.5), "p must be a probability"),
        (lambda: augment.photometric_distortion(swap_p=-0.1), "swap_p must be a probability"),
        (lambda: augment.photometric_distortion(brightness=-1.0), "brightness -1"),
        (lambda: augment.photometric_distortion(contrast=(2.0, 1.0)), "contrast must be a range"),
        (lambda: augment.photometric_distortion(saturation=(-1.0, 1.0)), "saturation must be"),
        (lambda: augment.expand(p=2.0), "p must be a probability"),
        (lambda: augment.expand(ratios=(0.5, 2.0)), "ratios .* must not be below 1"),
        (lambda: augment.expand(fill=(1, 2, 300)), "fill must be three values"),
        (lambda: augment.expand(max_side=3), "max_side 3 leaves no room"),
        (lambda: augment.min_iou_crop(modes=()), "modes must be bounds"),
        (lambda: augment.min_iou_crop(modes=(0.5, 1.5)), "modes must be bounds"),
        (lambda: augment.min_iou_crop(min_scale=0.0), "min_scale must be"),
        (lambda: augment.min_iou_crop(aspects=(2.0, 0.5)), "aspects must be a range"),
        (lambda: augment.min_iou_crop(trials=0), "trials must be 1"),
        (lambda: augment.min_iou_crop(rule="most"), "rule must be one of"),
    ],
)
def test_bad_parameters_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()
