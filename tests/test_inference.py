"""From batches to detections in original pixels: every image once, whatever the last batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import evaluation, inference, parallel
from anchors_jax.data import coco, loader, shapes, transforms
from anchors_jax.types import Detections
from tests.data import tiny_data

SLOTS = 20


def truth_teller(bias, batch):
    """Finds every object of the batch, exactly; the larger, the surer."""
    targets = batch.targets
    wanted = targets.valid & ~targets.crowd
    area = (targets.boxes[..., 2:] - targets.boxes[..., :2]).prod(-1)
    return Detections(
        boxes=jnp.where(wanted[..., None], targets.boxes, jnp.nan),
        scores=jnp.where(wanted, area / 1e6 + bias, 0.0),
        labels=targets.labels,
        valid=wanted,
    )


def whole_image(bias, batch):
    """One detection per image slot, padding included: all of it."""
    slots = len(batch.image_id)
    height, width = batch.image_size.T.astype(jnp.float32)
    return Detections(
        boxes=jnp.stack([0 * width, 0 * width, width, height], axis=-1)[:, None],
        scores=jnp.full((slots, 1), bias),
        labels=jnp.zeros((slots, 1), jnp.int32),
        valid=jnp.ones((slots, 1), bool),
    )


def run(tell, source, *, canvases, batch_size, short, **keywords):
    batches = loader.eval_loader(
        source,
        batch_size=batch_size,
        canvases=canvases,
        transforms=[transforms.resize(short=short, long=2 * short)],
        max_objects=SLOTS,
    )
    return inference.detect(
        parallel.pmap(tell),
        np.float32(0.5),
        batches,
        category_ids=source.category_ids,
        **keywords,
    )


@pytest.fixture(scope="module")
def drawings():
    return shapes.shapes(split="validation", num_validation=5, image_size=48)


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_perfect_detections_have_perfect_precision(drawings, batch_size):
    # Seven ninths of a pixel per pixel: nothing comes back in network pixels by accident.
    table = run(truth_teller, drawings, canvases=((64, 96),), batch_size=batch_size, short=37)
    truth = drawings.ground_truth()
    metrics = evaluation.coco_metrics(truth, table)
    assert metrics["AP"] == pytest.approx(1.0)
    assert metrics["AR100"] == pytest.approx(1.0)
    assert len(table) == len(truth["annotations"])
    for row in truth["annotations"]:
        x, y, w, h = row["bbox"]
        mine = table.box[table.image_id == row["image_id"]]
        assert np.abs(mine - [x, y, x + w, y + h]).max(axis=1).min() < 1e-3


def test_every_image_once_on_the_canvas_that_suits_it(tmp_path):
    content = tiny_data.coco_content()
    content["images"] += [
        {"id": 1000 + n, "file_name": f"{n}.jpg", "height": 30 + n, "width": 47 - 3 * n}
        for n in range(6)
    ]
    source = coco.coco(**tiny_data.write_coco(tmp_path, content))
    seen = []
    table = run(
        whole_image,
        source,
        canvases=((48, 72), (72, 48)),
        batch_size=4,
        short=48,
        on_batch=lambda arrays, mine: seen.append((inference.count_images(arrays), mine)),
    )
    assert sorted(table.image_id) == sorted(source.image_ids)
    assert sum(count for count, _ in seen) == len(source)
    assert min(count for count, _ in seen) < 4  # a batch with padding
    for count, mine in seen:
        assert len(mine) == count
    sizes = dict(zip(source.image_ids.tolist(), source.sizes.tolist(), strict=True))
    for image_id, box in zip(table.image_id.tolist(), table.box, strict=True):
        height, width = sizes[image_id]
        np.testing.assert_allclose(box, [0, 0, width, height], rtol=1e-5)
    assert set(table.category_id.tolist()) == {source.category_ids[0]}


def test_crowds_and_holes_in_the_ids_survive(tmp_path):
    source = coco.coco(**tiny_data.write_coco(tmp_path))
    table = run(truth_teller, source, canvases=((48, 72), (72, 48)), batch_size=2, short=48)
    metrics = evaluation.coco_metrics(source.ground_truth(), table)
    assert metrics["AP"] == pytest.approx(1.0)
    assert sorted(zip(table.image_id.tolist(), table.category_id.tolist(), strict=True)) == [
        (3, 2),
        (7, 44),
    ]


def test_no_detection_is_an_empty_table(drawings):
    def silent(bias, batch):
        return truth_teller(bias, batch.replace(targets=batch.targets.replace(
            valid=jnp.zeros_like(batch.targets.valid)
        )))  # fmt: skip

    table = run(silent, drawings, canvases=((48, 48),), batch_size=4, short=48)
    assert len(table) == 0
    assert evaluation.coco_metrics(drawings.ground_truth(), table)["AP"] == 0


def test_batches_continue_where_they_stood(drawings):
    def batches():
        return inference.Batches(
            loader.train_loader(
                drawings, batch_size=2, canvases=((48, 48),), max_objects=SLOTS, seed=3
            )
        )

    first = batches()
    for _ in range(3):
        next(first)
    state = first.get_state()
    want = next(first)
    second = batches()
    next(second)
    second.set_state(state)
    got = next(second)
    np.testing.assert_array_equal(got.image_id, want.image_id)
    np.testing.assert_array_equal(got.image, want.image)
    np.testing.assert_array_equal(got.targets.boxes, want.targets.boxes)
