"""FreeAnchor: each object learns from a bag of anchors; no anchor is assigned to an object.

    X. Zhang, F. Wan, C. Liu, R. Ji, Q. Ye, "FreeAnchor: Learning to Match Anchors for Visual Object
    Detection", NeurIPS 2019, arXiv:1909.02466.

Network, anchors, codes and decoding are RetinaNet's. With p_ac the score of class c at anchor a:

    positive = alpha       sum_i -log MeanMax_{a in bag_i} p_{a c_i} exp(-box_weight loc_ai) / N
    negative = (1 - alpha) sum_{a, c} q_ac^gamma * -log(1 - q_ac) / (n N),  q = p_ac (1 - M_ac)

N counts objects. bag_i holds the n anchors of largest IoU with object i, whatever that IoU; loc is
the smooth L1 of the codes, summed over four. M_ac in 0..1 says how well the decoded box of a
localises an object of class c, relative to the best box that the object gets: the best box receives
no negative loss. No gradient passes through M: the negative term never trains boxes.

Differs from the paper, as both references do: M is taken per class, not per anchor. Differs from
the references: logarithms are stable instead of clamped (`log_limit` caps them); boxes thinner than
0.001 px are no objects; anchors in the padding and in crowd regions take no part.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from anchors_jax import bags
from anchors_jax import boxes as geometry
from anchors_jax.assign import primitives
from anchors_jax.objectives import bag_matching, dense
from anchors_jax.objectives.bag_matching import Matching
from anchors_jax.objectives.terms import Regress, sigmoid
from anchors_jax.types import (
    END,
    START,
    Anchors,
    Assignment,
    DensePredictions,
    Moment,
    Objective,
    Predicted,
    Targets,
    Term,
    Terms,
)


def objective(
    *,
    regress: Regress,
    bag_size: int = 50,
    iou_threshold: float = 0.6,
    alpha: float = 0.5,
    gamma: float = 2.0,
    mask_padding: bool = True,
    ignore_iof: float | None = 0.5,
    log_limit: float | None = None,
) -> Objective:
    """FreeAnchor's objective. The defaults are the paper's (section 4.1).

    Args:
      regress: `terms.on_codes`; the paper's has the codec's stds (0.1, 0.1, 0.2, 0.2), smooth L1
        with beta 0.11 and, as its own beta, the weight 0.75.
      bag_size: n. With fewer anchors the bag is smaller, the divisor is not.
      iou_threshold: t, the IoU of a decoded box above which M grows from 0.
      alpha: weight of the positive term; 1 - alpha weighs the negative one.
      gamma: focusing exponent of the negative term.
      mask_padding: leave out anchors in the padding of the canvas. Both references take them in.
      ignore_iof: leave out anchors with more than this share of their area inside a crowd region.
        None: never, as in both references.
      log_limit: no logarithm of a loss exceeds this. The references' binary cross entropy has 100;
        in float32 a score of 1 then costs 100, without a gradient, from a logit of 17.
    """
    find = functools.partial(
        bag_matching.matching,
        bag_size=bag_size,
        iou_threshold=iou_threshold,
        mask_padding=mask_padding,
        ignore_iof=ignore_iof,
    )
    limit = float("inf") if log_limit is None else log_limit
    see = functools.partial(dense.predicted, codec=regress.codec)

    def loss(
        predictions: DensePredictions, anchors: Anchors, targets: Targets, moment: Moment = START
    ) -> tuple[Terms, dict[str, Array]]:
        found = find(see(predictions, anchors), anchors, targets)
        negative, positives, own = _read(predictions.logits, found, iou_threshold, gamma, limit)
        localisation = _box_losses(predictions.codes, anchors, found, regress, moment)
        log_p = jax.nn.log_sigmoid(own) - regress.weight * localisation
        surprise = -bags.log_mean_max(log_p, found.member)
        positive = jnp.sum(jnp.where(found.objects, jnp.minimum(surprise, limit), 0.0))
        count = jnp.sum(found.objects, dtype=jnp.float32)
        terms = {
            "positive": Term(total=alpha * positive, count=count),
            "negative": Term(total=(1.0 - alpha) * negative, count=count * bag_size),
        }
        told = statistics(found, log_p, surprise, iou_threshold=iou_threshold)
        return terms, lax.stop_gradient({**told, "positives": positives})

    return Objective(
        loss=loss,
        decode=functools.partial(dense.decode, classify=sigmoid(), codec=regress.codec),
        match=functools.partial(_match, see=see, find=find, threshold=iou_threshold),
    )


def _box_losses(
    codes: Float[Array, "A 4"],
    anchors: Anchors,
    found: Matching,
    regress: Regress,
    moment: Moment,
) -> Float[Array, "G k"]:
    """The box loss of every member of every bag with the bag's object."""
    goal = jnp.broadcast_to(found.boxes[:, None], (*found.bag.shape, 4)).reshape(-1, 4)
    bag = found.bag.reshape(-1)
    everyone = jnp.ones(bag.shape, bool)
    each = regress.loss(codes[bag], anchors.boxes[bag], goal, everyone, moment.step)
    return each.reshape(found.bag.shape)


def statistics(
    found: Matching,
    log_p: Float[Array, "G k"],
    surprise: Float[Array, "G"],
    *,
    iou_threshold: float,
) -> dict[str, Array]:
    """What the log says about one image's bags (float32 scalars).

    objects: their number. objects_without_box: those that no decoded box reaches. objects_found:
    those whose bag has a probability above 1/2. bag_entropy: mean over objects, in nats, from log n
    (all anchors of the bag learn) to 0 (one does); 0 without objects.
    """
    entropy = bags.entropy(bags.log_weights(log_p, found.member))
    count = jnp.sum(found.objects, dtype=jnp.float32)
    missed = found.objects & (found.peak <= iou_threshold)
    explained = found.objects & (surprise < math.log(2.0))
    return {
        "objects": count,
        "objects_without_box": jnp.sum(missed, dtype=jnp.float32),
        "objects_found": jnp.sum(explained, dtype=jnp.float32),
        "bag_entropy": jnp.sum(jnp.where(found.objects, entropy, 0.0)) / jnp.maximum(count, 1.0),
    }


def _match(
    predictions: DensePredictions,
    anchors: Anchors,
    targets: Targets,
    moment: Moment = END,
    *,
    see: Callable[..., Predicted],
    find: Callable[..., Matching],
    threshold: float,
) -> Assignment:
    """Positive: anchors whose match confidence M exceeds 1/2."""
    del moment
    found = find(see(predictions, anchors), anchors, targets)

    def body(state: tuple[Array, Array], boxes: Array, slots: Array, used: Array) -> Any:
        overlap = geometry.iou(boxes, found.decoded)
        share = bags.saturated(overlap, found.peak[slots], threshold=threshold)
        better = used & found.usable & (share > state[0])
        return jnp.where(better, share, state[0]), jnp.where(better, slots, state[1])

    count = found.usable.shape[0]
    start = jnp.full(count, 0.5), jnp.zeros(count, jnp.int32)
    share, gt = primitives.fold(body, start, found.boxes, found.objects, block=1)
    return Assignment(gt=gt, positive=share > 0.5, ignored=~found.usable)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _read(
    logits: Array, found: Matching, threshold: float, gamma: float, log_limit: float
) -> tuple[Array, Array, Array]:
    """Sum of the negative terms; sum of M; and the objects' own logits [G, k] in their bags.

    Both readings are one function so that their gradients are written to one [A, K] array.
    """
    negative, positives, _ = _visit(logits, found, threshold, gamma, log_limit, slopes=False)
    return negative, positives, _own_logits(logits, found)


def _read_forward(
    logits: Array, found: Matching, threshold: float, gamma: float, log_limit: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, Matching]]:
    negative, positives, slopes = _visit(logits, found, threshold, gamma, log_limit, slopes=True)
    return (negative, positives, _own_logits(logits, found)), (slopes, found)


def _read_backward(
    threshold: float,
    gamma: float,
    log_limit: float,
    kept: tuple[Array, Matching],
    cotangents: tuple[Array, Array, Array],
) -> tuple[Array, None]:
    slopes, found = kept
    gradient = (slopes * cotangents[0]).astype(slopes.dtype)
    own = cotangents[2].astype(slopes.dtype)
    return gradient.at[found.bag, found.labels[:, None]].add(own), None


_read.defvjp(_read_forward, _read_backward)


def _own_logits(logits: Array, found: Matching) -> Array:
    return logits[found.bag, found.labels[:, None]].astype(jnp.float32)


def _visit(
    logits: Array,
    found: Matching,
    threshold: float,
    gamma: float,
    log_limit: float,
    *,
    slopes: bool,
) -> tuple[Array, Array, Array | None]:
    """Walk over the anchors, a stretch at a time, with M of the stretch alone.

    Returns the sum of the negative terms, the sum of M, and the derivative of the first [A, K].
    """
    count, classes = logits.shape
    size, stretches = bag_matching.stretch(count), found.touches.shape[0]
    touches = found.touches.at[-1].set(jnp.any(found.touches[-2:], axis=0))

    def step(index: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        first = jnp.minimum(index * size, count - size)  # the last stretch overlaps the one before

        def part(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, first, size)

        usable = part(found.usable)
        fresh = usable & (first + jnp.arange(size) >= index * size)
        match = bag_matching.confidence(
            part(found.decoded), found, touches[index], threshold, classes
        )
        value, slope = bags.negative(part(logits), match, gamma=gamma, log_limit=log_limit)
        negative = state[0] + jnp.sum(value, where=fresh[:, None])
        positives = state[1] + jnp.sum(match, where=fresh[:, None])
        if not slopes:
            return negative, positives
        slope = jnp.where(usable[:, None], slope, 0.0).astype(logits.dtype)
        slope = lax.optimization_barrier(slope)  # XLA would compute what it writes on one core
        return negative, positives, lax.dynamic_update_slice_in_dim(state[2], slope, first, 0)

    zero = jnp.float32(0.0)
    state = (zero, zero, jnp.zeros_like(logits)) if slopes else (zero, zero)
    result = lax.fori_loop(0, stretches, step, state)
    return result if slopes else (*result, None)
