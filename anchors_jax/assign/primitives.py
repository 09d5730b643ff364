"""What assigners share: walking over the objects of an image in blocks, and crowd regions.

An [A, G] matrix of overlaps is 80 MB for 201,600 anchors and 100 slots. Assigners reduce it over
one axis or the other, so they see it one block of rows at a time, [block, A], and only as many
blocks as the image has objects: empty slots cost nothing and nothing retraces with their number.
"""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry
from anchors_jax.types import Targets

Carry = TypeVar("Carry")


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


def in_crowd(
    boxes: Float[Array, "A 4"], targets: Targets, *, ignore_iof: float, block: int = 4
) -> Bool[Array, "A"]:
    """Boxes with more than `ignore_iof` of their own area inside one crowd region."""

    def body(found: Array, crowds: Array, slots: Int[Array, "b"], used: Array) -> Array:
        del slots
        share = geometry.iof(boxes[None], crowds[:, None])
        return found | jnp.any((share > ignore_iof) & used[:, None], axis=0)

    none = jnp.zeros(boxes.shape[0], bool)
    return fold(body, none, targets.boxes, targets.valid & targets.crowd, block=block)
