"""Tracks the assignments on a fixed set of images at every evaluation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import diagnostics, inference
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Batch, Detector, Targets


class MatchMonitor:
    """Calls `detector.match` on the same images at every evaluation.

    Args:
      detector: whose matches are watched.
      loader: of evaluation batches; as many as hold `images` images are kept.
      images: how many to look at, at least; 0 turns the monitor off.
    """

    def __init__(self, detector: Detector, loader: Any, *, images: int) -> None:
        self._detector = detector
        self._look = jax.jit(self._seen)
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
        absent from the first one. Of detectors that predict their anchors also `best_iou_of_grid`
        and `best_iou_of_predicted` (means over objects of the largest IoU with an anchor) and
        `share_of_cells_kept`, the part of the grid where the network sees an anchor.
        """
        if not self._batches:
            return {}
        counts, positives, placed = [], [], []
        for batch in self._batches:
            found, anchors, more = self._look(variables, jax.tree.map(jnp.asarray, batch))
            found, more = jax.device_get((found, more))
            real = np.flatnonzero(np.asarray(batch.image_id) >= 0)
            placed.append({name: value[real] for name, value in more.items()})
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
        return summary | _means(placed)

    def _seen(
        self, variables: Any, batch: Batch
    ) -> tuple[Assignment, Anchors, dict[str, jax.Array]]:
        """Matches, the grid and, per image, sums over what a predicted anchor is compared with."""
        found, anchors = self._detector.match(variables, batch)
        if self._detector.place is None:
            return found, anchors, {}
        placed = self._detector.place(variables, batch)

        def best(boxes: jax.Array, valid: jax.Array, targets: Targets) -> jax.Array:
            return jnp.sum(primitives.best_iou(boxes, valid, targets))

        return (
            found,
            anchors,
            {
                "grid": jax.vmap(functools.partial(best, anchors.boxes, anchors.valid))(
                    batch.targets
                ),
                "predicted": jax.vmap(best)(placed.boxes, placed.valid, batch.targets),
                "kept": jnp.mean(placed.valid, axis=1, dtype=jnp.float32),
                "objects": jnp.sum(batch.targets.objects, axis=1, dtype=jnp.float32),
            },
        )


def _means(parts: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Over all objects, or all cells; nothing where nothing was predicted."""
    if not parts[0]:
        return {}
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    objects = max(float(whole["objects"].sum()), 1.0)
    return {
        "best_iou_of_grid": float(whole["grid"].sum()) / objects,
        "best_iou_of_predicted": float(whole["predicted"].sum()) / objects,
        "share_of_cells_kept": float(whole["kept"].mean()),
    }
