"""Run a detector over many images: batches in, detections in original pixels out."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from anchors_jax import evaluation, parallel
from anchors_jax.data import loader
from anchors_jax.types import Batch, Detections, Detector, Targets


def as_batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    """The loader's dictionary of numpy arrays as a `Batch` (still on the host)."""

    def taken(kind: type) -> dict[str, Any]:
        return {f.name: arrays[f.name] for f in dataclasses.fields(kind) if f.name in arrays}

    return Batch(**taken(Batch), targets=Targets(**taken(Targets)))


def blank_batch(canvas: tuple[int, int]) -> Batch:
    """A batch of one black image, where only shapes matter."""
    return as_batch({name: value[None] for name, value in loader.empty(canvas, 1).items()})


class Batches:
    """The loader's dictionaries as batches; the loader's position passes through."""

    def __init__(self, batches: Any) -> None:
        self._loader = batches
        self._iterator = iter(batches)

    def __next__(self) -> Batch:
        return as_batch(next(self._iterator))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def get_state(self) -> dict[str, Any]:
        """JSON data that says which batch comes next."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Move to a position that `get_state` told."""
        self._iterator.set_state(state)


def make_predict(detector: Detector) -> Callable[[Any, Batch], Detections]:
    """`detector.predict` over all devices; compiled once per canvas."""
    return parallel.pmap(detector.predict)


def detect(
    predict: Callable[[Any, Batch], Detections],
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    category_ids: Sequence[int],
    on_batch: Callable[[Mapping[str, np.ndarray], evaluation.DetectionTable], None] | None = None,
) -> evaluation.DetectionTable:
    """Detections of all batches, in original pixels.

    Args:
      predict: from `make_predict`.
      variables: on the host.
      batches: dictionaries from an evaluation loader; slots with image_id -1 are padding.
      category_ids: the data set's category id of each label.
      on_batch: called with each batch and this host's detections in it (progress, pictures).

    Returns:
      The table of all hosts' images; every host gets the same.
    """
    variables = parallel.replicate(variables)
    tables: list[evaluation.DetectionTable] = []
    waiting: list[tuple[Mapping[str, np.ndarray], Detections]] = []

    def collect() -> None:
        arrays, detections = waiting.pop()
        local = parallel.unshard(detections)
        columns = {
            "boxes": local.boxes,
            "scores": local.scores,
            "labels": local.labels,
            "valid": local.valid,
            "image_id": np.asarray(arrays["image_id"]),
            "scale": np.asarray(arrays["scale"]),
        }
        tables.append(
            evaluation.from_batch(**parallel.gather_hosts(columns), category_ids=category_ids)
        )
        if on_batch is not None:
            on_batch(arrays, evaluation.from_batch(**columns, category_ids=category_ids))

    for arrays in batches:
        running = predict(variables, parallel.shard(as_batch(arrays)))
        if waiting:
            collect()  # reads the batch before, while the device works on this one
        waiting.append((arrays, running))
    if waiting:
        collect()
    return evaluation.concatenate(tables)


def count_images(batch: Mapping[str, np.ndarray] | Batch) -> int:
    """Images of a batch that are not padding."""
    ids = batch.image_id if isinstance(batch, Batch) else batch["image_id"]
    return int(np.sum(np.asarray(ids) >= 0))
