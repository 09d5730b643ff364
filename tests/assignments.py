"""Small assignment problems and their answers as one array, for the tests of single assigners."""

import jax.numpy as jnp
import numpy as np

from anchors_jax.types import Targets

NEGATIVE, IGNORED = -1, -2


def targets_of(objects, crowds=(), slots=None) -> Targets:
    """Objects, then crowds, then slots of rubbish."""
    boxes = np.concatenate([np.reshape(objects, (-1, 4)), np.reshape(crowds, (-1, 4))])
    slots = max(len(boxes), 1) if slots is None else slots
    filled = np.full((slots, 4), np.nan, np.float32)
    filled[: len(boxes)] = boxes
    index = np.arange(slots)
    return Targets(
        boxes=jnp.asarray(filled),
        labels=jnp.zeros(slots, jnp.int32),
        valid=jnp.asarray(index < len(boxes)),
        crowd=jnp.asarray(index >= len(np.reshape(objects, (-1, 4)))),
    )


def coded(assignment) -> np.ndarray:
    """Object index, NEGATIVE or IGNORED; checks that the parts agree."""
    positive, ignored = np.asarray(assignment.positive), np.asarray(assignment.ignored)
    assert not (positive & ignored).any()
    assert not np.asarray(assignment.gt)[~positive].any()
    return np.where(positive, assignment.gt, np.where(ignored, IGNORED, NEGATIVE))
