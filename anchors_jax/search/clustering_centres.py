"""New centres of clusters that are not means: exact medians and medoids of very many members.

Both need "the r-th member of cluster j". It is found by counting: members per row of 128 boxes, a
running sum over the rows, then the place within one row. That costs one walk over the labels,
whatever the number of ranks, where sorting each cluster anew would cost a sort per iteration.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

ROW = 128


def nth_members(labels: Int[Array, "T b"], ranks: Int[Array, "k m"]) -> Int[Array, "k m"]:
    """Places, in labels.reshape(-1), of the members of clusters 0..k-1 with these ranks (from 0).

    A rank that a cluster does not have gives a place that means nothing.
    """
    k = ranks.shape[0]
    rows = labels.reshape(-1, ROW)
    clusters = jnp.arange(k, dtype=labels.dtype)
    counts = jnp.sum(rows[None] == clusters[:, None, None], axis=2, dtype=jnp.int32)  # [k, rows]
    ends = jnp.cumsum(counts, axis=1)

    def of_cluster(label: Array, ends: Array, counts: Array, ranks: Array) -> Array:
        row = jnp.minimum(jnp.searchsorted(ends, ranks, side="right"), ends.shape[0] - 1)
        before = ends[row] - counts[row]
        seen = jnp.cumsum(rows[row] == label, axis=1, dtype=jnp.int32)  # [m, ROW]
        column = jnp.sum(seen <= (ranks - before)[:, None], axis=1, dtype=jnp.int32)
        return row.astype(jnp.int32) * ROW + jnp.minimum(column, ROW - 1)

    return jax.vmap(of_cluster)(clusters, ends, counts, ranks)


def medians(
    values: Float[Array, "T b"], labels: Int[Array, "T b"], count: Float[Array, "k"]
) -> Float[Array, "k"]:
    """Median of each cluster, the mean of the middle two where the count is even.

    Args:
        values: ascending over all blocks.
        labels: of the same boxes in the same order.
        count: members of each cluster; 0 gives some finite number.
    """
    size = jnp.maximum(count.astype(jnp.int32), 1)
    middle = jnp.stack([(size - 1) // 2, size // 2], axis=1)
    return jnp.mean(values.reshape(-1)[nth_members(labels, middle)], axis=1)


def medoids(
    key: Array,
    blocks: Float[Array, "T 2 b"],
    labels: Int[Array, "T b"],
    count: Float[Array, "k"],
    *,
    distance: Callable[[Array, Array], Array],
    sample: int | None,
) -> Float[Array, "k 2"]:
    """The member of each cluster with the least sum of distances, the first of equal ones.

    Args:
        key: chooses the sample.
        blocks: boxes, sides apart.
        labels: cluster of each box; k for padding.
        count: members of each cluster; 0 gives some finite box.
        distance: elementwise, of (width, height) pairs.
        sample: members to compare, and to compare with, of each cluster; None: all.
    """
    points = blocks.transpose(0, 2, 1).reshape(-1, 2)
    if sample is None:
        return points[_exact(points, labels.reshape(-1), count.shape[0], distance)]
    size = count.astype(jnp.int32)[:, None]
    # One rank from each of `sample` equal parts: distinct, and every member is equally likely.
    jitter = jax.random.uniform(key, (count.shape[0], sample))
    parts = jnp.arange(sample, dtype=jnp.int32)[None]
    spread = ((parts + jitter) / sample * count[:, None]).astype(jnp.int32)
    ranks = jnp.where(size <= sample, parts, jnp.minimum(spread, size - 1))
    used = ranks < size
    members = points[nth_members(labels, jnp.where(used, ranks, 0))]  # [k, m, 2]
    apart = distance(members[:, :, None], members[:, None])
    cost = jnp.sum(jnp.where(used[:, None], apart, 0.0), axis=2)
    best = jnp.argmin(jnp.where(used, cost, jnp.inf), axis=1)
    return jnp.take_along_axis(members, best[:, None, None], axis=1)[:, 0]


def _exact(points: Array, labels: Array, k: int, distance: Callable) -> Int[Array, "k"]:
    """Place of the medoid of each cluster among all its members."""

    def row(part: tuple[Array, Array]) -> Array:
        box, label = part
        apart = distance(box[:, None], points[None])
        return jnp.sum(jnp.where(label[:, None] == labels[None], apart, 0.0), axis=1)

    parts = points.reshape(-1, ROW, 2), labels.reshape(-1, ROW)
    cost = lax.map(row, parts).reshape(-1)
    mine = labels[None] == jnp.arange(k, dtype=labels.dtype)[:, None]
    return jnp.argmin(jnp.where(mine, cost[None], jnp.inf), axis=1)
