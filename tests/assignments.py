"""Small assignment problems and their answers as one array, for the tests of single assigners."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax.assign import frame
from anchors_jax.types import Anchors, Targets

NEGATIVE, IGNORED = -1, -2


def anchors_of(boxes, valid=None) -> Anchors:
    """One row of anchors, one per cell."""
    count = len(boxes)
    return Anchors(
        boxes=jnp.asarray(boxes, jnp.float32),
        cell=jnp.arange(count),
        shape=jnp.zeros(count, jnp.int32),
        valid=jnp.ones(count, bool) if valid is None else jnp.asarray(valid),
        level_sizes=((1, count, 1),),
        strides=((8.0, 8.0),),
    )


def targets_of(objects, crowds=(), slots=None, *, labels=(), filler=np.nan) -> Targets:
    """Objects, then crowds, then slots of rubbish (the box `filler`); `labels` are 0 otherwise."""
    boxes = np.concatenate([np.reshape(objects, (-1, 4)), np.reshape(crowds, (-1, 4))])
    slots = max(len(boxes), 1) if slots is None else slots
    filled = np.tile(np.broadcast_to(np.float32(filler), 4), (slots, 1))
    filled[: len(boxes)] = boxes
    index = np.arange(slots)
    return Targets(
        boxes=jnp.asarray(filled),
        labels=jnp.asarray(np.pad(np.asarray(labels, np.int32), (0, slots - len(labels)))),
        valid=jnp.asarray(index < len(boxes)),
        crowd=jnp.asarray(index >= len(np.reshape(objects, (-1, 4)))),
    )


def in_frame(assign):
    """An assigner as objectives run it, jitted; of its keywords `ignore_iof` is the frame's."""

    @functools.partial(jax.jit, static_argnames="keywords")
    def run(anchors, targets, keywords):
        own = dict(keywords)
        frames = {"ignore_iof": own.pop("ignore_iof")} if "ignore_iof" in own else {}
        return frame.assigned(functools.partial(assign, **own), anchors, targets, **frames)

    def assigned(anchors, targets, **keywords):
        return run(anchors, targets, tuple(keywords.items()))

    return assigned


def coded(assignment) -> np.ndarray:
    """Object index, NEGATIVE or IGNORED; checks that the parts agree."""
    positive, ignored = np.asarray(assignment.positive), np.asarray(assignment.ignored)
    assert not (positive & ignored).any()
    assert not np.asarray(assignment.gt)[~positive].any()
    return np.where(positive, assignment.gt, np.where(ignored, IGNORED, NEGATIVE))
