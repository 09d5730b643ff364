"""What assigners share: walking over the objects of an image in blocks.

An [A, G] matrix of overlaps is 80 MB for 201,600 anchors and 100 slots. Assigners reduce it over
one axis or the other, so they see it one block of rows at a time, [block, A], and only as many
blocks as the image has objects: empty slots cost nothing and nothing retraces with their number.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry
from anchors_jax.types import Targets

Carry = TypeVar("Carry")

# Objects per step of `largest_iou`. 201,600 anchors, two images with 100 objects on two CPU cores:
# 62 ms with 1, 37 with 4, 34 with 8 (and half as much memory again), 44 with 16.
_MATCH_BLOCK = 4


def fold(
    body: Callable[[Carry, Array, Array, Array], Carry],
    carry: Carry,
    boxes: Float[Array, "G 4"],
    chosen: Bool[Array, "G"],
    *,
    block: int,
) -> Carry:
    """Carry a value over the chosen boxes, `block` of them at a time, in ascending order.

    Args:
        body: `(carry, boxes [block, 4], slots [block], used [block]) -> carry`. The last block may
            hold unused rows, whose box is all zero.
        carry: the first value.
        boxes: boxes of all slots.
        chosen: slots to visit.
        block: rows per step; the memory of a step is about block * A.
    """
    slots = boxes.shape[0]
    if slots == 0:
        return carry
    order = jnp.argsort(~chosen, stable=True).astype(jnp.int32)
    steps = -(-slots // block)
    padding = steps * block - slots
    order = jnp.pad(order, (0, padding))
    used = jnp.pad(chosen[order[:slots]], (0, padding))
    rows = jnp.where(used[:, None], boxes[order], 0.0)
    count = jnp.sum(used)

    def step(state: tuple[Array, Carry]) -> tuple[Array, Carry]:
        index, carry = state
        part = (lax.dynamic_slice_in_dim(a, index * block, block) for a in (rows, order, used))
        return index + 1, body(carry, *part)

    return lax.while_loop(lambda s: s[0] * block < count, step, (jnp.int32(0), carry))[1]


def per_object(
    body: Callable[[Array, Array], Carry],
    start: Carry,
    boxes: Float[Array, "G 4"],
    chosen: Bool[Array, "G"],
    *,
    block: int,
) -> Carry:
    """A row of values for every chosen box, found `block` of them at a time.

    Args:
        body: `(boxes [block, 4], slots [block]) -> rows`, a tree of arrays [block, ...].
        start: the same tree with rows for all slots, [G, ...]: what the others keep.
        boxes, chosen, block: as in `fold`.
    """
    slots = boxes.shape[0]

    def step(found: Carry, part: Array, numbers: Array, used: Array) -> Carry:
        at = jnp.where(used, numbers, slots)  # past the end: dropped
        return jax.tree.map(
            lambda kept, new: kept.at[at].set(new, mode="drop"), found, body(part, numbers)
        )

    return fold(step, start, boxes, chosen, block=block)


class Match(NamedTuple):
    """Each anchor's object by IoU, and the objects that claim it because they have none better."""

    iou: Float[Array, "A"]  # the largest with any object; -1 without objects
    owner: Int[Array, "A"]  # object that has it, the lowest index on ties
    claim: Int[Array, "A"]  # last object that claims the anchor, -1 if none does

    @property
    def claimed(self) -> Bool[Array, "A"]:
        """Anchors that some object claims."""
        return self.claim >= 0

    @property
    def claiming_owner(self) -> Int[Array, "A"]:
        """The claiming object where there is one, the owner elsewhere."""
        return jnp.where(self.claimed, self.claim, self.owner)


def largest_iou(
    boxes: Float[Array, "*N A 4"],
    usable: Bool[Array, "A"],
    targets: Targets,
    *,
    min_positive_iou: float = 0.0,
    match_low_quality: bool = True,
    assign_all_ties: bool = True,
    tie_tolerance: float = 1e-5,
    claim_without_overlap: bool = False,
) -> Match:
    """Match anchors to objects by their largest IoU, and objects to their best anchors.

    Args:
        boxes: of A anchors; or N boxes for each, the best of which counts.
        usable: anchors that take part; of the others nothing is said.
        targets: G slots.
        min_positive_iou: an object claims anchors only if its largest IoU reaches this.
        match_low_quality: whether objects claim anchors at all.
        assign_all_ties: claim all best anchors; False: the first one only.
        tie_tolerance: IoUs within this share of the largest count as equal to it. Anchor corners
            near 1000 px carry 6e-5 px of rounding, about 1e-5 of the IoU of the smallest anchors.
        claim_without_overlap: let an object that meets no anchor claim all anchors.
    """
    count = boxes.shape[-2]
    boxes = boxes.reshape(-1, count, 4)

    def body(state: Match, objects: Array, slots: Array, used: Array) -> Match:
        part = usable[None] & used[:, None]
        overlap = jnp.max(geometry.iou(objects[:, None, None], boxes[None]), axis=1)
        overlap = jnp.where(part, overlap, -1.0)
        top = jnp.max(overlap, axis=0)
        first = slots[jnp.argmax(overlap, axis=0)]
        owner = jnp.where(top > state.iou, first, state.owner)
        claim = state.claim
        if match_low_quality:
            peak = jnp.max(overlap, axis=1, keepdims=True)
            claims = peak >= min_positive_iou
            if not claim_without_overlap:
                claims &= peak > 0.0
            best = claims & (overlap >= peak * (1.0 - tie_tolerance)) & (overlap >= 0.0)
            if not assign_all_ties:
                best &= jnp.arange(count)[None] == jnp.argmax(best, axis=1, keepdims=True)
            # Later objects win, and later blocks hold later objects.
            last = jnp.max(jnp.where(best, slots[:, None], -1), axis=0)
            claim = jnp.where(last >= 0, last, claim)
        return Match(jnp.maximum(top, state.iou), owner, claim)

    start = Match(
        jnp.full(count, -1.0), jnp.zeros(count, jnp.int32), jnp.full(count, -1, jnp.int32)
    )
    return fold(body, start, targets.boxes, targets.objects, block=_MATCH_BLOCK)


def centre_inside(
    boxes: Float[Array, "*#n 4"], objects: Float[Array, "*#n 4"], *, margin: float
) -> Bool[Array, "*n"]:
    """Whether the centres of boxes lie more than `margin` pixels inside objects."""
    centre = geometry.to_centres(boxes)[..., :2]
    low, high = centre - objects[..., :2], objects[..., 2:] - centre
    return jnp.all(jnp.minimum(low, high) > margin, axis=-1)


def best_iou(
    boxes: Float[Array, "A 4"], usable: Bool[Array, "A"], targets: Targets
) -> Float[Array, "G"]:
    """The largest IoU of each object with a usable box; 0 for slots without an object."""

    def body(best: Array, objects: Array, slots: Array, used: Array) -> Array:
        overlap = jnp.where(usable[None], geometry.iou(objects[:, None], boxes[None]), 0.0)
        peak = jnp.where(used, jnp.max(overlap, axis=1), 0.0)
        return best.at[slots].max(peak)

    none = jnp.zeros(targets.valid.shape, jnp.float32)
    return fold(body, none, targets.boxes, targets.objects, block=_MATCH_BLOCK)
