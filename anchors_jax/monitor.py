"""How a method's matches change while it trains: a fixed set of images, looked at now and then."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import diagnostics, inference
from anchors_jax.types import Detector


class MatchMonitor:
    """Calls `detector.match` on the same images at every evaluation.

    Args:
      detector: whose matches are watched.
      loader: of evaluation batches; as many as hold `images` images are kept.
      images: how many to look at, at least; 0 turns the monitor off.
    """

    def __init__(self, detector: Detector, loader: Any, *, images: int) -> None:
        self._match = jax.jit(detector.match)
        self._before = None
        self._batches = []
        for arrays in loader if images else ():
            self._batches.append(inference.as_batch(arrays))
            if sum(inference.count_images(kept) for kept in self._batches) >= images:
                break
        loader.close()

    def __call__(self, variables: Any) -> dict[str, float]:
        """Positives per object, by level and size, objects without any, and what has changed.

        `changed` is 1 - intersection / union of the positives with those of the last call; it is
        absent from the first one.
        """
        if not self._batches:
            return {}
        counts, positives = [], []
        for batch in self._batches:
            found, anchors = self._match(variables, jax.tree.map(jnp.asarray, batch))
            found = jax.device_get(found)
            real = np.flatnonzero(np.asarray(batch.image_id) >= 0)
            positives.append(found.positive[real].reshape(-1))
            counts += [
                diagnostics.count_positives(
                    found.gt[image],
                    found.positive[image],
                    np.asarray(batch.targets.boxes[image]),
                    np.asarray(batch.targets.objects[image]),
                    anchors.level_counts,
                )
                for image in real
            ]
        summary = diagnostics.summarise(diagnostics.merge(counts))
        now = np.concatenate(positives)
        if self._before is not None:
            summary["changed"] = 1.0 - diagnostics.overlap(now, self._before)
        self._before = now
        return summary
