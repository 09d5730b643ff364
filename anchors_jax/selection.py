"""Which anchors of an assignment are trained: all, a sample, or the hard ones.

    S. Ren, K. He, R. Girshick, J. Sun, "Faster R-CNN", NIPS 2015, arXiv:1506.01497, Section 3.1.3:
    256 anchors of an image, at most half of them positive, negatives for the rest (`drawn`).
    W. Liu et al., "SSD", ECCV 2016, Section 2.2 "Hard negative mining" (`hard_negatives`).
    A. Shrivastava, A. Gupta, R. Girshick, "Training Region-based Object Detectors with Online Hard
    Example Mining", CVPR 2016, arXiv:1604.03540 (`online`); as a rule for dense detectors in
    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Table 1d.

All share one signature, `(assignment, anchors, losses, key) -> Selection`, of one image. `losses()`
are those of every anchor, constants for the gradient; `key` is what is drawn by.

`expected` needs no random numbers: it weighs every anchor with its chance to be drawn. Sums over a
sample have the weighted sum over all anchors as their mean, and the size of the sample is the same
every time.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import nms
from anchors_jax.types import Anchors, Assignment, Selection


class Losses(NamedTuple):
    """The weighted losses of every anchor, whether it is trained or not."""

    classes: Float[Array, "A"]  # all classes together
    boxes: Float[Array, "A"]  # 0 where it is not positive


Select = Callable[[Assignment, Anchors, Callable[[], Losses], Array | None], Selection]


def everything(
    assignment: Assignment,
    anchors: Anchors,
    losses: Callable[[], Losses],
    key: Array | None,
    *,
    floor: float = 1.0,
) -> Selection:
    """All anchors that are not ignored; positives count.

    Args:
        assignment, anchors, losses, key: see above.
        floor: the least that an image adds to the divisor: 1 is MMDetection's rule for RetinaNet,
            0 the plain count.
    """
    del losses, key
    share = assignment.positive if assignment.weight is None else _of_positives(assignment)
    count = jnp.maximum(jnp.sum(share, dtype=jnp.float32), floor)
    return Selection(trained=anchors.valid & ~assignment.ignored, count=count)


def expected(
    assignment: Assignment,
    anchors: Anchors,
    losses: Callable[[], Losses],
    key: Array | None,
    *,
    number: int | None = 256,
    positive_share: float = 0.5,
) -> Selection:
    """Every anchor weighed with its chance to be in a sample, whose size counts.

    Args:
        assignment, anchors, losses, key: see above.
        number: anchors in a sample; None: all.
        positive_share: the largest part of them that may be positive.
    """
    del anchors, losses, key
    positive, negative = assignment.positive, _negative(assignment)
    if number is None:
        weight = (positive | negative).astype(jnp.float32)
        return _sample(weight, _count(positive), _count(negative))
    drawn = _sizes(positive, negative, number, positive_share)
    chance = [
        size / jnp.maximum(_count(mask), 1.0)
        for size, mask in zip(drawn, (positive, negative), strict=True)
    ]
    weight = jnp.where(positive, chance[0], jnp.where(negative, chance[1], 0.0))
    return _sample(weight, *drawn)


def drawn(
    assignment: Assignment,
    anchors: Anchors,
    losses: Callable[[], Losses],
    key: Array | None,
    *,
    number: int = 256,
    positive_share: float = 0.5,
) -> Selection:
    """A random sample: positives and negatives without replacement. Arguments as in `expected`.

    Raises:
        ValueError: there is no key to draw by.
    """
    del anchors, losses
    if key is None:
        raise ValueError("a sample is drawn, and there is no key: give the loss a Moment with one")
    positive, negative = assignment.positive, _negative(assignment)
    sizes = _sizes(positive, negative, number, positive_share)
    most = (int(number * positive_share), number)
    chosen = [
        _choose(one, mask, size, limit)
        for one, mask, size, limit in zip(
            jax.random.split(key), (positive, negative), sizes, most, strict=True
        )
    ]
    return _sample((chosen[0] | chosen[1]).astype(jnp.float32), *sizes)


def hard_negatives(
    assignment: Assignment,
    anchors: Anchors,
    losses: Callable[[], Losses],
    key: Array | None,
    *,
    per_positive: int = 3,
    floor: float = 0.0,
) -> Selection:
    """The positives and, of each image, the negatives of largest class loss; positives count.

    An image without objects teaches nothing.

    Args:
        assignment, anchors, losses, key: see above.
        per_positive: negatives for each positive of the image.
        floor: the least that an image adds to the divisor: 0 is the plain count (Caffe,
            torchvision), 1 MMDetection's rule.
    """
    del key
    positives = jnp.sum(assignment.positive, dtype=jnp.int32)
    candidates = anchors.valid & _negative(assignment)
    hard = hardest(losses().classes, candidates, per_positive * positives)
    return Selection(
        trained=assignment.positive | hard,
        count=jnp.maximum(positives.astype(jnp.float32), floor),
        signals={"hard_negatives": _count(hard)},
    )


def online(
    assignment: Assignment,
    anchors: Anchors,
    losses: Callable[[], Losses],
    key: Array | None,
    *,
    number: int = 128,
    iou_threshold: float = 0.7,
    negatives_per_positive: int | None = None,
    floor: float = 1.0,
) -> Selection:
    """The anchors with the largest losses among those that non-maximum suppression by loss leaves.

    Suppression keeps neighbours, whose losses are nearly the same, from counting many times. It is
    exact and takes `number` passes over all anchors. All chosen ones count, positive or not (the
    divisor of Fast R-CNN's minibatch).

    Args:
        assignment, anchors, losses, key: see above.
        number: how many of an image to train, the "batch"; fewer if no more are left.
        iou_threshold: IoU strictly above this suppresses.
        negatives_per_positive: train this many negatives for each positive, so that positives are
            at most 1 / (1 + it) of `number`; positives and negatives then do not suppress each
            other, and an image without positives is not trained. None: whatever is hardest.
        floor: the least that an image adds to the divisor.
    """
    del key
    candidates, positive = anchors.valid & ~assignment.ignored, assignment.positive
    found = losses()
    both = found.classes + found.boxes
    apart = functools.partial(nms.nms, anchors.boxes, both, iou_threshold=iou_threshold)
    if negatives_per_positive is None:
        trained = _mask(both.shape[0], *apart(candidates, max_detections=number))
    else:
        most = number // (1 + negatives_per_positive)
        chosen, used = apart(candidates & positive, max_detections=most)
        others, room = apart(candidates & ~positive, max_detections=number - most)
        wanted = negatives_per_positive * jnp.sum(used, dtype=jnp.int32)
        room = room & (jnp.arange(room.shape[0], dtype=jnp.int32) < wanted)
        trained = _mask(both.shape[0], chosen, used) | _mask(both.shape[0], others, room)
    size = _count(trained)
    count = jnp.maximum(size, floor)
    return Selection(trained=trained, count=count, signals={"hard_examples": size})


def hardest(
    values: Float[Array, "A"], candidates: Bool[Array, "A"], count: Int[Array, ""]
) -> Bool[Array, "A"]:
    """The `count` candidates with the largest values >= 0, or all if there are fewer.

    Ties: the lower index. Finds the value of the last one bit by bit, because floats >= 0 are
    ordered as their bits are: 31 counts instead of the two sorts that a ranking takes, and many
    times faster (32 images with 8,732 anchors on two CPU cores: 20 ms against 280).
    """
    values = jnp.where(candidates, jnp.maximum(values, 0.0), -1.0)
    order = lax.bitcast_convert_type(values, jnp.int32)  # negative where not a candidate

    def refine(step: Array, least: Array) -> Array:
        higher = least | (jnp.int32(1) << (30 - step))
        return jnp.where(jnp.sum(order >= higher, dtype=jnp.int32) >= count, higher, least)

    # The largest number that `count` candidates reach, or 0: then all of them do.
    least = lax.fori_loop(0, 31, refine, jnp.int32(0))
    above, tied = order > least, order == least
    room = count - jnp.sum(above, dtype=jnp.int32)
    return above | (tied & (jnp.cumsum(tied, dtype=jnp.int32) <= room))


def _sample(weight: Array, positives: Array, negatives: Array) -> Selection:
    """Divided by its size, as the references count it: at least one of each kind."""
    count = jnp.maximum(positives, 1.0) + jnp.maximum(negatives, 1.0)
    return Selection(trained=weight > 0.0, count=count, weight=weight)


def _choose(key: Array, mask: Bool[Array, "A"], size: Array, limit: int) -> Bool[Array, "A"]:
    """`size` <= `limit` random members of a set that has at least as many."""
    order = jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0)
    _, index = lax.top_k(order, min(limit, mask.shape[0]))
    used = jnp.arange(index.shape[0]) < size
    return jnp.zeros_like(mask).at[index].set(used)


def _sizes(
    positive: Bool[Array, "A"], negative: Bool[Array, "A"], number: int, positive_share: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    positives = jnp.minimum(_count(positive), float(int(number * positive_share)))
    return positives, jnp.minimum(_count(negative), number - positives)


def _mask(count: int, index: Array, used: Array) -> Bool[Array, "A"]:
    return jnp.zeros(count, bool).at[jnp.where(used, index, count)].set(True, mode="drop")


def _negative(assignment: Assignment) -> Bool[Array, "A"]:
    return ~assignment.positive & ~assignment.ignored


def _of_positives(assignment: Assignment) -> Float[Array, "A"]:
    return jnp.where(assignment.positive, assignment.weight, 0.0)


def _count(mask: Bool[Array, "A"]) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)
