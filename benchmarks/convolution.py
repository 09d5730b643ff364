"""The training step with ordinary convolutions and with those of models/convolution.py."""

import contextlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from anchors_jax import experiment, parallel, train
from anchors_jax.models import convolution as networks
from anchors_jax.types import Batch, Targets
from benchmarks import measure

OBJECTS = 20  # in each image
ROUNDS = 2  # of one way, then the other
WAYS = {"ordinary": networks.ordinary, "fast": contextlib.nullcontext}


def convolution() -> Iterator[dict[str, Any]]:
    """RetinaNet and PAA with ResNet-50 at 512 x 512, and SSD300 with VGG16; 2 images each."""
    from configs import paa, retinanet, ssd

    for name, config, side in (
        ("RetinaNet", retinanet.get_config("paper"), 512),
        ("PAA", paa.get_config("paper"), 512),
        ("SSD300", ssd.get_config("paper"), 300),
    ):
        yield from step_rows(name, config, side=side, images=2)


def step_rows(
    name: str, config: ConfigDict, *, side: int, images: int, repeats: int = 3
) -> Iterator[dict[str, Any]]:
    """Two rows: the step of one device on square images, either way, measured A B A B."""
    with config.unlocked():
        config.data.canvases, config.data.batch_size = ((side, side),), images
        config.init_from = None
        config.train.normaliser_group = None
    run = experiment.load(config)
    rule = run.rule(run.plan(1000))
    state, update = train.create_state(run.detector, (side, side), rule, seed=0, average=False)
    batch = _batch(side, images, slots=config.data.max_objects, classes=config.num_classes)
    arguments = parallel.replicate(state), parallel.shard(batch)
    calls, memory = {}, {}
    for way, context in WAYS.items():
        step = train.bound_step(run.detector, update, ema_decay=0.0, normaliser_group=None)
        with context():
            program = parallel.pmap(step).lower(*arguments).compile()
        calls[way] = lambda program=program: program(*arguments)
        memory[way] = {"temporaries_mb": program.memory_analysis().temp_size_in_bytes / 1e6}
    rounds = [
        {way: measure.seconds(call, repeats=repeats, warmup=1) for way, call in calls.items()}
        for _ in range(ROUNDS)
    ]
    seconds = {way: [times[way]["seconds"] for times in rounds] for way in WAYS}
    for way in WAYS:
        row = {
            "name": f"training step, {name}, {images} images of {side}x{side}, {way} convolution",
            "seconds": statistics.mean(seconds[way]),
            "best_seconds": min(times[way]["best_seconds"] for times in rounds),
            "rounds_seconds": seconds[way],
            "repeats": repeats * ROUNDS,
            **memory[way],
        }
        if way != "ordinary":
            before = statistics.mean(seconds["ordinary"])
            row["reference"] = f"ordinary convolution: {before:.2f} s"
            row["times_faster"] = before / row["seconds"]
        yield row


def _batch(side: int, images: int, *, slots: int, classes: int) -> Batch:
    """Noise, and objects of 20 to 120 pixels anywhere in it."""
    rng = np.random.default_rng(0)
    size = rng.uniform(20, 120, (images, slots, 2))
    low = rng.uniform(0, 1, (images, slots, 2)) * (side - size)
    return Batch(
        image=rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8),
        image_size=np.full((images, 2), side, np.int32),
        image_id=np.arange(images, dtype=np.int32),
        scale=np.ones((images, 2), np.float32),
        targets=Targets(
            boxes=np.concatenate([low, low + size], -1).astype(np.float32),
            labels=rng.integers(0, classes, (images, slots)).astype(np.int32),
            valid=np.broadcast_to(np.arange(slots) < OBJECTS, (images, slots)),
            crowd=np.zeros((images, slots), bool),
        ),
    )
