"""FreeAnchor's matching: bags by anchor IoU, confidence by the IoU of decoded boxes.

All pairs of objects and anchors are visited a few objects at a time: see `assign.primitives.fold`.
Confidences exist for a stretch of anchors at a time, with the few objects near enough to matter.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import bags
from anchors_jax import boxes as geometry
from anchors_jax.assign import frame, primitives
from anchors_jax.types import Anchors, Predicted, Targets

# Objects per step of the walk over objects.
_BLOCK = 4
# Anchors per stretch.
STRETCH = 2048
_THINNEST = 1e-3  # pixels


class Matching(NamedTuple):
    """Bags and decoded boxes of one image's objects. A constant for the gradient."""

    usable: Bool[Array, "A"]
    decoded: Float[Array, "A 4"]
    objects: Bool[Array, "G"]
    boxes: Float[Array, "G 4"]  # a box with an area also where there is no object
    labels: Int[Array, "G"]
    bag: Int[Array, "G k"]  # anchors, by decreasing IoU
    member: Bool[Array, "G k"]  # False where there are fewer anchors than places
    peak: Float[Array, "G"]  # largest IoU of a decoded box with the object
    touches: Bool[Array, "n G"]  # whether a stretch of anchors has boxes above the threshold


def matching(
    predicted: Predicted,
    anchors: Anchors,
    targets: Targets,
    *,
    bag_size: int = 50,
    iou_threshold: float = 0.6,
    mask_padding: bool = True,
    ignore_iof: float | None = 0.5,
) -> Matching:
    """What the loss needs to know before it looks at scores. Arguments as in `objective`."""
    if not mask_padding:
        anchors = anchors.replace(valid=jnp.ones(anchors.boxes.shape[0], bool))
    usable = frame.learnable(anchors, targets, ignore_iof=ignore_iof)
    thick = jnp.all(geometry.sizes(targets.boxes) >= _THINNEST, axis=-1)
    objects = targets.objects & thick & jnp.any(usable)
    boxes = jnp.where(objects[:, None], targets.boxes, jnp.asarray([[0.0, 0.0, 1.0, 1.0]]))
    bag, overlap, peaks = survey(
        anchors.boxes, predicted.boxes, usable, boxes, objects, bag_size=bag_size
    )
    return Matching(
        usable=usable,
        decoded=predicted.boxes,
        objects=objects,
        boxes=boxes,
        labels=jnp.where(objects, targets.labels, 0),
        bag=bag,
        member=overlap >= 0.0,
        peak=jnp.max(peaks, axis=1),
        touches=(peaks > iou_threshold).T,
    )


def survey(
    anchor_boxes: Float[Array, "A 4"],
    decoded: Float[Array, "A 4"],
    usable: Bool[Array, "A"],
    boxes: Float[Array, "G 4"],
    objects: Bool[Array, "G"],
    *,
    bag_size: int,
) -> tuple[Int[Array, "G k"], Float[Array, "G k"], Float[Array, "G n"]]:
    """One walk over the objects: their bags, and how well decoded boxes fit them.

    Returns:
      The usable anchors of largest IoU with each object, best first, the lower index on ties;
      their IoU, -1 where there are fewer (and in slots without an object); and the largest IoU of
      the usable decoded boxes in each stretch of anchors with the object.
    """
    count, slots = usable.shape[0], boxes.shape[0]
    size, padding = min(bag_size, count), -count % stretch(count)
    padded = jnp.pad(decoded, ((0, padding), (0, 0)))
    padded_usable = jnp.pad(usable, (0, padding))

    def rows_of(rows: Array, numbers: Array) -> tuple[Array, Array, Array]:
        del numbers
        prior = geometry.iou(rows[:, None], anchor_boxes[None])
        overlap, bag = lax.top_k(jnp.where(usable[None], prior, -1.0), size)
        now = jnp.where(padded_usable[None], geometry.iou(rows[:, None], padded[None]), -1.0)
        peaks = jnp.max(now.reshape(len(rows), -1, stretch(count)), axis=-1)
        return bag, overlap, peaks

    start = (
        jnp.zeros((slots, size), jnp.int32),
        jnp.full((slots, size), -1.0),
        jnp.full((slots, (count + padding) // stretch(count)), -1.0),
    )
    return primitives.per_object(rows_of, start, boxes, objects, block=_BLOCK)


def stretch(count: int) -> int:
    """Anchors per stretch, of `count` anchors."""
    return min(STRETCH, count)


def confidence(
    decoded: Float[Array, "a 4"],
    found: Matching,
    touching: Bool[Array, "G"],
    threshold: float,
    classes: int,
) -> Float[Array, "a K"]:
    """M of some anchors: the largest confidence over the objects of each class, 0 without one."""
    columns = jnp.arange(classes, dtype=jnp.int32)

    def body(match: Array, boxes: Array, numbers: Array, used: Array) -> Array:
        overlap = geometry.iou(boxes, decoded)
        share = bags.saturated(overlap, found.peak[numbers], threshold=threshold)
        # Without the barrier XLA would compute the overlaps once per class.
        share = lax.optimization_barrier(share)
        own = used & (found.labels[numbers] == columns)
        return jnp.maximum(match, jnp.where(own[None], share[:, None], 0.0))

    start = jnp.zeros((decoded.shape[0], classes))
    return primitives.fold(body, start, found.boxes, touching, block=1)
