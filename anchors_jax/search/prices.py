"""The cost functions that a search can minimise, for a given detector."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from anchors_jax.search import costs, surgery
from anchors_jax.search.layout import Layout, Removed
from anchors_jax.search.store import Store
from anchors_jax.types import Candidates, Detections, Parts

REPEATS = 100


def boxes(layout: Layout) -> Callable[[Removed], int]:
    """Boxes that leave the head."""
    return lambda removed: costs.boxes(layout.cells, layout.counts(removed))


def macs(parts: Parts, layout: Layout, *, canvas: tuple[int, int]) -> Callable[[Removed], int]:
    """Multiply-adds of the head for images of `canvas` (height, width), of which `layout` is.

    Raises:
      ValueError: the head does not say what fewer shapes cost (`surgery.prunable_head`).
    """
    _, head = surgery.prunable_head(parts)
    image = jax.ShapeDtypeStruct((1, *canvas, 3), np.float32)
    trunk = functools.partial(parts.model.init_with_output, method="trunk")
    pyramid, _ = jax.eval_shape(trunk, jax.random.key(0), image)
    channels = [level.shape[-1] for level in pyramid]
    return lambda removed: head.multiply_adds(layout.cells, layout.counts(removed), channels)


class Latency:
    """Measured seconds from one image's candidates to its detections: what FLOPs do not count.

    The candidates of the prototypes that remain are cut out of a real image's, and `detect` is
    compiled for their number: the median of `repeats` runs after a warm-up, on the first device,
    with two significant digits. Configurations are measured once and kept in `store`.
    """

    def __init__(
        self,
        candidates: Candidates,
        detect: Callable[[Candidates], Detections],
        layout: Layout,
        store: Store,
        *,
        repeats: int = REPEATS,
    ) -> None:
        self._candidates = jax.tree.map(np.asarray, candidates)
        self._detect, self._layout = jax.jit(detect), layout
        self._store, self._repeats = store, repeats

    def __call__(self, removed: Removed) -> float:
        return float(self._store.get(removed, lambda: self._measure(removed)))

    def cut(self, removed: Removed) -> Candidates:
        """The candidates without some prototypes, as the pruned network would hand them out."""
        whole = self._candidates
        keep = self._layout.keep_mask(removed)[whole.shape]
        ends = np.cumsum((0, *whole.level_counts))
        counts = tuple(int(keep[start:stop].sum()) for start, stop in itertools.pairwise(ends))
        return Candidates(
            boxes=whole.boxes[keep],
            scores=whole.scores[keep],
            quality=None if whole.quality is None else whole.quality[keep],
            shape=whole.shape[keep],
            level_counts=counts,
        )

    def _measure(self, removed: Removed) -> float:
        candidates = jax.device_put(self.cut(removed))
        for _ in range(3):
            jax.block_until_ready(self._detect(candidates))
        times = []
        for _ in range(self._repeats):
            begin = time.perf_counter()
            jax.block_until_ready(self._detect(candidates))
            times.append(time.perf_counter() - begin)
        return float(f"{statistics.median(times):.1e}")
