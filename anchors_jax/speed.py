"""What detection costs: measured milliseconds per image, and what follows from shapes alone.

One image at a time on the first device, as a deployed detector works. Several subjects take turns
image by image, so that whatever else the machine does or how warm it gets hits all of them alike;
each number is a median over the images.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from anchors_jax import experiment, inference, results, spec
from anchors_jax.models import count
from anchors_jax.types import Batch

IMAGES = 30
WARM_UP = 3  # calls per canvas: the first compiles, the next ones fill caches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network and its config."""

    run: experiment.Experiment
    variables: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one image costs.

    Attributes:
      ms: milliseconds from an image on the device to its detections: preprocessing, network,
        post-processing.
      detect_ms: milliseconds of post-processing alone, from candidates to detections.
      boxes: decoded boxes that are handed to post-processing, on the config's first canvas.
      head_macs: multiply-adds of the head there.
      parameters: numbers that the network holds.
    """

    ms: float
    detect_ms: float
    boxes: int
    head_macs: int
    parameters: int


def measure(subjects: Sequence[Subject], *, images: int = IMAGES) -> tuple[list[Cost], int]:
    """The cost of every subject, and on how many images it was measured.

    Args:
      subjects: one or more.
      images: the first ones of each subject's evaluation set; fewer where one of them has fewer.

    Raises:
      ValueError: data that cannot be read.
    """
    sets = _images(subjects, images)
    images = min(len(batches) for batches in sets)
    timers = [_Timer(subject) for subject in subjects]
    for timer, batches in zip(timers, sets, strict=True):
        of_canvas = {batch.image.shape: batch for batch in batches[:images]}
        for batch in of_canvas.values():
            for _ in range(WARM_UP):
                timer(batch)
    taken = [[timer(sets[k][n]) for k, timer in enumerate(timers)] for n in range(images)]
    found = []
    for subject, pairs in zip(subjects, zip(*taken, strict=True), strict=True):
        whole, after = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        found.append(Cost(ms=whole, detect_ms=after, **counts(subject.run)))
    return found, images


def counts(run: experiment.Experiment) -> dict[str, int]:
    """`boxes`, `head_macs` and `parameters` of a `Cost`, from shapes: nothing is computed."""
    canvas, model = run.canvases[0], run.detector.parts.model
    blank = inference.blank_batch(canvas)
    candidates = jax.eval_shape(run.detector.score, run.variable_shapes(), blank)
    return {
        "boxes": int(candidates.boxes.shape[-2]),
        "head_macs": count.head_multiply_adds(model, canvas),
        "parameters": count.parameters(count.shapes(model, canvas)["params"]),
    }


def conditions(images: int) -> dict[str, Any]:
    """What costs were measured with, as result files say it."""
    return {
        "device": results.device(1),
        "commit": results.commit(),
        "jax": jax.__version__,
        "images": images,
    }


class _Timer:
    """(seconds of the whole, seconds of post-processing alone) for a batch of one image."""

    def __init__(self, subject: Subject) -> None:
        detector = subject.run.detector
        self._variables = jax.device_put(subject.variables)
        # Not `inference.make_predict`: that is for all devices, and mapping over them has a price.
        self._predict, self._score = jax.jit(detector.predict), jax.jit(detector.score)
        self._detect = jax.jit(detector.parts.detect)

    def __call__(self, batch: Batch) -> tuple[float, float]:
        batch = jax.block_until_ready(jax.device_put(batch))
        whole = _seconds(self._predict, self._variables, batch)
        candidates = jax.tree.map(lambda leaf: leaf[0], self._score(self._variables, batch))
        return whole, _seconds(self._detect, jax.block_until_ready(candidates))


def _seconds(function: Any, *arguments: Any) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - begin


def _images(subjects: Sequence[Subject], count: int) -> list[list[Batch]]:
    """The images of every subject; those with the same data share them. Read before all timing."""
    read: dict[str, list[Batch]] = {}
    sets = []
    for subject in subjects:
        data = spec.plain(subject.run.config.data)
        names = ("eval", "canvases", "eval_transforms", "max_objects")
        key = json.dumps([data[name] for name in names], sort_keys=True)
        if key not in read:
            source = subject.run.source("eval")
            arrays = subject.run.first_images(source, count)
            read[key] = [inference.as_batch(image) for image in arrays]
        sets.append(read[key])
    return sets
