"""Boxes in network pixels without images: they are those that the loader gives."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from coverage_cases import covered, grid, source

from anchors_jax.assign import atss, fcos, frame, max_iou
from anchors_jax.data import coco, loader, transforms
from anchors_jax.search import coverage_boxes, coverage_positives
from anchors_jax.types import Targets
from tests.data import tiny_data

CANVASES = ((48, 64), (64, 48))
RESIZES = {
    "resize": (transforms.resize(short=40, long=60),),
    "warp": (transforms.fit(keep_ratio=False),),
    "dropping small ones": (transforms.fit(), transforms.drop_small(min_size=12.0)),
    "nothing": (),
}


by_max_iou = functools.partial(frame.assigned, max_iou.assign)


@pytest.fixture
def data(tmp_path):
    return coco.coco(**tiny_data.write_coco(tmp_path))


def of_loader(data, run):
    """Boxes of each image id, from decoded images."""
    batches = loader.eval_loader(
        data, batch_size=2, canvases=CANVASES, transforms=run, max_objects=9
    )
    found = {}
    for batch in batches:
        for n, image in enumerate(batch["image_id"]):
            if image >= 0:
                valid = batch["valid"][n]
                found[int(image)] = batch["boxes"][n][valid], batch["image_size"][n]
    return found


@pytest.mark.parametrize("run", RESIZES.values(), ids=RESIZES)
def test_boxes_are_those_of_the_loader(data, run):
    boxes = coverage_boxes.network_boxes(data, canvases=CANVASES, transforms=run)
    expected = of_loader(data, run)
    for image, identity in enumerate(data.image_ids):
        arrays, size = expected[int(identity)]
        np.testing.assert_allclose(boxes.boxes[boxes.image == image], arrays, atol=1e-4)
        np.testing.assert_array_equal(boxes.sizes[image], size)
    objects = data.table.objects
    np.testing.assert_array_equal(boxes.labels, objects.labels[boxes.row])
    np.testing.assert_array_equal(boxes.crowd, objects.crowd[boxes.row])
    assert (np.diff(boxes.row) > 0).all()


def test_random_transforms_see_every_image_once(data):
    run = (transforms.scale_jitter(low=0.4, high=1.0), transforms.horizontal_flip(p=0.5))
    one, same, other = (
        coverage_boxes.network_boxes(data, canvases=CANVASES, transforms=run, seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.boxes, same.boxes)
    assert not np.array_equal(one.boxes, other.boxes)
    assert len(one.row) == len(data.table.objects.ids)
    assert (one.boxes.max(1) <= 64).all()


def test_images_are_not_read(tmp_path):
    keywords = tiny_data.write_coco(tmp_path, pictures=False)
    data = coco.coco(annotations=keywords["annotations"], images=None)
    boxes = coverage_boxes.network_boxes(data, canvases=CANVASES, transforms=RESIZES["resize"])
    assert len(boxes.objects().row) == 2
    assert len(boxes.row) == 3


def test_data_without_objects():
    content = tiny_data.coco_content() | {"annotations": []}
    data = coco.from_dict(content, lambda i: b"", where="empty")
    boxes = coverage_boxes.network_boxes(data, canvases=CANVASES, transforms=())
    assert boxes.boxes.shape == (0, 4)
    given = coverage_positives.positives(boxes, {"a": (by_max_iou, lambda canvas: grid())})
    assert coverage_positives.summary(given.counts["a"])["share_without"] == 0


def test_positives_are_those_of_the_assigner():
    drawn = source()
    boxes = coverage_boxes.network_boxes(drawn, canvases=((104, 152),), transforms=())
    assigners = {
        module.__name__: (functools.partial(frame.assigned, module.assign), lambda canvas: grid())
        for module in (max_iou, atss, fcos)
    }
    given = coverage_positives.positives(boxes, assigners, images=3, divisor=None)
    assert given.images.tolist() == [0, 2, 5]  # an even spread, both ends included
    assert len(given.rows) == (np.isin(boxes.image, given.images) & ~boxes.crowd).sum()
    assert set(given.rows) <= set(covered(drawn).boxes.row)
    anchors = grid()
    for image in given.images:
        mine = boxes.take(boxes.image == image)
        targets = Targets(
            boxes=jnp.asarray(mine.boxes),
            labels=jnp.asarray(mine.labels),
            valid=jnp.ones(len(mine.row), bool),
            crowd=jnp.asarray(mine.crowd),
        )
        assignment = by_max_iou(anchors, targets)
        owners = np.asarray(assignment.gt)[np.asarray(assignment.positive)]
        expected = np.bincount(owners, minlength=len(mine.row))[~mine.crowd]
        chosen = np.isin(given.rows, mine.row)
        name = max_iou.__name__
        np.testing.assert_array_equal(given.counts[name][chosen], expected)


def test_sampling_takes_images_with_objects_only():
    image = np.array([2, 2, 5, 9, 9, 9, 11])
    assert coverage_positives.sample_images(image, 10).tolist() == [2, 5, 9, 11]
    assert coverage_positives.sample_images(image, 2).tolist() == [2, 11]
    assert coverage_positives.sample_images(image, 0).tolist() == []


def test_summaries_by_hand():
    counts = np.array([0, 1, 2, 5])
    assert coverage_positives.summary(counts) == {
        "mean": 2.0,
        "quartiles": [0.75, 1.5, 2.75],
        "share_without": 0.25,
    }
    shares = coverage_positives.cumulative(counts, np.array([1, 2, 6]))
    assert shares.tolist() == [0.75, 0.5, 0.0]
