"""First centres of clusters by k-means++.

D. Arthur, S. Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int


def paired_iou(
    w: Float[Array, "*#n"], h: Float[Array, "*#n"], cw: Float[Array, "*#n"], ch: Float[Array, "*#n"]
) -> Float[Array, "*#n"]:
    """IoU in 0..1 of boxes (w, h) and (cw, ch) that share a centre, elementwise."""
    shared = jnp.minimum(w, cw) * jnp.minimum(h, ch)
    return shared / jnp.maximum(w * h + cw * ch - shared, 1e-12)


@functools.partial(jax.jit, static_argnames="k")
def spread(
    keys: Array,
    blocks: Float[Array, "T 2 b"],
    weight: Float[Array, "T b"],
    count: Int[Array, ""] | int,
    *,
    k: int,
) -> Float[Array, "R k 2"]:
    """k boxes per key, each next one drawn in proportion to its squared distance to those before.

    The distance is 1 - IoU to the nearest of them.

    Args:
        keys: one per restart.
        blocks: boxes, sides apart.
        weight: 1 for a box, 0 for padding.
        count: boxes; they come before the padding.
        k: how many to draw. A box occurs twice only where there are fewer than k distinct ones.
    """
    size = blocks.shape[2]

    def pick(place: Array) -> Array:
        return blocks[place // size, :, place % size]

    def one(key: Array) -> Array:
        uniform = jax.random.uniform(key, (k,))

        def add(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            mass, centres = state
            new = pick(_draw(mass, uniform[number], count))
            apart = (1.0 - paired_iou(blocks[:, 0], blocks[:, 1], new[0], new[1])) * weight
            return jnp.minimum(mass, jnp.square(apart)), centres.at[number].set(new)

        return lax.fori_loop(0, k, add, (weight, jnp.zeros((k, 2))))[1]

    return jax.vmap(one)(keys)


def _draw(mass: Float[Array, "T b"], uniform: Array, count: Array | int) -> Int[Array, ""]:
    """A place drawn in proportion to its mass; any of the first `count` where all mass is 0."""
    rows = jnp.sum(mass, axis=1)
    ends = jnp.cumsum(rows)
    at = uniform * ends[-1]
    row = jnp.searchsorted(ends, at, side="right")
    # Rounding may point beyond the end, or at a row without mass: then the heaviest one.
    row = jnp.minimum(row, rows.shape[0] - 1)
    row = jnp.where(rows[row] > 0, row, jnp.argmax(rows))
    inside = jnp.cumsum(mass[row])
    column = jnp.searchsorted(inside, at - (ends[row] - rows[row]), side="right")
    column = jnp.minimum(column, mass.shape[1] - 1)
    column = jnp.where(mass[row, column] > 0, column, jnp.argmax(mass[row]))
    anywhere = jnp.minimum((uniform * count).astype(jnp.int32), count - 1)
    return jnp.where(ends[-1] > 0, row * mass.shape[1] + column, anywhere)
