"""The whole chain of SSD: as a config writes it, in a loader, on odd and on real images."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from anchors_jax import spec
from anchors_jax.data import augment, coco, loader, transforms, voc
from tests.data.mapped import scene, seeded
from tests.data.tiny_data import example, write_coco


def _moving():
    return [augment.expand(p=1.0), augment.min_iou_crop(modes=(0.0, 0.1, 0.3))]


def _colours():
    return augment.photometric_distortion(p=1.0, swap_p=1.0)


def _ssd():
    return [
        spec.make(augment.expand),
        spec.make(augment.min_iou_crop),
        spec.make(transforms.fit, keep_ratio=False),
        spec.make(transforms.horizontal_flip),
        spec.make(augment.photometric_distortion),
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (1500, 2000)])
@pytest.mark.parametrize("objects", [0, 1])
def test_odd_sizes_and_empty_images(size, objects):
    height, width = size
    before = example([[0, 0, width, height]][:objects], height=height, width=width)
    chain = transforms.compose([*_moving(), transforms.fit(keep_ratio=False), _colours()])
    for seed in range(3):
        after = chain(before.replace(canvas=(30, 20)), seeded(seed))
        assert after.size == (30, 20)
        assert len(after.boxes) == len(after.crowd) == objects
        assert (after.boxes <= [20, 30, 20, 30]).all()


def test_the_chain_in_a_config_feeds_a_loader(tmp_path):
    source = coco.coco(**write_coco(tmp_path))
    options = {"batch_size": 2, "canvases": ((48, 48),), "max_objects": 8}
    chain = spec.build(spec.plain(ConfigDict({"chain": _ssd()})))["chain"]
    batches = [
        next(loader.train_loader(source, transforms=chain, keep_empty=False, **options))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
    batch = batches[0]
    assert batch["image"].shape == (2, 48, 48, 3)
    np.testing.assert_array_equal(batch["image_size"], 48)
    assert (batch["boxes"] >= 0).all()
    assert (batch["boxes"] <= 48).all()
    assert batch["valid"].any(1).all()

    examples = {one.image_id: one for one in map(source.__getitem__, range(len(source)))}
    warped = spec.build([spec.make(transforms.fit, keep_ratio=False)])
    for batch in loader.eval_loader(source, transforms=warped, **options):
        for row in np.flatnonzero(batch["image_id"] >= 0):
            before = examples[int(batch["image_id"][row])]
            np.testing.assert_allclose(batch["scale"][row], 48 / np.array(before.size[::-1]))
            back = batch["boxes"][row][batch["valid"][row]] / np.tile(batch["scale"][row], 2)
            np.testing.assert_allclose(back, before.boxes, rtol=1e-5, atol=1e-3)


def test_the_scale_of_a_crop_is_of_its_pixels():
    move, warp = transforms.compose(_moving()), transforms.fit(keep_ratio=False)
    seen = 0
    for seed in range(25):
        before = scene(seed, crowds=False)
        cropped = move(before, seeded(seed, 5))
        after = warp(cropped, seeded())
        np.testing.assert_allclose(after.scale, 64 / np.array(cropped.size[::-1]), rtol=1e-6)
        whole = ((after.boxes > 1e-3) & (after.boxes < 64 - 1e-3)).all(1)  # not clipped
        sizes = transforms.box_sizes(after.boxes[whole]) / after.scale
        original = transforms.box_sizes(before.boxes[after.labels[whole]])
        np.testing.assert_allclose(sizes, original, rtol=1e-4)
        seen += whole.sum()
    assert seen > 10


def test_real_photographs_go_through(coco128, bccd):
    sources = (
        coco.coco(
            annotations=coco128 / "annotations/instances_train2017.json",
            images=coco128 / "train2017",
            limit=24,
        ),
        voc.voc(root=bccd, split="val"),
    )
    chain = transforms.compose(spec.build(_ssd()))
    for source in sources:
        shares = []
        for i in range(12):
            before = source[i].replace(canvas=(300, 300))
            after = chain(before, seeded(i))
            assert after.size == (300, 300)
            assert (after.boxes >= 0).all()
            assert (after.boxes <= 300).all()
            assert (len(after.boxes) > 0) == (len(before.boxes) > 0)
            assert set(after.annotation_ids) <= set(before.annotation_ids)
            shares.append(len(after.boxes) / max(1, len(before.boxes)))
        assert 0.3 < np.mean(shares) <= 1
