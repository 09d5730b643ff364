"""Centre and ignore regions of objects, on the pyramid level of their size.

    J. Wang, K. Chen, S. Yang, C. C. Loy, D. Lin, "Region Proposal by Guided Anchoring", CVPR 2019,
    arXiv:1901.03278, Section 3.5 ("Anchor location targets").

An object belongs to the level whose square anchor is nearest to its size, on a logarithmic scale.
There, the cells of its centre region R(x, y, sigma_1 w, sigma_1 h) are positive and those of its
ignore region R(x, y, sigma_2 w, sigma_2 h) are left out, as is the ignore region on the levels next
to it. All other cells are negative. Where objects overlap, centre goes before ignore goes before
outside, whatever their order.

The paper leaves open, here as in MMDetection: corners of a region are rounded to cells, half to
even, and belong to it, so that every object has a centre cell; negatives weigh 0.1. There, objects
are painted one after the other (`overlap="last"`): the ignore region of a later one takes the
weight of an earlier one's centre. A region ends where the map ends; the references move parts of
it that lie outside to the border.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from anchors_jax import boxes as geometry
from anchors_jax.types import Anchors, Targets

Number = int | float


class Regions(NamedTuple):
    """Which cells are the centre of an object, and what each weighs: 1, 0 or less than 1."""

    centre: Bool[Array, "P"]
    weight: Float[Array, "P"]


def find(
    anchors: Anchors,
    targets: Targets,
    *,
    centre: float = 0.2,
    ignore: float = 0.5,
    outside_weight: float = 0.1,
    overlap: Literal["best", "last"] = "best",
) -> Regions:
    """Targets and weights of the cells of one image; cells of the padding included.

    Args:
        anchors: one square per cell.
        targets: G slots. Objects without area have no region, nor have crowd regions.
        centre: sigma_1, side of the centre region in sides of the object.
        ignore: sigma_2, of the ignore region.
        outside_weight: of the cells outside all regions.
        overlap: where regions of objects of one level overlap, centre goes before ignore ("best",
            the paper), or the object with the higher index goes first ("last", MMDetection).

    Raises:
        ValueError: there are several anchors in a cell.
    """
    if any(shapes != 1 for _, _, shapes in anchors.level_sizes):
        raise ValueError("regions need one anchor per cell: a grid with one scale and one ratio")
    usable = targets.objects & (geometry.area(targets.boxes) > 0.0)
    boxes = jnp.where(usable[:, None], targets.boxes, 0.0)
    firsts = [0]
    for rows, columns, _ in anchors.level_sizes:
        firsts.append(firsts[-1] + rows * columns)
    squares = anchors.boxes[jnp.asarray(firsts[:-1])]
    level = _level(boxes, squares)
    found = []
    for number, (rows, columns, _) in enumerate(anchors.level_sizes):
        own = usable & (level == number)
        beside = usable & (jnp.abs(level - number) == 1)
        in_cells = _in_cells(boxes, squares[number], anchors.strides[number])
        inner = _spans(in_cells, centre, rows, columns)
        outer = _spans(in_cells, ignore, rows, columns)
        core = _any(inner, own)
        paint = _paint_best if overlap == "best" else _paint_last
        weight = paint(inner, outer, own)
        nowhere = jnp.where(_any(outer, beside), 0.0, outside_weight)
        weight = jnp.where(weight >= 0.0, weight, nowhere)
        found.append(Regions(core.reshape(-1), weight.reshape(-1)))
    return Regions(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))


def _level(boxes: Float[Array, "G 4"], squares: Float[Array, "L 4"]) -> Array:
    """floor(log2(side / side_0) + 1/2) within 0..L-1, without a logarithm of an area of 0.

    The border between two levels is the geometric mean of the sides of their squares.
    """
    side = jnp.sqrt(geometry.area(squares))
    borders = side[:-1] * side[1:]  # areas
    return jnp.sum(geometry.area(boxes)[:, None] >= borders[None], axis=1)


def _in_cells(
    boxes: Float[Array, "G 4"], first: Float[Array, "4"], stride: tuple[Number, Number]
) -> Float[Array, "G 4"]:
    """Boxes in units of cells, from the centre of the first cell: i is the centre of cell i."""
    origin = jnp.tile((first[:2] + first[2:]) * 0.5, 2)
    return (boxes - origin[None]) / jnp.asarray((stride[1], stride[0]) * 2, jnp.float32)[None]


def _spans(
    boxes: Float[Array, "G 4"], share: float, rows: int, columns: int
) -> tuple[Float[Array, "G h"], Float[Array, "G w"]]:
    """Rows and columns of the middle part of each box, as 0 and 1: a region is their product."""
    margin = (1.0 - share) / 2.0
    low, high = boxes[:, :2], boxes[:, 2:]
    first = jnp.round((1.0 - margin) * low + margin * high)
    last = jnp.round(margin * low + (1.0 - margin) * high)

    def span(axis: int, count: int) -> Array:
        index = jnp.arange(count, dtype=jnp.float32)[None]
        inside = (index >= first[:, axis, None]) & (index <= last[:, axis, None])
        return inside.astype(jnp.float32)

    return span(1, rows), span(0, columns)


def _any(spans: tuple[Array, Array], chosen: Bool[Array, "G"]) -> Bool[Array, "h w"]:
    """Cells in the region of any chosen object; no [G, h, w] is made."""
    return jnp.einsum("gy,gx->yx", jnp.where(chosen[:, None], spans[0], 0.0), spans[1]) > 0.0


def _paint_best(
    inner: tuple[Array, Array], outer: tuple[Array, Array], own: Bool[Array, "G"]
) -> Float[Array, "h w"]:
    """1 in a centre, 0 in another part of a region, -1 elsewhere."""
    return jnp.where(_any(inner, own), 1.0, jnp.where(_any(outer, own), 0.0, -1.0))


def _paint_last(
    inner: tuple[Array, Array], outer: tuple[Array, Array], own: Bool[Array, "G"]
) -> Float[Array, "h w"]:
    """The same, each object over those before it."""

    def paint(slot: Array, canvas: Array) -> Array:
        core, region = (
            rows[slot][:, None] * columns[slot][None] > 0.0 for rows, columns in (inner, outer)
        )
        touched = own[slot] & (core | region)
        return jnp.where(touched, core.astype(jnp.float32), canvas)

    blank = jnp.full((inner[0].shape[1], inner[1].shape[1]), -1.0)
    return lax.fori_loop(0, own.shape[0], paint, blank)
