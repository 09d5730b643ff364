"""Dense objectives at paper size: anchors, assignment, loss and gradient.

The problem: 2 images on a canvas of 800 x 1344, P3..P7, 80 classes, 100 slots per image holding 20
or 100 objects.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import anchors, nms, spec
from anchors_jax.assign import frame
from anchors_jax.types import (
    Batch,
    Candidates,
    DensePredictions,
    SemiAnchoredPredictions,
    Targets,
)
from benchmarks import measure

CANVAS, IMAGES, CLASSES, SLOTS = (800, 1344), 2, 80, 100
STRIDES = (8, 16, 32, 64, 128)
MAPS = tuple((-(-CANVAS[0] // s), -(-CANVAS[1] // s)) for s in STRIDES)
REFERENCE = {  # seconds, MMDetection 3.3.0 on two CPU cores
    ("retinanet", 20): 1.6,
    ("retinanet", 100): 2.2,
    ("atss", 20): 0.068,
    ("atss", 100): 0.115,
    ("fcos", 20): 0.067,
    ("fcos", 100): 0.100,
    ("paa", 20): 0.14,
    ("paa", 100): 0.54,
    ("freeanchor", 20): 1.7,
    ("freeanchor", 100): 3.3,
}


def problem(
    objects: int, *, shapes: int = 9, quality: bool = False, seed: int = 0
) -> tuple[DensePredictions, Targets]:
    """Random logits near the prior, small codes, and objects log-uniform in 16..512 pixels."""
    rng = np.random.default_rng(seed)
    count = sum(rows * columns for rows, columns in MAPS) * shapes
    predictions = DensePredictions(
        logits=jnp.asarray(rng.normal(-4.6, 1.0, (IMAGES, count, CLASSES)), jnp.float32),
        codes=jnp.asarray(rng.normal(0.0, 0.2, (IMAGES, count, 4)), jnp.float32),
        maps=MAPS,
    )
    side = np.exp(rng.uniform(np.log(16), np.log(512), (IMAGES, SLOTS, 2)))
    low = rng.uniform(0, 1, (IMAGES, SLOTS, 2)) * np.maximum(np.array(CANVAS[::-1]) - side, 1)
    targets = Targets(
        boxes=jnp.asarray(np.concatenate([low, low + side], -1), jnp.float32),
        labels=jnp.asarray(rng.integers(0, CLASSES, (IMAGES, SLOTS)), jnp.int32),
        valid=jnp.asarray(np.broadcast_to(np.arange(SLOTS) < objects, (IMAGES, SLOTS))),
        crowd=jnp.zeros((IMAGES, SLOTS), bool),
    )
    if quality:
        logits = jnp.asarray(rng.normal(0.0, 1.0, (IMAGES, count)), jnp.float32)
        predictions = predictions.replace(quality=logits)
    return predictions, targets


def loss_and_gradient(detector: Any) -> Callable[[DensePredictions, Targets], Any]:
    """(loss, gradient with respect to the predictions) as the training step computes them."""
    grid = spec.build(detector["anchors"])
    objective = spec.build(detector["objective"])

    def total(predictions: DensePredictions, targets: Targets) -> jax.Array:
        all_anchors = grid(maps=predictions.maps, canvas=CANVAS)

        def one(prediction: DensePredictions, target: Targets, size: jax.Array) -> Any:
            valid = anchors.inside(all_anchors, size)
            return objective.loss(prediction, all_anchors.replace(valid=valid), target)

        sizes = jnp.full((IMAGES, 2), jnp.asarray(CANVAS))
        terms, _ = jax.vmap(one)(predictions, targets, sizes)
        return sum(term.total.sum() / term.count.sum() for term in terms.values())

    return jax.value_and_grad(total)


def objective_rows(
    name: str, detector: Any, *, shapes: int = 9, quality: bool = False
) -> Iterator[dict[str, Any]]:
    """One row for 20 and one for 100 objects."""
    for objects in (20, 100):
        arguments = problem(objects, shapes=shapes, quality=quality)
        call, memory = measure.compiled(loss_and_gradient(detector), *arguments)
        row = {
            "name": f"{name} loss+gradient, {objects} objects",
            **measure.seconds(call),
            **memory,
        }
        reference = REFERENCE.get((name, objects))
        if reference:
            row["reference"] = f"MMDetection 3.3.0: {reference} s"
            row["times_faster"] = reference / row["seconds"]
        yield row


def retinanet() -> Iterator[dict[str, Any]]:
    """RetinaNet with its paper's settings."""
    from configs import retinanet as config

    yield from objective_rows("retinanet", config.get_config("paper").detector)


def atss() -> Iterator[dict[str, Any]]:
    """ATSS with its paper's settings."""
    from configs import atss as config

    detector = config.get_config("paper").detector
    yield from objective_rows("atss", detector, shapes=1, quality=True)


def fcos() -> Iterator[dict[str, Any]]:
    """FCOS and its improved variant."""
    from configs import fcos as config

    for name, variant in (("fcos", "paper"), ("fcos improved", "improved")):
        detector = config.get_config(variant).detector
        yield from objective_rows(name, detector, shapes=1, quality=True)


def freeanchor() -> Iterator[dict[str, Any]]:
    """FreeAnchor with MMDetection's settings."""
    from configs import freeanchor as config

    yield from objective_rows("freeanchor", config.get_config("paper").detector)


def assignment() -> Iterator[dict[str, Any]]:
    """Max-IoU assignment alone."""
    from configs import retinanet as config

    detector = config.get_config("paper").detector
    all_anchors = spec.build(detector["anchors"])(maps=MAPS, canvas=CANVAS)
    assign = functools.partial(
        frame.assigned, spec.build(detector["objective"]["assign"]), all_anchors
    )
    for objects in (20, 100):
        _, targets = problem(objects)
        call, memory = measure.compiled(jax.vmap(assign), targets)
        yield {"name": f"max-IoU assignment, {objects} objects", **measure.seconds(call), **memory}


def suppression() -> Iterator[dict[str, Any]]:
    """NMS alone, and everything from scores to detections."""
    rng = np.random.default_rng(0)
    for count in (1000, 5000):
        low = rng.uniform(0, 1000, (count, 2))
        box = jnp.asarray(np.concatenate([low, low + rng.uniform(10, 200, (count, 2))], 1))
        arguments = (
            box.astype(jnp.float32),
            jnp.asarray(rng.uniform(0, 1, count), jnp.float32),
            jnp.ones(count, bool),
        )
        suppress = functools.partial(nms.nms, iou_threshold=0.5, max_detections=100)
        call, memory = measure.compiled(suppress, *arguments)
        yield {"name": f"NMS, {count} boxes, 100 kept", **measure.seconds(call), **memory}
    counts = tuple(rows * columns * 9 for rows, columns in MAPS)
    total = sum(counts)
    low = rng.uniform(0, 1000, (total, 2))
    candidates = Candidates(
        boxes=jnp.asarray(np.concatenate([low, low + 50], 1), jnp.float32),
        scores=jnp.asarray(rng.uniform(0, 1, (total, CLASSES)) ** 8, jnp.float32),
        shape=jnp.zeros(total, jnp.int32),
        level_counts=counts,
    )
    call, memory = measure.compiled(nms.Rule(), candidates)
    name = f"scores to detections, {total} anchors x {CLASSES} classes"
    yield {"name": name, **measure.seconds(call), **memory}


def paa() -> Iterator[dict[str, Any]]:
    """PAA with its paper's settings."""
    from configs import paa as config

    detector = config.get_config("paper").detector
    yield from objective_rows("paa", detector, shapes=1, quality=True)


def semi_anchored() -> Iterator[dict[str, Any]]:
    """Semi-Anchored with 9 and 25 anchors per location; its inference beside RetinaNet's."""
    from configs import retinanet

    for shapes in (9, 25):
        detector = semi_anchored_detector(shapes)
        for objects in (20, 100):
            predictions, targets = semi_anchored_problem(objects, shapes=shapes)
            call, memory = measure.compiled(loss_and_gradient(detector), predictions, targets)
            name = f"semi-anchored loss+gradient, {shapes} anchors, {objects} objects"
            yield {"name": name, **measure.seconds(call), **memory}
    dense = retinanet.get_config("paper").detector
    yield inference_row("RetinaNet, 9 anchors", dense, problem(20)[0])
    for shapes in (1, 9, 25):
        predictions, _ = semi_anchored_problem(20, shapes=shapes)
        detector = semi_anchored_detector(shapes)
        yield inference_row(f"semi-anchored, {shapes} anchors", detector, predictions)


def semi_anchored_detector(shapes: int) -> Any:
    """The paper's settings with 1, 9 or 25 anchors per location (Table 1)."""
    from configs import semi_anchored as config

    detector = config.get_config("paper").detector
    detector.model.head.shapes_per_cell = shapes
    if shapes < 25:
        detector.anchors.shapes.scales_per_octave = {1: 1, 9: 3}[shapes]
        detector.anchors.shapes.ratios = {1: (1.0,), 9: (0.5, 1.0, 2.0)}[shapes]
    return detector


def semi_anchored_problem(objects: int, *, shapes: int) -> tuple[SemiAnchoredPredictions, Targets]:
    """Class logits and objects as in `problem`, anchor logits around 0."""
    places, targets = problem(objects, shapes=1)
    size = (IMAGES, places.logits.shape[1], shapes)
    rng = np.random.default_rng(1)
    predictions = SemiAnchoredPredictions(
        logits=places.logits,
        anchor_logits=jnp.asarray(rng.normal(0.0, 1.0, size), jnp.float32),
        codes=jnp.asarray(rng.normal(0.0, 0.2, (*size, 4)), jnp.float32),
        maps=MAPS,
    )
    return predictions, targets


def inference_row(name: str, detector: Any, predictions: Any) -> dict[str, Any]:
    """From one image's predictions to its detections."""
    grid, objective = spec.build(detector["anchors"]), spec.build(detector["objective"])
    detect, size = spec.build(detector["detect"]), jnp.asarray(CANVAS)

    def run(prediction: Any) -> Any:
        return detect(objective.decode(prediction, grid(maps=MAPS, canvas=CANVAS), size))

    one = jax.tree.map(lambda leaf: leaf[0], predictions)
    call, memory = measure.compiled(run, one)
    return {"name": f"predictions to detections, {name}", **measure.seconds(call), **memory}


def semi_anchored_network() -> Iterator[dict[str, Any]]:
    """From one image to its detections through ResNet-50: RetinaNet, and 1, 9 and 25 anchors.

    Untrained networks have no score above the threshold: it is 0 here, which fills the NMS of all
    of them alike.
    """
    from configs import retinanet

    image = np.random.default_rng(0).integers(0, 255, (1, *CANVAS, 3), np.uint8)
    batch = Batch(
        image=jnp.asarray(image),
        image_size=jnp.asarray([CANVAS]),
        image_id=jnp.zeros(1, jnp.int32),
        scale=jnp.ones((1, 2)),
        targets=jax.tree.map(lambda leaf: leaf[:1], problem(20, shapes=1)[1]),
    )
    methods = {"RetinaNet, 9 anchors": retinanet.get_config("paper").detector}
    methods |= {f"semi-anchored, {k} anchors": semi_anchored_detector(k) for k in (1, 9, 25)}
    for name, record in methods.items():
        record.detect.score_threshold = 0.0
        detector = spec.build(record)
        # Parameters do not depend on the canvas.
        variables = detector.init(jax.random.key(0), (128, 128))
        call, memory = measure.compiled(detector.predict, variables, batch)
        seconds = measure.seconds(call, repeats=3, warmup=1)
        yield {"name": f"image to detections, {name}", **seconds, **memory}
