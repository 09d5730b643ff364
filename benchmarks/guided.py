"""Guided Anchoring at the size of `benchmarks/dense.py`: one anchor per location, 80 classes."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from anchors_jax.types import GuidedPredictions, Targets
from benchmarks import dense, measure


def problem(objects: int) -> tuple[GuidedPredictions, Targets]:
    """Random locations around 0 and shapes near the squares; classes, boxes, objects as there."""
    predictions, targets = dense.problem(objects, shapes=1)
    rng = np.random.default_rng(1)
    cells = predictions.logits.shape[:2]
    guided = GuidedPredictions(
        logits=predictions.logits,
        codes=predictions.codes,
        cell_logits=jnp.asarray(rng.normal(0.0, 1.0, cells), jnp.float32),
        shape_codes=jnp.asarray(rng.normal(0.0, 0.2, (*cells, 2)), jnp.float32),
        maps=predictions.maps,
    )
    return guided, targets


def guided_anchoring() -> Iterator[dict[str, Any]]:
    """Loss and gradient with 20 and 100 objects; from predictions to detections."""
    from configs import guided_anchoring as config

    detector = config.get_config("paper").detector
    for objects in (20, 100):
        call, memory = measure.compiled(dense.loss_and_gradient(detector), *problem(objects))
        name = f"guided anchoring loss+gradient, {objects} objects"
        yield {"name": name, **measure.seconds(call), **memory}
    yield dense.inference_row("guided anchoring", detector, problem(20)[0])
