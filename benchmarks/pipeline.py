"""Loader, training step and evaluation, as a run has them."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from anchors_jax import evaluation, experiment, parallel, train
from anchors_jax.data import loader, shapes, transforms
from anchors_jax.types import Batch, Targets
from benchmarks import measure, synthetic


def loading() -> Iterator[dict[str, Any]]:
    """Decoding, resizing, flipping and padding JPEGs of 640x480, at two sizes."""
    source = shapes.shapes(split="train", num_train=128, num_validation=1, image_size=480)
    for canvas, short, long in (((256, 256), 256, 256), ((800, 1344), 800, 1333)):
        batches = loader.train_loader(
            source,
            batch_size=8,
            canvases=(canvas,),
            transforms=(transforms.resize(short=short, long=long), transforms.horizontal_flip()),
        )
        for _ in range(4):
            next(batches)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < 5:
            next(batches)
            count += 8
        elapsed = time.perf_counter() - begin
        batches.close()
        yield {
            "name": f"loader, 480x480 to {canvas[0]}x{canvas[1]}",
            "seconds": elapsed / count,
            "images_per_second": count / elapsed,
        }


def training() -> Iterator[dict[str, Any]]:
    """One step of the quick-start network on random images."""
    from configs import quickstart

    config = quickstart.get_config("bench")
    run = experiment.load(config)
    plan = run.plan(1000)
    state, update = train.create_state(
        run.detector, run.canvases[0], run.rule(plan), seed=0, average=False
    )
    rng = np.random.default_rng(0)
    batch_size, slots = config.data.batch_size, config.data.max_objects
    rows, columns = run.canvases[0]
    low = rng.uniform(0, rows / 2, (batch_size, slots, 2))
    batch = Batch(
        image=rng.integers(0, 255, (batch_size, rows, columns, 3), dtype=np.uint8),
        image_size=np.tile(np.int32([rows, columns]), (batch_size, 1)),
        image_id=np.arange(batch_size, dtype=np.int32),
        scale=np.ones((batch_size, 2), np.float32),
        targets=Targets(
            boxes=np.concatenate([low, low + rows / 3], -1).astype(np.float32),
            labels=np.zeros((batch_size, slots), np.int32),
            valid=np.broadcast_to(np.arange(slots) < 6, (batch_size, slots)),
            crowd=np.zeros((batch_size, slots), bool),
        ),
    )
    step = parallel.pmap(
        train.bound_step(run.detector, update, ema_decay=0.0, normaliser_group=None)
    )
    state, batch = parallel.replicate(state), parallel.shard(batch)
    row = measure.seconds(lambda: jax.block_until_ready(step(state, batch)), repeats=10)
    yield {
        "name": f"training step, quick start, {batch_size} images of {rows}x{columns}",
        **row,
        "images_per_second": batch_size / row["seconds"],
    }


def evaluating() -> Iterator[dict[str, Any]]:
    """COCO metrics of 5,000 images with 500,000 detections in 80 classes."""
    truth, table = synthetic.detection_problem()
    for repeats, backend in ((3, "hotcoco"), (1, "pycocotools")):
        row = measure.seconds(
            lambda backend=backend: evaluation.coco_metrics(truth, table, backend=backend)["AP"],
            repeats=repeats,
            warmup=0,
        )
        yield {"name": f"COCO metrics, {len(table)} detections, {backend}", **row}
