"""Which image goes into which batch, as a pure function of the step: nothing here is read or kept.

Both plans group the images by canvas, so that every batch has one shape. A batch is global; process
p of n takes its rows p * B / n .. (p + 1) * B / n, so that what is trained on does not depend on
how many processes share the work.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from anchors_jax.data.transforms import choose_canvas

_PADDING = -1
_ORDER, _SCHEDULE = 1, 2  # what a random stream is for; part of its seed


class Row(NamedTuple):
    """One slot of a batch: image index, epoch and canvas; index -1: padding."""

    index: int
    epoch: int
    canvas: int


def group_by_canvas(
    sizes: np.ndarray, canvases: Sequence[tuple[int, int]], chosen: np.ndarray
) -> tuple[Int64[np.ndarray, "_"], ...]:
    """The chosen images [N] of each canvas, in order, from sizes [N, 2] (height, width)."""
    best = functools.cache(lambda height, width: choose_canvas(height, width, canvases))
    canvas = np.fromiter((best(*size) for size in sizes.tolist()), np.int64, len(sizes))
    return tuple(np.flatnonzero(chosen & (canvas == c)) for c in range(len(canvases)))


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """An endless sequence of full batches; every image once per epoch of its canvas.

    The images of one canvas form one stream: a fresh permutation for each epoch, one after the
    other, cut into batches. A batch across the end of an epoch takes the rest from the next one,
    hence no image is lost or favoured, whatever the sizes of data and batch. Canvases take turns
    in random order, each as often as it has images.
    """

    groups: tuple[np.ndarray, ...]
    batch_size: int
    seed: int
    shuffle: bool = True

    def _batches_before(self, epoch: int, group: int) -> int:
        return -(-epoch * len(self.groups[group]) // self.batch_size)

    def _steps_before(self, epoch: int) -> int:
        return sum(self._batches_before(epoch, group) for group in range(len(self.groups)))

    def _locate(self, step: int) -> tuple[int, int]:
        """The canvas of a step, and how many batches that canvas had before."""
        images = sum(len(group) for group in self.groups)
        epoch = step * self.batch_size // images
        while self._steps_before(epoch) > step:
            epoch -= 1
        while self._steps_before(epoch + 1) <= step:
            epoch += 1
        first = [self._batches_before(epoch, c) for c in range(len(self.groups))]
        after = [self._batches_before(epoch + 1, c) for c in range(len(self.groups))]
        counts = tuple(b - a for a, b in zip(first, after, strict=True))
        turns = _turns(self.seed if self.shuffle else None, epoch, counts)
        turn = step - sum(first)
        canvas = int(turns[turn])
        return canvas, first[canvas] + int((turns[:turn] == canvas).sum())

    def row(self, step: int, slot: int) -> Row:
        """The image in a slot of the global batch of a step."""
        canvas, number = self._locate(step)
        group = self.groups[canvas]
        epoch, rank = divmod(number * self.batch_size + slot, len(group))
        if self.shuffle:
            rank = _permutation(self.seed, epoch, canvas, len(group))[rank]
        return Row(int(group[rank]), epoch, canvas)


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, canvas: int, count: int) -> np.ndarray:
    return np.random.default_rng((_ORDER, seed, epoch, canvas)).permutation(count)


@functools.lru_cache(maxsize=16)
def _turns(seed: int | None, epoch: int, counts: tuple[int, ...]) -> np.ndarray:
    """The canvas of each batch of an epoch."""
    turns = np.repeat(np.arange(len(counts)), counts)
    if seed is None:
        return turns
    return np.random.default_rng((_SCHEDULE, seed, epoch)).permutation(turns)


@dataclasses.dataclass(frozen=True)
class EvalPlan:
    """Every image once, canvas by canvas, in order; the last batch of each canvas is padded."""

    groups: tuple[np.ndarray, ...]
    batch_size: int

    def __len__(self) -> int:
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def row(self, step: int, slot: int) -> Row:
        """The image in a slot of the global batch of a step, 0 <= step < len(self)."""
        for canvas, group in enumerate(self.groups):
            count = -(-len(group) // self.batch_size)
            if step < count:
                position = step * self.batch_size + slot
                index = int(group[position]) if position < len(group) else _PADDING
                return Row(index, 0, canvas)
            step -= count
        raise IndexError("a step beyond the last batch")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that one process reads, flat: row i is slot i % rows of the batch of step i // rows.

    `start` and `stop` are steps. This is the list that the reading pipeline maps over.
    """

    plan: TrainPlan | EvalPlan
    start: int
    stop: int
    process_index: int
    process_count: int

    @property
    def per_batch(self) -> int:
        """Rows of one batch on this process."""
        return self.plan.batch_size // self.process_count

    def __len__(self) -> int:
        return (self.stop - self.start) * self.per_batch

    def __getitem__(self, i: int) -> Row:
        step, slot = divmod(int(i), self.per_batch)
        return self.plan.row(self.start + step, self.process_index * self.per_batch + slot)
