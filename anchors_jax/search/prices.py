"""The cost functions that a search can minimise, for a given detector."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from anchors_jax.search import costs, surgery
from anchors_jax.search.layout import Layout, Removed
from anchors_jax.search.store import Store
from anchors_jax.types import Candidates, Detections

REPEATS = 100


def boxes(layout: Layout) -> Callable[[Removed], int]:
    """Boxes that leave the head."""
    return lambda removed: costs.boxes(layout.cells, layout.counts(removed))


def macs(
    config: ConfigDict, variables: Mapping[str, Any], layout: Layout
) -> Callable[[Removed], int]:
    """Multiply-adds of the head, on the canvas of `layout`.

    Raises:
      ValueError: the head is neither RetinaNet's nor SSD's.
    """
    kind, head = surgery.head_of(config), config.detector.model.head
    params = variables["params"]["head"]
    if kind == surgery.PER_LEVEL:
        names = [f"class{level}" for level in range(len(layout.cells))]
        channels = [params[name]["kernel"].shape[2] if name in params else 0 for name in names]
        outputs = int(head.num_classes) + 1 + 4
        return lambda removed: costs.ssd_macs(
            layout.cells, layout.counts(removed), channels=channels, outputs=outputs
        )
    first = params["class_tower"]["conv0"] if head.depth else params["class_output"]
    return lambda removed: costs.shared_head_macs(
        layout.cells,
        layout.counts(removed),
        outputs=int(head.num_classes) + 4 + (head.get("quality", None) is not None),
        depth=head.depth,
        width=head.width,
        channels=first["kernel"].shape[2],
    )


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
