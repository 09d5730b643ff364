"""Labels of locations, for heads that classify cells and regress the anchors of each.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection".

A location i has K anchors with labels y_ik before regression, from any assigner. Its share of
class c is s_i[c] = #{k : y_ik = c} / K, and its label (section "Location Classification")

    Eqn 1    argmax_c s^_i[c] with s^_i = gamma s_i[0] for background and (1 - gamma) s_i[c]
    Eqn 4    background where no anchor is positive, else the most frequent class; the default,
             and equal to Eqn 1 for gamma < 1 / K (Proposition 1)

The paper leaves open: anchors that are neither positive nor background count in no column; ties go
to the foreground, then to the lower class; a location with such anchors and no positive one is
ignored (`ignore_between`); which anchors of a positive location regress, and to which object
(`regress`).

Levels may have different numbers of anchors per cell (SSD): S is the largest, and the rows [S] of
other cells end in padding, of which nothing is ever said.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import anchors as grids
from anchors_jax import boxes as geometry
from anchors_jax.assign import frame
from anchors_jax.types import END, Anchors, Assignment, LocationAssignment, Targets

# Positive locations per step of `best_of_class`.
_BLOCK = 64


def by_anchors(
    anchors: Anchors,
    targets: Targets,
    *,
    assign: Callable[..., Assignment],
    gamma: float | None = None,
    ignore_between: bool = True,
    regress: Literal["prior_positive", "all_at_positive"] = "prior_positive",
    ignore_iof: float | None = 0.5,
    step: Int[Array, ""] | int = END.step,
) -> LocationAssignment:
    """Each location takes the most frequent label of its anchors.

    Args:
        anchors: a grid with at least one shape on every level.
        targets: G slots.
        assign: (anchors, targets) -> Assignment, the anchors' labels before regression; the paper
            takes max-IoU with thresholds 0.5 and 0.4.
        gamma: weight of background in Eqn 1, in 0..1, or None for Eqn 4. Compared in integers as
            the nearest fraction with a denominator up to a million: 0.2 is a fifth.
        ignore_between: leave out of the class loss locations without positive anchors but with
            some that are neither positive nor background. False: they are background, unless an
            anchor lies in a crowd region.
        regress: "prior_positive": the positive anchors of a positive location, each to its own
            object, of whatever class. "all_at_positive": all anchors of a positive location, each
            to the object of the location's class with which it has the largest IoU.
        ignore_iof, step: as `frame.assigned`.

    Raises:
        ValueError: a level has no shapes; or gamma lies outside 0..1.
    """
    cells = cells_of(anchors)
    found = frame.assigned(assign, anchors, targets, step=step, ignore_iof=ignore_iof)
    gt, prior, ignored = (
        cells.rows(values) for values in (found.gt, found.positive, found.ignored)
    )
    prior = cells.members(prior)
    classes = jnp.where(prior, targets.labels[gt], -1)
    label, votes = most_frequent(classes)
    positive = votes > 0
    if gamma is not None:
        background = jnp.sum(cells.members(~prior & ~ignored), axis=1, dtype=jnp.int32)
        positive &= _outweighs(votes, background, gamma)
    left_out = ignored
    if not ignore_between:
        left_out = ~cells.rows(frame.learnable(anchors, targets, ignore_iof=ignore_iof))
    regressed = prior & positive[:, None]
    if regress == "all_at_positive":
        boxes = cells.rows(anchors.boxes)
        _, gt = best_of_class(lambda part: boxes[part], label, positive, targets, cells.shapes)
        regressed = cells.members(positive[:, None])
    return LocationAssignment(
        label=jnp.where(positive, label, 0),
        positive=positive,
        ignored=(votes == 0) & jnp.any(left_out, axis=1),
        gt=jnp.where(regressed, gt, 0),
        regressed=regressed,
        prior=positive[:, None] & (classes == label[:, None]),
    )


def by_centres(
    anchors: Anchors,
    targets: Targets,
    *,
    assign: Callable[..., Assignment],
    prior_iou: float = 0.5,
    ignore_iof: float | None = 0.5,
    step: Int[Array, ""] | int = END.step,
) -> LocationAssignment:
    """Locations labelled without anchors, by their centres (Table 3: "FCOS", "FCOS-Shrink").

    All anchors of a positive location regress to its object.

    Args:
        anchors: a grid with at least one shape on every level.
        targets: G slots.
        assign: (locations, targets) -> Assignment over one box of the stride's size per cell, as
            a grid of `anchors.locations` has them.
        prior_iou: an anchor has its location's label before regression from this IoU on.
        ignore_iof, step: as `frame.assigned`, of the locations' boxes.

    Raises:
        ValueError: a level has no shapes.
    """
    cells = cells_of(anchors)
    maps = [(rows, columns) for rows, columns, _ in anchors.level_sizes]
    points = grids.grid(grids.locations(), maps=maps, strides=anchors.strides)
    points = points.replace(valid=cells.rows(anchors.valid).all(axis=1))
    found = frame.assigned(assign, points, targets, step=step, ignore_iof=ignore_iof)
    objects = jnp.where(found.positive[:, None], targets.boxes[found.gt], 0.0)
    overlap = geometry.iou(cells.rows(anchors.boxes), objects[:, None])
    positive = cells.members(found.positive[:, None])
    return LocationAssignment(
        label=jnp.where(found.positive, targets.labels[found.gt], 0),
        positive=found.positive,
        ignored=found.ignored,
        gt=jnp.where(positive, found.gt[:, None], 0),
        regressed=positive,
        prior=positive & (overlap >= prior_iou),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cells:
    """How the anchors of a grid lie in rows, one per cell. All of it is known while tracing.

    Padding stands for the first anchor of its cell, so that whatever is computed with its box is
    as safe as with any other.
    """

    anchor: Int[np.ndarray, "P S"]
    real: Bool[np.ndarray, "P S"]  # False: padding

    @property
    def shapes(self) -> int:
        """S, the largest number of anchors per cell."""
        return self.real.shape[1]

    @property
    def padded(self) -> bool:
        """Whether levels differ in their number of anchors per cell."""
        return not bool(self.real.all())

    def rows(self, values: Array) -> Array:
        """[A, ...] -> [P, S, ...]."""
        if self.padded:
            return values[self.anchor]
        return values.reshape(*self.anchor.shape, *values.shape[1:])

    def members(self, mask: Array) -> Array:
        """The mask [P, S] or [P, 1] as [P, S], False in the padding."""
        mask = jnp.broadcast_to(mask, self.anchor.shape)
        return mask & self.real if self.padded else mask

    def flat(self, rows: Array) -> Array:
        """[P, S, ...] -> [A, ...], without the padding."""
        values = rows.reshape(-1, *rows.shape[2:])
        return values[np.flatnonzero(self.real)] if self.padded else values


def cells_of(anchors: Anchors) -> Cells:
    """The anchors of a grid by cell.

    Raises:
        ValueError: a level has no anchors: nothing could be said about its cells.
    """
    counts = [shapes for _, _, shapes in anchors.level_sizes]
    if not all(counts):
        raise ValueError(f"locations need at least one anchor on every level, not {counts}")
    per_cell = np.repeat(counts, [rows * columns for rows, columns, _ in anchors.level_sizes])
    slot = np.arange(max(counts), dtype=np.int32)
    first = np.cumsum(per_cell) - per_cell
    real = slot[None] < per_cell[:, None]
    anchor = np.where(real, first[:, None] + slot[None], first[:, None])
    return Cells(anchor=anchor.astype(np.int32), real=real)


def most_frequent(classes: Int[Array, "P S"]) -> tuple[Int[Array, "P"], Int[Array, "P"]]:
    """The most frequent class >= 0 of each row and its count; the lower class on ties.

    Rows without a class give (0, 0). No [P, K] table of counts is made.
    """
    shapes = classes.shape[1]

    def count(index: Array, votes: Array) -> Array:
        one = lax.dynamic_slice_in_dim(classes, index, 1, axis=1)
        return votes + (classes == one)

    votes = lax.fori_loop(0, shapes, count, jnp.zeros(classes.shape, jnp.int32))
    votes = jnp.where(classes >= 0, votes, 0)
    most = jnp.max(votes, axis=1)
    nothing = jnp.iinfo(classes.dtype).max
    winner = jnp.min(jnp.where((votes == most[:, None]) & (votes > 0), classes, nothing), axis=1)
    return jnp.where(most > 0, winner, 0), most


def best_of_class(
    boxes_of: Callable[[Array], Array],
    label: Int[Array, "P"],
    chosen: Bool[Array, "P"],
    targets: Targets,
    shapes: int,
) -> tuple[Float[Array, "P S"], Int[Array, "P S"]]:
    """The largest IoU of each box with an object of its cell's class, and whose it is.

    Visits the chosen cells in blocks: the others cost nothing, and their boxes are never made.

    Args:
        boxes_of: (cells [n]) -> boxes [n, S, 4].
        label: class of each cell.
        chosen: cells to visit.
        targets: G slots.
        shapes: boxes per cell, S.

    Returns:
        IoUs and slots; both 0 where the cell is not chosen or no object has its class.
    """
    cells = chosen.shape[0]
    nothing = jnp.zeros((cells, shapes), jnp.float32), jnp.zeros((cells, shapes), jnp.int32)
    if targets.valid.shape[0] == 0:
        return nothing
    # Cells beyond the last stand for nothing: they are read as the last one, and not written.
    order = jnp.argsort(~chosen, stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -cells % _BLOCK), constant_values=cells)
    count = jnp.sum(chosen, dtype=jnp.int32)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, iou, gt = state
        block = lax.dynamic_slice_in_dim(order, start, _BLOCK)
        overlap = geometry.iou(boxes_of(block)[:, None], targets.boxes[None, :, None])
        same = (targets.labels[None] == label[block][:, None]) & targets.objects[None]
        # Among objects of the class alone, also where none of them is met.
        overlap = jnp.where(same[..., None], overlap, -1.0)  # [block, G, S]
        best = jnp.maximum(jnp.max(overlap, axis=1), 0.0)
        slot = jnp.argmax(overlap, axis=1).astype(jnp.int32)
        iou, gt = iou.at[block].set(best, mode="drop"), gt.at[block].set(slot, mode="drop")
        return start + _BLOCK, iou, gt

    _, iou, gt = lax.while_loop(lambda s: s[0] < count, step, (jnp.int32(0), *nothing))
    return jnp.where(chosen[:, None], iou, 0.0), jnp.where(chosen[:, None], gt, 0)


def _outweighs(votes: Array, background: Array, gamma: float) -> Array:
    """(1 - gamma) votes >= gamma background, exactly."""
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma {gamma} is not between 0 and 1")
    share = Fraction(gamma).limit_denominator(1_000_000)
    foreground_weight = share.denominator - share.numerator
    return foreground_weight * votes >= share.numerator * background
