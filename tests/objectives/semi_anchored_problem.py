"""A small problem for the Semi-Anchored objective: one level of 2 x 3 cells, three anchors each."""

import functools

import assignments
import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import anchors as make
from anchors_jax import codecs, losses
from anchors_jax.assign import max_iou
from anchors_jax.objectives import locations, semi_anchored, terms
from anchors_jax.types import SemiAnchoredPredictions

targets_of = functools.partial(assignments.targets_of, slots=4)

# One level of 2 x 3 cells of 16 pixels with three anchors each: 16 x 16, 32 x 32 and 64 x 16.
MAPS = ((2, 3),)
SHAPES = make.explicit(sizes=(((16, 16), (32, 32), (64, 16)),))
ANCHORS = make.grid(SHAPES, maps=MAPS, strides=(16,))
CODEC = codecs.deltas()


def predictions(seed=0, *, shapes=3, classes=2, cells=6):
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return SemiAnchoredPredictions(
        logits=leaf(cells, classes),
        anchor_logits=leaf(cells, shapes),
        codes=0.1 * leaf(cells, shapes, 4),
        maps=MAPS,
    )


by_max_iou = functools.partial(locations.by_anchors, assign=max_iou.assign)
label = jax.jit(by_max_iou)


def parts(codec):
    """Classes and boxes as in the paper."""
    return {
        "classify": terms.sigmoid(loss=functools.partial(losses.focal, gamma=1.0)),
        "regress": terms.on_boxes(
            codec=codec, loss=functools.partial(losses.iou, form="log"), weight=2.0
        ),
    }


def plain(**choice):
    choose = functools.partial(semi_anchored.choose, **choice)
    return semi_anchored.objective(label=by_max_iou, **parts(CODEC), choose=choose)


# 14 x 14 in the first cell, 34 x 30 over the last one.
TWO = targets_of([[1, 1, 15, 15], [24, 8, 58, 38]], labels=[1, 0])


# One program for most tests: only shapes make another.
loss = jax.jit(plain().loss)


@functools.partial(jax.jit, static_argnames=("top_k", "min_score", "key"))
def decode(predictions, anchors=ANCHORS, **keywords):
    return plain(**keywords).decode(predictions, anchors, jnp.asarray([32, 48]))
