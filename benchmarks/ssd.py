"""SSD at paper size: matching, mining, loss and gradient; predictions to detections.

The problem: 32 images of 300 x 300, 8,732 anchors, 80 classes and background, 100 slots per image
holding 8 (COCO's mean) or 100 objects.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import anchors as grids
from anchors_jax import losses, spec
from anchors_jax.assign import max_iou
from anchors_jax.types import DensePredictions, Targets
from benchmarks import measure

SIDE, IMAGES, CLASSES, SLOTS = 300, 32, 80, 100
MAPS = tuple((side, side) for side in (38, 19, 10, 5, 3, 1))
SHAPES = (4, 6, 6, 6, 4, 4)


def problem(objects: int, *, seed: int = 0) -> tuple[DensePredictions, Targets]:
    """Random logits with background ahead, small codes, objects log-uniform in 8..256 pixels."""
    rng = np.random.default_rng(seed)
    count = sum(rows * columns * n for (rows, columns), n in zip(MAPS, SHAPES, strict=True))
    logits = rng.normal(0.0, 1.0, (IMAGES, count, CLASSES + 1))
    logits[..., -1] += 6.0
    predictions = DensePredictions(
        logits=jnp.asarray(logits, jnp.float32),
        codes=jnp.asarray(rng.normal(0.0, 0.2, (IMAGES, count, 4)), jnp.float32),
        maps=MAPS,
    )
    side = np.exp(rng.uniform(np.log(8), np.log(256), (IMAGES, SLOTS, 2)))
    low = rng.uniform(0, 1, (IMAGES, SLOTS, 2)) * (SIDE - side)
    targets = Targets(
        boxes=jnp.asarray(np.concatenate([low, low + side], -1), jnp.float32),
        labels=jnp.asarray(rng.integers(0, CLASSES, (IMAGES, SLOTS)), jnp.int32),
        valid=jnp.asarray(np.broadcast_to(np.arange(SLOTS) < objects, (IMAGES, SLOTS))),
        crowd=jnp.zeros((IMAGES, SLOTS), bool),
    )
    return predictions, targets


def ssd() -> Iterator[dict[str, Any]]:
    """SSD300 with both ways of matching, and its inference."""
    from configs import ssd as config

    detector = config.get_config("paper").detector
    all_anchors = spec.build(detector.anchors)(maps=MAPS)
    argmax = spec.bind(max_iou.assign, negative_iou=0.5, assign_all_ties=False)
    for name, assign in {"": detector.objective.assign, ", argmax matching": argmax}.items():
        objective = spec.build({**detector.objective, "assign": assign})
        for objects in (8, 100):
            call, memory = measure.compiled(_gradient(objective, all_anchors), *problem(objects))
            title = f"ssd loss+gradient{name}, {IMAGES} images, {objects} objects"
            yield {"name": title, **measure.seconds(call), **memory}
    entropy = jax.value_and_grad(lambda logits: losses.cross_entropy(logits, labels).sum())
    labels = jnp.zeros((IMAGES, len(all_anchors.boxes)), jnp.int32)
    call, memory = measure.compiled(entropy, problem(8)[0].logits)
    title = f"softmax cross entropy and gradient alone, {IMAGES} images"
    yield {"name": title, **measure.seconds(call), **memory}
    objective, detect = spec.build(detector.objective), spec.build(detector.detect)

    def infer(prediction: DensePredictions) -> Any:
        return detect(objective.decode(prediction, all_anchors, jnp.asarray([SIDE, SIDE])))

    one = jax.tree.map(lambda leaf: leaf[0], problem(8)[0])
    call, memory = measure.compiled(infer, one)
    yield {"name": "predictions to detections, SSD300", **measure.seconds(call), **memory}


def _gradient(objective: Any, all_anchors: grids.Anchors) -> Any:
    def total(predictions: DensePredictions, targets: Targets) -> jax.Array:
        terms, _ = jax.vmap(objective.loss, in_axes=(0, None, 0))(predictions, all_anchors, targets)
        return sum(term.total.sum() / term.count.sum() for term in terms.values())

    return jax.value_and_grad(total)
