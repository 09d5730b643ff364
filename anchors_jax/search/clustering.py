"""Anchor shapes from data: clusters of box sizes under the distance 1 - IoU.

    J. Redmon, A. Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, arXiv:1612.08242,
    Section 2 ("Dimension Clusters").

Boxes are (width, height) that share a centre, so that

    IoU(b, c) = min(w_b, w_c) min(h_b, h_c) / (w_b h_b + w_c h_c - shared),    d = 1 - IoU.

Lloyd's iteration: every box joins the nearest centre (the first of equally near ones), then every
centre becomes the mean (k-means), the median (k-medians) of its members in each coordinate, or the
member with the least sum of distances to the others (k-medoids). The mean does not minimise the sum
of distances, so the average may get worse: the best centres seen are kept. An iteration ends when
the centres rest, when the average distance fell by less than `tolerance` of itself, or after
`max_iter` steps. Of several restarts the one with the largest average IoU counts.

Data are walked in blocks: nothing of the size boxes x clusters is ever held.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from anchors_jax.search import clustering_centres as centres_of
from anchors_jax.search import clustering_seeds
from anchors_jax.search.clustering_seeds import paired_iou

Method = Literal["kmeans", "kmedians", "kmedoids"]
Init = Literal["kmeans++", "samples"]
# 860,000 boxes, 9 clusters, CPU time of an iteration: 25 ms with blocks of 2,048, 22 with 8,192, 38
# with 32,768.
_BLOCK = 8192
_LEAST = 1024


class Clusters(NamedTuple):
    """k shapes by ascending area, and how well they fit."""

    shapes: Float[np.ndarray, "k 2"]  # width, height
    label: Int[np.ndarray, "n"]  # the shape of each box
    iou: Float[np.ndarray, "n"]  # of each box with its shape
    restarts: Float[np.ndarray, "R"]  # average IoU that each restart reached
    iterations: Int[np.ndarray, "R"]

    @property
    def average_iou(self) -> float:
        """Mean over the boxes of the largest IoU with a shape."""
        return float(self.iou.mean(dtype=np.float64))


class _Options(NamedTuple):
    """Static settings of a run."""

    method: str
    move_empty: bool
    medoid_sample: int | None


def cluster(
    wh: Float[np.ndarray, "n 2"],
    *,
    k: int = 9,
    method: Method = "kmeans",
    init: Init = "kmeans++",
    restarts: int = 10,
    seed: int = 0,
    max_iter: int = 300,
    tolerance: float = 1e-3,
    move_empty: bool = False,
    medoid_sample: int | None = 100,
) -> Clusters:
    """Cluster box sizes; the same arguments give the same shapes.

    Args:
      wh: width and height of n boxes, in any unit; positive.
      k: clusters; 5 in YOLOv2, 9 in YOLOv3.
      method: what a centre becomes: "kmeans", "kmedians" or "kmedoids".
      init: first centres: "kmeans++" (each next one drawn in proportion to the squared distance
        to those before it) or "samples" (k distinct boxes at random).
      restarts: runs from different first centres.
      seed: of all random choices.
      max_iter: iterations of one run at most.
      tolerance: a run ends when the average distance falls by at most this share; a rise does not
        end it.
      move_empty: an empty cluster goes to the box that is farthest from its centre (one cluster per
        iteration); False: it stays where it was.
      medoid_sample: k-medoids compares so many members of each cluster, spread at random over
        them; None: all members, n^2 distances.

    Raises:
      ValueError: no box, a side that is not positive and finite, k not in 1..n, or an unknown word.
    """
    wh = np.asarray(wh, np.float32).reshape(-1, 2)
    _check(wh, k, method, init, restarts)
    blocks, weight = _blocks(wh)
    keys = jax.random.split(jax.random.key(seed), 2 * restarts).reshape(2, restarts)
    if init == "samples":
        rng = np.random.default_rng(seed)
        first = np.stack([wh[rng.choice(len(wh), k, replace=False)] for _ in range(restarts)])
        first = jnp.asarray(first)
    else:
        first = clustering_seeds.spread(keys[0], blocks, weight, len(wh), k=k)
    options = _Options(method, move_empty, medoid_sample)
    limits = jnp.asarray(max_iter, jnp.int32), jnp.asarray(tolerance, jnp.float32)
    ordered = _in_order_of_sides(wh) if method == "kmedians" else (blocks, weight) * 2
    found, distance, steps = _run(keys[1], first, blocks, weight, ordered, limits, options=options)
    found, distance = np.asarray(found), np.asarray(distance)
    shapes = found[np.argmin(distance)]
    shapes = shapes[np.lexsort((shapes[:, 0], shapes.prod(1)))]
    iou, label = best_overlap(wh, shapes)
    return Clusters(shapes, label, iou, 1.0 - distance, np.asarray(steps))


def best_overlap(
    wh: Float[np.ndarray, "n 2"], shapes: Float[np.ndarray, "k 2"]
) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Largest IoU of each box with a shape that shares its centre, and that shape."""
    if not len(wh):
        return np.zeros(0, np.float32), np.zeros(0, np.int64)
    wh = np.asarray(wh, np.float32).reshape(-1, 2)
    blocks, _ = _blocks(wh)
    iou, label = _labels(blocks, jnp.asarray(shapes, jnp.float32))
    return np.asarray(iou).reshape(-1)[: len(wh)], np.asarray(label).reshape(-1)[: len(wh)]


def _check(wh: np.ndarray, k: int, method: str, init: str, restarts: int) -> None:
    for word, known in ((method, Method), (init, Init)):
        if word not in known.__args__:
            raise ValueError(f"{word!r} is not one of {', '.join(known.__args__)}")
    good = np.isfinite(wh).all(1) & (wh > 0).all(1)
    if not good.all():
        n = int(np.argmin(good))
        raise ValueError(f"box {n} has the sides {wh[n].tolist()}: they must be positive")
    if not 1 <= k <= len(wh):
        raise ValueError(f"k = {k} clusters of {len(wh)} boxes")
    if restarts < 1:
        raise ValueError(f"restarts = {restarts}: at least one is needed")


def _blocks(wh: np.ndarray) -> tuple[Float[Array, "T 2 b"], Float[Array, "T b"]]:
    """Boxes in blocks, sides apart, and 1 for a box, 0 for padding."""
    # Small sets share one program, whatever their size.
    block = min(_BLOCK, max(_LEAST, 1 << (len(wh) - 1).bit_length()))
    padding = -len(wh) % block
    padded = np.pad(wh, ((0, padding), (0, 0)), constant_values=1.0)
    weight = np.pad(np.ones(len(wh), np.float32), (0, padding))
    return (
        jnp.asarray(padded.reshape(-1, block, 2).transpose(0, 2, 1)),
        jnp.asarray(weight.reshape(-1, block)),
    )


def _in_order_of_sides(wh: np.ndarray) -> tuple[Array, ...]:
    """Blocks by ascending width and by ascending height, each with its weights."""
    by_width, by_height = (wh[np.argsort(wh[:, side], kind="stable")] for side in (0, 1))
    return *_blocks(by_width), *_blocks(by_height)


@jax.jit
def _labels(blocks: Array, centres: Array) -> tuple[Float[Array, "T b"], Int[Array, "T b"]]:
    """IoU with the nearest centre and its index, the first of equally near ones."""

    def block(sides: Array) -> tuple[Array, Array]:
        overlap = paired_iou(sides[:1], sides[1:], centres[:, :1], centres[:, 1:])  # [k, b]
        best = jnp.max(overlap, axis=0)
        return best, _first(overlap == best[None])

    return lax.map(block, blocks)


def _first(mask: Array) -> Array:
    """Row of the first True of each column; much faster than argmax on a CPU."""
    rows = jnp.arange(mask.shape[0], dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(mask, rows, mask.shape[0] - 1), axis=0)


class _Sums(NamedTuple):
    """What one walk over the data finds out about centres."""

    sides: Array  # [k, 2] sum over the members
    count: Array  # [k]
    distance: Array  # [] sum over all boxes
    farthest: Array  # [] largest distance
    box: Array  # [2] the box that has it


def _survey(blocks: Array, weight: Array, centres: Array) -> _Sums:
    k = centres.shape[0]
    clusters = jnp.arange(k, dtype=jnp.int32)[:, None]

    def step(sums: _Sums, part: tuple[Array, Array]) -> tuple[_Sums, None]:
        sides, real = part
        overlap = paired_iou(sides[:1], sides[1:], centres[:, :1], centres[:, 1:])
        best = jnp.max(overlap, axis=0)
        member = (_first(overlap == best[None])[None] == clusters) * real[None]
        totals = member @ jnp.concatenate([sides, jnp.ones_like(sides[:1])]).T
        away = (1.0 - best) * real
        place = jnp.argmax(away)
        farther = away[place] > sums.farthest
        return _Sums(
            sums.sides + totals[:, :2],
            sums.count + totals[:, 2],
            sums.distance + jnp.sum(away),
            jnp.where(farther, away[place], sums.farthest),
            jnp.where(farther, sides[:, place], sums.box),
        ), None

    zero = jnp.zeros(())
    start = _Sums(jnp.zeros((k, 2)), jnp.zeros(k), zero, zero, jnp.ones(2))
    return lax.scan(step, start, (blocks, weight))[0]


class _State(NamedTuple):
    step: Array
    done: Array
    centres: Array  # [k, 2] to be looked at next
    distance: Array  # average of the centres before
    best: Array  # [k, 2]
    best_distance: Array
    key: Array


@functools.partial(jax.jit, static_argnames="options")
def _run(
    keys: Array,
    first: Float[Array, "R k 2"],
    blocks: Array,
    weight: Array,
    ordered: tuple[Array, ...],
    limits: tuple[Array, Array],
    *,
    options: _Options,
) -> tuple[Float[Array, "R k 2"], Float[Array, "R"], Int[Array, "R"]]:
    """Best centres, their average distance and the iterations of every restart."""
    total = jnp.sum(weight)
    max_iter, tolerance = limits

    def update(state: _State, sums: _Sums, key: Array) -> Array:
        full = (sums.count > 0)[:, None]
        if options.method == "kmeans":
            new = sums.sides / jnp.maximum(sums.count, 1.0)[:, None]
        elif options.method == "kmedians":
            by_width, real_w, by_height, real_h = ordered
            halves = [
                centres_of.medians(side[:, axis], _members(side, real, state.centres), sums.count)
                for axis, (side, real) in enumerate(((by_width, real_w), (by_height, real_h)))
            ]
            new = jnp.stack(halves, -1)
        else:
            labels = _members(blocks, weight, state.centres)
            new = centres_of.medoids(
                key, blocks, labels, sums.count, distance=_apart, sample=options.medoid_sample
            )
        new = jnp.where(full, new, state.centres)
        if options.move_empty:
            empty = ~full[:, 0] & (sums.farthest > 0.0)
            chosen = empty & (jnp.cumsum(empty) == 1)
            new = jnp.where(chosen[:, None], sums.box[None], new)
        return new

    def body(state: _State) -> _State:
        key, now = jax.random.split(state.key)
        sums = _survey(blocks, weight, state.centres)
        distance = sums.distance / total
        better = distance < state.best_distance
        new = update(state, sums, now)
        slow = (distance <= state.distance) & (distance >= (1 - tolerance) * state.distance)
        return _State(
            state.step + 1,
            slow | jnp.all(new == state.centres),
            new,
            distance,
            jnp.where(better, state.centres, state.best),
            jnp.minimum(distance, state.best_distance),
            key,
        )

    def one(key: Array, first: Array) -> tuple[Array, Array, Array]:
        far = jnp.asarray(jnp.inf)
        start = _State(jnp.int32(0), jnp.asarray(False), first, far, first, far, key)
        end = lax.while_loop(lambda s: ~s.done & (s.step < max_iter), body, start)
        return end.best, end.best_distance, end.step

    # One after the other: mapped together, all would take as many steps as the slowest (of ten
    # restarts on 860,000 boxes 910 instead of 371).
    return lax.map(lambda part: one(*part), (keys, first))


def _members(blocks: Array, weight: Array, centres: Array) -> Int[Array, "T b"]:
    """Cluster of every box; k for padding."""
    return jnp.where(weight > 0, _labels(blocks, centres)[1], centres.shape[0])


def _apart(one: Float[Array, "*#m 2"], other: Float[Array, "*#m 2"]) -> Float[Array, "*#m"]:
    """1 - IoU, elementwise."""
    return 1.0 - paired_iou(one[..., 0], one[..., 1], other[..., 0], other[..., 1])
