"""Batches for training and evaluation: plan, read, transform, pad.

A batch is a dict of numpy arrays (the training code makes a `types.Batch` of it): those of `empty`
for B rows, all on one canvas.

The random numbers of an image depend on (seed, epoch, index) alone and the order on (seed, step)
alone, so neither workers, threads, prefetching nor a restart change what is trained on.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from anchors_jax.data import transforms as T
from anchors_jax.data.plan import EvalPlan, Row, TrainPlan, group_by_canvas
from anchors_jax.data.records import DataError, Example, Source
from anchors_jax.data.stream import Batch, Loader

_LOG = logging.getLogger(__name__)
_AUGMENT = 3  # what a random stream is for; plan.py has the others

Canvases = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Load:
    """From a row of the plan to the arrays of one image. Pure; sent to the workers."""

    source: Source
    canvases: tuple[tuple[int, int], ...]
    transform: T.Transform
    max_objects: int
    seed: int

    def __call__(self, row: Row) -> Batch:
        canvas = self.canvases[row.canvas]
        if row.index < 0:
            return empty(canvas, self.max_objects)
        rng = np.random.default_rng((_AUGMENT, self.seed, row.epoch, row.index))
        example = self.source[row.index].replace(canvas=canvas)
        example = T.shrink_to(self.transform(example, rng), canvas)
        return pack(example, canvas=canvas, max_objects=self.max_objects)


def pack(example: Example, *, canvas: tuple[int, int], max_objects: int) -> Batch:
    """The arrays of one image (the loader's, without the leading B).

    With more objects than slots, the largest are kept, objects before crowd regions.
    """
    if len(example.boxes) > max_objects:
        area = T.box_sizes(example.boxes).prod(1)
        order = np.lexsort((-area, example.crowd))[:max_objects]
        example = example.keep(np.sort(order))
    count = len(example.boxes)
    batch = empty(canvas, max_objects) | {
        "image": T.pad(example.image, canvas),
        "image_size": np.asarray(example.size, np.int32),
        "image_id": np.asarray(example.image_id, np.int32),
        "scale": example.scale,
    }
    batch["boxes"][:count] = example.boxes
    batch["labels"][:count] = example.labels
    batch["valid"][:count] = True
    batch["crowd"][:count] = example.crowd
    return batch


def empty(canvas: tuple[int, int], max_objects: int) -> Batch:
    """The arrays of a row that only fills a batch: a black image without objects, G slots."""
    return {
        "image": np.zeros((*canvas, 3), np.uint8),  # RGB; beyond image_size zeros
        "image_size": np.asarray(canvas, np.int32),  # valid height, width
        "image_id": np.asarray(-1, np.int32),  # -1: no image of the data set
        "scale": np.ones(2, np.float32),  # (x, y): network pixels per original pixel
        # Network pixels; invalid slots hold this box.
        "boxes": np.tile(np.float32([0, 0, 1, 1]), (max_objects, 1)),
        "labels": np.zeros(max_objects, np.int32),
        "valid": np.zeros(max_objects, bool),
        "crowd": np.zeros(max_objects, bool),
    }


def used(source: Source, *, keep_empty: bool = True, min_side: int = 0) -> np.ndarray:
    """Which images of a source training takes; the keywords of `train_loader`."""
    chosen = np.asarray(source.sizes).min(1, initial=2**31 - 1) >= min_side
    return chosen if keep_empty else chosen & (source.counts[:, 0] > 0)


def train_loader(
    source: Source,
    *,
    batch_size: int,
    canvases: Canvases,
    transforms: Sequence[T.Transform] = (),
    max_objects: int = 100,
    seed: int = 0,
    shuffle: bool = True,
    keep_empty: bool = True,
    min_side: int = 0,
    num_workers: int = 0,
    num_threads: int | None = None,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Endless batches of augmented images.

    Args:
      source: where the images come from.
      batch_size: images of one step over all processes; each process yields its
        batch_size / process_count rows. The batches do not depend on the number of processes.
      canvases: (height, width) of the network inputs. An image goes where it can be shown largest,
        judged by its annotated size; all images of a batch (on all processes) share one canvas.
      transforms: applied in order. An image still larger than its canvas is reduced to fit.
      max_objects: G, slots per image. With more objects the largest are kept; counted in the log.
      seed: of order and augmentation.
      shuffle: a new order in every epoch. False: the source's order, canvas by canvas.
      keep_empty: False leaves out images without objects (as MMDetection does).
      min_side: leave out images with a shorter side (MMDetection: 32).
      num_workers: processes; 0: threads of this process, which is enough where decoding and
        resizing (outside the interpreter lock) dominate.
      num_threads: threads for num_workers = 0; None: one per core, 16 at most.
      prefetch: batches read ahead.
      process_index, process_count: this process among those that train together.

    Raises:
      ValueError: sizes or counts that do not go together. DataError: no image is left.
    """
    _check(source, batch_size, canvases, max_objects, num_workers, process_index, process_count)
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    chosen = used(source, keep_empty=keep_empty, min_side=min_side)
    if not chosen.any():
        raise DataError(f"{source!r}: no image to train on")
    canvases = tuple((int(h), int(w)) for h, w in canvases)
    groups = group_by_canvas(source.sizes, canvases, chosen)
    _warn_of_many(source, chosen, max_objects)
    load = _Load(
        source=source,
        canvases=canvases,
        transform=T.compose(transforms),
        max_objects=max_objects,
        seed=seed,
    )
    return Loader(
        TrainPlan(groups, batch_size, seed, shuffle),
        load,
        process_index=process_index,
        process_count=process_count,
        num_workers=num_workers,
        num_threads=num_threads,
        prefetch=prefetch,
        fingerprint={
            "seed": seed,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "images": [len(group) for group in groups],
        },
    )


def eval_loader(
    source: Source,
    *,
    batch_size: int,
    canvases: Canvases,
    transforms: Sequence[T.Transform] = (),
    max_objects: int = 100,
    num_workers: int = 0,
    num_threads: int | None = None,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Every image exactly once: canvas by canvas, in the source's order.

    The last batch of each canvas is filled up with rows of image_id -1 (black, without objects),
    so that all batches are full and every process yields the same number of them, with the same
    canvases. Arguments as in `train_loader`; random transforms are repeatable but pointless.
    """
    _check(source, batch_size, canvases, max_objects, num_workers, process_index, process_count)
    canvases = tuple((int(h), int(w)) for h, w in canvases)
    groups = group_by_canvas(source.sizes, canvases, np.ones(len(source), bool))
    load = _Load(
        source=source,
        canvases=canvases,
        transform=T.compose(transforms),
        max_objects=max_objects,
        seed=0,
    )
    return Loader(
        EvalPlan(groups, batch_size),
        load,
        process_index=process_index,
        process_count=process_count,
        num_workers=num_workers,
        num_threads=num_threads,
        prefetch=prefetch,
        fingerprint={"batch_size": batch_size, "images": [len(group) for group in groups]},
    )


def first_images(
    source: Source,
    count: int,
    *,
    canvases: Canvases,
    transforms: Sequence[T.Transform] = (),
    max_objects: int = 100,
) -> list[Batch]:
    """The first images of a source as batches of one, each as `eval_loader` would show it.

    In the source's order, whatever their canvas; fewer than `count` where there are no more. Read
    here and now, by no thread that goes on working. Arguments and errors as in `train_loader`.
    """
    _check(source, 1, canvases, max_objects, 0, 0, 1)
    canvases = tuple((int(h), int(w)) for h, w in canvases)
    transform = T.compose(transforms)
    load = _Load(
        source=source, canvases=canvases, transform=transform, max_objects=max_objects, seed=0
    )
    sizes = np.asarray(source.sizes)[:count]
    groups = group_by_canvas(sizes, canvases, np.ones(len(sizes), bool))
    chosen = sorted((int(index), canvas) for canvas, g in enumerate(groups) for index in g)
    images = [load(Row(index, 0, canvas)) for index, canvas in chosen]
    return [{name: value[None] for name, value in image.items()} for image in images]


def _check(
    source: Source,
    batch_size: int,
    canvases: Canvases,
    max_objects: int,
    num_workers: int,
    process_index: int,
    process_count: int,
) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} is not a multiple of {process_count} processes")
    if not canvases or any(len(canvas) != 2 or min(canvas) < 1 for canvas in canvases):
        raise ValueError(f"canvases must be pairs (height, width), not {canvases!r}")
    if max_objects < 1 or num_workers < 0:
        raise ValueError(f"max_objects = {max_objects}, num_workers = {num_workers}")
    if not len(source):
        raise DataError(f"{source!r} has no images")


def _warn_of_many(source: Source, chosen: np.ndarray, max_objects: int) -> None:
    counts = source.counts.sum(1) * chosen
    over = np.flatnonzero(counts > max_objects)
    if over.size:
        _LOG.warning(
            "%r: %d images have more than max_objects = %d objects (up to %d; first: image %d); "
            "the largest are kept",
            source,
            over.size,
            max_objects,
            counts.max(),
            source.image_ids[over[0]],
        )
