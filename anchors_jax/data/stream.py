"""An iterator over batches that can be stopped and taken up again; on grain."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from anchors_jax.data.plan import EvalPlan, Row, Rows, TrainPlan

_FOREVER = 2**40  # steps of a training loader

Batch = dict[str, np.ndarray]


class Loader:
    """An iterator over batches that knows where it stands.

    `for batch in loader` goes on where it stopped if the loader is endless (training), and starts
    again if it is finite (evaluation; then it has a length). `close` ends its workers.
    """

    def __init__(
        self,
        plan: TrainPlan | EvalPlan,
        load: Callable[[Row], Batch],
        *,
        process_index: int,
        process_count: int,
        num_workers: int,
        num_threads: int | None,
        prefetch: int,
        fingerprint: dict[str, Any],
    ):
        self._plan, self._load = plan, load
        self._process = (process_index, process_count)
        self._workers, self._prefetch = num_workers, prefetch
        self._threads = num_threads or min(16, os.cpu_count() or 1)
        self._fingerprint = fingerprint
        self._finite = isinstance(plan, EvalPlan)
        self._step = 0
        self._iterator: Iterator[Batch] | None = None
        self.images = sum(len(group) for group in plan.groups)

    @property
    def steps_per_epoch(self) -> int:
        """Batches after which every image has been seen about once (rounded up)."""
        return -(-self.images // self._plan.batch_size)

    def __len__(self) -> int:
        if not self._finite:
            raise TypeError("a training loader has no end; see steps_per_epoch")
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        if self._finite:
            self._seek(0)
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._pipeline()
        try:
            batch = next(self._iterator)
        except StopIteration:
            self.close()
            raise
        self._step += 1
        return batch

    def _pipeline(self) -> Iterator[Batch]:
        stop = len(self._plan) if self._finite else _FOREVER
        rows = Rows(self._plan, self._step, stop, *self._process)
        images = grain.MapDataset.source(rows).map(self._load)
        if self._workers == 0:
            cv2.setNumThreads(0)  # parallel over images already
            options = grain.ReadOptions(
                num_threads=self._threads,
                prefetch_buffer_size=max(self._threads, self._prefetch * rows.per_batch),
            )
            return iter(images.to_iter_dataset(options).batch(rows.per_batch))
        if not flags.FLAGS.is_parsed():  # grain reads its own flags, also outside of an absl app
            flags.FLAGS.mark_as_parsed()
        # Batches must be whole before they are dealt out, or workers would mix them.
        batches = images.batch(rows.per_batch).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        )
        options = grain.MultiprocessingOptions(
            num_workers=self._workers,
            per_worker_buffer_size=max(1, -(-self._prefetch // self._workers)),
        )
        return iter(batches.mp_prefetch(options, worker_init_fn=_start_worker))

    def _seek(self, step: int) -> None:
        self.close()
        self._step = step

    def close(self) -> None:
        """Stop reading ahead. The loader can still be used and goes on where it stood."""
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None

    def get_state(self) -> dict[str, Any]:
        """Where the loader stands; plain JSON. Batches read ahead do not count."""
        return {"step": self._step, **self._fingerprint}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to the place of a state: the following batches are exactly those that followed then.

        Raises:
          ValueError: the state comes from other data, or another seed or batch size.
        """
        for key, value in self._fingerprint.items():
            if state.get(key) != value:
                raise ValueError(f"loader state: {key} was {state.get(key)!r}, is now {value!r}")
        self._seek(int(state["step"]))


def _start_worker(worker_index: int, worker_count: int) -> None:
    del worker_index, worker_count
    cv2.setNumThreads(0)
