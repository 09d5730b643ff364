"""Small problems for FreeAnchor, and its terms and gradients of one image."""

import functools
from typing import NamedTuple

import assignments
import jax
import jax.numpy as jnp
import numpy as np
from assignments import anchors_of

from anchors_jax import codecs, losses, train
from anchors_jax.objectives import bag_matching, dense, freeanchor, terms
from anchors_jax.types import DensePredictions

STDS = (0.1, 0.1, 0.2, 0.2)

targets_of = functools.partial(assignments.targets_of, slots=4)


def said(probabilities, deltas=None):
    p = jnp.asarray(probabilities, jnp.float32)
    codes = jnp.zeros((len(p), 4)) if deltas is None else jnp.asarray(deltas, jnp.float32)
    return DensePredictions(logits=jnp.log(p) - jnp.log1p(-p), codes=codes, maps=((1, len(p)),))


def confidence_of(prediction, anchors, target, *, threshold=0.6, classes, stds=STDS):
    """M [A, K] of one image, in one piece."""
    codec = codecs.deltas(stds=tuple(stds))
    found = bag_matching.matching(
        dense.predicted(prediction, anchors, codec=codec),
        anchors,
        target,
        iou_threshold=threshold,
        mask_padding=False,
    )
    return bag_matching.confidence(found.decoded, found, found.objects, threshold, classes)


def regress_of(*, stds=STDS, beta=0.11, weight=0.75):
    """Smooth L1 on codes; the paper's by default."""
    return terms.on_codes(
        codec=codecs.deltas(stds=tuple(stds)),
        loss=functools.partial(losses.smooth_l1, beta=beta),
        weight=weight,
    )


REGRESS = regress_of()


@functools.cache
def freeanchor_with(regress=REGRESS, **keywords):
    return freeanchor.objective(regress=regress, **keywords)


class Result(NamedTuple):
    """Terms of one image, divided as a group of its own; gradients of each of them."""

    values: dict
    statistics: dict
    slopes: dict
    terms: dict


@functools.partial(jax.jit, static_argnums=0)
def evaluate(objective, predictions, anchors, targets):
    def run(predictions):
        terms, statistics = objective.loss(predictions, anchors, targets)
        values = train.divide(jax.tree.map(lambda x: x[None], terms), group=1)
        return values, (terms, statistics)

    values, pull, (terms, statistics) = jax.vjp(run, predictions, has_aux=True)
    slopes = {}
    for name in values:
        slopes[name] = pull({other: jnp.float32(other == name) for other in values})[0]
    return Result(values, statistics, slopes, terms)


def assert_close(got, want, *, rtol=1e-5, atol=1e-7):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


ANCHORS = [
    [0, 0, 16, 16], [4, 4, 20, 20], [8, 0, 24, 16], [32, 32, 64, 64], [30, 30, 62, 62],
    [0, 40, 16, 56],
]  # fmt: skip
OBJECTS = [[2, 2, 18, 18], [32, 32, 60, 60], [6, 0, 22, 16]]
SCORES = [
    (0.6, 0.1, 0.1), (0.3, 0.2, 0.1), (0.5, 0.1, 0.2), (0.1, 0.1, 0.7), (0.1, 0.05, 0.4),
    (0.2, 0.1, 0.1),
]  # fmt: skip
DELTAS = [[0.0] * 4] * 3 + [[-0.5] * 4] + [[0.0] * 4] * 2


def miniature(**keywords):
    return (
        said(SCORES, DELTAS),
        anchors_of(ANCHORS),
        targets_of(OBJECTS, labels=(0, 2, 0), **keywords),
    )
