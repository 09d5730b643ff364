"""Anchors: the shapes at a cell, and the grid that repeats them over a pyramid.

A *shape function* takes the strides of the levels, ((y, x), ...), and returns one array [S_l, 2] of
(width, height) in pixels per level. `Grid` centres those shapes on every cell. Everything is NumPy
at trace time: anchors are constants of a canvas, never parameters.

RetinaNets differ here, so each difference is a keyword: where the centre of a cell lies (`offset`),
whether sizes are rounded (`rounding`), and the step between cells (`steps_from_canvas`).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

from anchors_jax.types import Anchors

Number = int | float
Strides = tuple[tuple[Number, Number], ...]  # (y, x) of each level
Shapes = Callable[[Strides], tuple[np.ndarray, ...]]
Rounding = Literal["none", "torchvision", "legacy"]

INFERENCE = ("hidden",)  # keywords that may differ between a training and an evaluation of it


def octaves(
    *,
    base_scale: Number = 4.0,
    scales_per_octave: int = 3,
    ratios: Sequence[Number] = (0.5, 1.0, 2.0),
    rounding: Rounding = "none",
    scale_major: bool = False,
) -> Shapes:
    """Sides base_scale * stride * 2^(k / scales_per_octave), k = 0.. (RetinaNet, Section 4).

    Arguments beyond the scales are those of `relative`.
    """
    scales = tuple(base_scale * 2.0 ** (k / scales_per_octave) for k in range(scales_per_octave))
    return relative(scales=scales, ratios=ratios, rounding=rounding, scale_major=scale_major)


def relative(
    *,
    scales: Sequence[Number] = (8.0,),
    ratios: Sequence[Number] = (0.5, 1.0, 2.0),
    rounding: Rounding = "none",
    scale_major: bool = False,
) -> Shapes:
    """Shapes with side scale * stride (the smaller one, if they differ) and height/width = ratio.

    Args:
        scales: sides in strides.
        ratios: height / width.
        rounding: "none": w = side / sqrt(ratio), h = side * sqrt(ratio) (MMDetection, Detectron2).
            "torchvision": sides truncated to integers, then corners rounded.
            "legacy": the integer window of Detectron: the stride's square is reshaped to
            w = round(s / sqrt(ratio)), h = round(w * ratio) before it is scaled. Its boxes include
            their last pixel; here width = x1 - x0, so x1 and y1 are one pixel larger than there.
            Both rounded references put the centre elsewhere too: `offset` 0 and 0.5 in `Grid`.
        scale_major: order of the shapes. False: ratio outer, scale inner (MMDetection,
            torchvision); True: scale outer (Detectron, Detectron2).
    """

    def at(stride: Number) -> np.ndarray:
        if rounding == "legacy":
            widths = {ratio: np.round(np.sqrt(stride * stride / ratio)) for ratio in ratios}
            return np.array(
                [
                    (scale * widths[ratio], scale * np.round(widths[ratio] * ratio))
                    for ratio, scale in _ordered(ratios, scales, scale_major)
                ]
            )
        sides = [scale * stride for scale in scales]
        if rounding == "torchvision":
            # Truncation must not turn 64 computed as 63.999... into 63.
            sides = [math.floor(side + 1e-6) for side in sides]
        shapes = _side_and_ratio(_ordered(ratios, sides, scale_major))
        return _round_corners(shapes) if rounding == "torchvision" else shapes

    return lambda strides: tuple(at(min(stride)) for stride in strides)


def sizes(
    *,
    sizes: Sequence[Sequence[Number]],
    ratios: Sequence[Number] = (0.5, 1.0, 2.0),
    round_corners: bool = False,
) -> Shapes:
    """Absolute sides in pixels, one sequence per level, at every ratio (ratio outer, side inner).

    `round_corners` rounds half of each side to an integer, as torchvision's generator does.
    """
    levels = [_side_and_ratio(_ordered(ratios, level, False)) for level in sizes]
    return _per_level([_round_corners(level) if round_corners else level for level in levels])


def explicit(*, sizes: Sequence[Sequence[Sequence[Number]]]) -> Shapes:
    """(width, height) pairs in pixels for each level: YOLO's priors, clustered or pruned shapes."""
    return _per_level([np.asarray(level, np.float64).reshape(-1, 2) for level in sizes])


def ssd(
    *,
    min_sizes: Sequence[Number],
    max_sizes: Sequence[Number],
    ratios: Sequence[Sequence[Number]],
) -> Shapes:
    """SSD's default boxes from sides in pixels (Liu et al. 2016, Section 2.2; Caffe, MMDetection).

    Per level: the square min, the square sqrt(min * max), then for each ratio r the wide
    (min sqrt(r), min / sqrt(r)) and the tall box.
    """
    levels = zip(min_sizes, max_sizes, ratios, strict=True)
    shapes = _per_level([_default_boxes(*level) for level in levels])
    # The size in pixels that each level is for, where shapes are added to it (`cluster`).
    shapes.sides = np.sqrt(np.asarray(min_sizes, np.float64) * np.asarray(max_sizes, np.float64))
    return shapes


def ssd_scales(
    *,
    scales: Sequence[Number],
    ratios: Sequence[Sequence[Number]],
    image_size: tuple[Number, Number],
    clip: bool = True,
) -> Shapes:
    """SSD's default boxes from scales: fractions of the image's (height, width) (torchvision).

    There is one scale more than levels: level k lies between scales k and k + 1. `clip` limits
    sides to the image.
    """
    side = np.array([image_size[1], image_size[0]], np.float64)
    levels = [
        _default_boxes(low, high, level)
        for low, high, level in zip(scales[:-1], scales[1:], ratios, strict=True)
    ]
    return _per_level([(np.minimum(level, 1.0) if clip else level) * side for level in levels])


def ssd_ladder(
    *, side: int, levels: int, lowest: tuple[int, int], ratio_range: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The (min_sizes, max_sizes) of SSD for a square image of `side` pixels.

    Args:
        side: image side.
        levels: number of levels.
        lowest: percent of the side for min and max of the first level (SSD300 on COCO: 7, 15).
        ratio_range: percent of the side for the second and the last level (SSD300 on COCO: 15, 90).
    """
    step = (ratio_range[1] - ratio_range[0]) // (levels - 2)
    percents = [lowest[0], *range(ratio_range[0], ratio_range[1] + 1, step)][:levels]
    tops = [lowest[1], *(percent + step for percent in percents[1:])]
    return tuple(side * p // 100 for p in percents), tuple(side * p // 100 for p in tops)


def locations() -> Shapes:
    """One box of a stride's size per cell: what anchor-free heads need of it is centre and side."""
    return _stride_boxes


def _stride_boxes(strides: Strides) -> tuple[np.ndarray, ...]:
    return tuple(np.array([[x, y]], np.float64) for y, x in strides)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The shapes at every cell of a pyramid: called with the size of its maps, all anchors.

    Attributes:
        shapes: a shape function of this module.
        strides: pixels per cell of each level, one number or (y, x).
        offset: a cell's centre is at (index + offset) * step. 0.5: the middle (here, legacy,
            SSD, YOLO, FCOS); 0: the corner (MMDetection's and torchvision's anchors).
        steps_from_canvas: centres move by canvas side // map side instead of the stride, as in
            torchvision; the two differ where sizes do not divide. Shapes keep the stride.
        hidden: prototypes, numbered over all levels, whose anchors are not valid: they neither
            learn nor detect, but their outputs remain. So a trained network is evaluated with fewer
            anchors (Bonnaerens et al., "Anchor pruning").

    Raises:
        ValueError: shapes and strides differ in their number of levels, or a hidden prototype does
            not exist.
    """

    shapes: Shapes
    strides: Sequence[Number | Sequence[Number]]
    offset: Number = 0.5
    steps_from_canvas: bool = False
    hidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        wrong = set(self.hidden) - set(range(sum(map(len, self.prototypes))))
        if wrong:
            raise ValueError(f"grid: there is no shape {min(wrong)} to hide")

    @property
    def prototypes(self) -> tuple[np.ndarray, ...]:
        """(width, height) in pixels of each level's shapes [S_l, 2], float64."""
        return self.shapes(_pairs(self.strides))

    @property
    def has_shapes(self) -> bool:
        """False where there are bare locations instead of anchors of a chosen shape."""
        return self.shapes is not _stride_boxes

    def __call__(
        self, *, maps: Sequence[tuple[int, int]], canvas: tuple[int, int] | None = None
    ) -> Anchors:
        """All anchors in the order level, row, column, shape.

        Args:
            maps: (rows, columns) of each level's feature map.
            canvas: (height, width) of the network's input in pixels.

        Raises:
            ValueError: maps and strides differ in their number of levels, or the steps come from
                the canvas and there is none.
        """
        nominal = _pairs(self.strides)
        if len(maps) != len(nominal):
            raise ValueError(f"grid: {len(maps)} maps but {len(nominal)} strides")
        if self.steps_from_canvas and canvas is None:
            raise ValueError("grid: steps_from_canvas needs the canvas (height, width)")
        steps = nominal
        if self.steps_from_canvas:
            steps = tuple((canvas[0] // rows, canvas[1] // columns) for rows, columns in maps)
        per_level = self.prototypes
        levels = [_level(*level, self.offset) for level in zip(per_level, maps, steps, strict=True)]
        counts = tuple(
            (rows, columns, len(s)) for (rows, columns), s in zip(maps, per_level, strict=True)
        )
        cells, prototypes = _numbers(counts)
        boxes = np.concatenate(levels).astype(np.float32)
        return Anchors(
            boxes=jnp.asarray(boxes),
            cell=jnp.asarray(cells),
            shape=jnp.asarray(prototypes),
            valid=jnp.asarray(~np.isin(prototypes, list(self.hidden))),
            level_sizes=counts,
            strides=steps,
        )

    def points(self) -> "Grid":
        """The same cells as bare locations."""
        return Grid(shapes=locations(), strides=self.strides, offset=self.offset)


def grid(
    shapes: Shapes,
    *,
    maps: Sequence[tuple[int, int]],
    canvas: tuple[int, int] | None = None,
    **keywords: Any,
) -> Anchors:
    """The anchors of a `Grid` of these shapes on these maps; `keywords` are its attributes."""
    return Grid(shapes=shapes, **keywords)(maps=maps, canvas=canvas)


def free(boxes: Float[Array, "A 4"], valid: Bool[Array, "A"]) -> Anchors:
    """Boxes from somewhere else as anchors on no grid: regions of interest, proposals."""
    count = boxes.shape[0]
    return Anchors(
        boxes=boxes,
        cell=jnp.arange(count, dtype=jnp.int32),
        shape=jnp.zeros(count, jnp.int32),
        valid=valid,
        level_sizes=((1, count, 1),),
        strides=(),
    )


def inside(
    anchors: Anchors, image_size: Num[Array, "2"], *, divisor: int | None = 32
) -> Bool[Array, "A"]:
    """Valid anchors whose cell lies in the image and not in the padding of the canvas.

    The image counts up to the next multiple of `divisor` (MMDetection pads each image to 32): cells
    in ceil(pad(height) / stride) rows and ceil(pad(width) / stride) columns.

    Args:
        anchors: from a `Grid`.
        image_size: (height, width) of the image on the canvas, may be traced.
        divisor: 1 for no rounding; None: the padding of the canvas counts as image (official FCOS,
            ATSS, PAA), unless the image has no size.
    """
    if divisor is None:
        return anchors.valid & jnp.all(image_size > 0)[None]
    padded = jnp.ceil(image_size.astype(jnp.float32) / divisor) * divisor
    masks = []
    for (rows, columns, count), (y, x) in zip(anchors.level_sizes, anchors.strides, strict=True):
        in_rows = jnp.arange(rows) < jnp.ceil(padded[0] / y)
        in_columns = jnp.arange(columns) < jnp.ceil(padded[1] / x)
        both = in_rows[:, None] & in_columns[None]
        masks.append(jnp.repeat(both.reshape(-1), count))
    return anchors.valid & jnp.concatenate(masks)


def within_border(
    boxes: Float[Array, "A 4"], image_size: Num[Array, "2"], *, allowed_border: Number = 0
) -> Bool[Array, "A"]:
    """Boxes that leave the image by less than `allowed_border` pixels; negative: no test.

    Strict on the right and bottom, not on the left and top (Faster R-CNN's rule in MMDetection).
    """
    if allowed_border < 0:
        return jnp.ones(boxes.shape[0], bool)
    high = image_size.astype(jnp.float32) + allowed_border
    low = boxes[:, :2] >= -allowed_border
    return low[:, 0] & low[:, 1] & (boxes[:, 2] < high[1]) & (boxes[:, 3] < high[0])


def _ordered(
    ratios: Sequence[Number], scales: Sequence[Number], scale_major: bool
) -> list[tuple[Number, Number]]:
    if scale_major:
        return [(ratio, scale) for scale in scales for ratio in ratios]
    return list(itertools.product(ratios, scales))


def _side_and_ratio(pairs: list[tuple[Number, Number]]) -> np.ndarray:
    ratios, sides = np.asarray(pairs, np.float64).reshape(-1, 2).T
    return np.stack([sides / np.sqrt(ratios), sides * np.sqrt(ratios)], axis=-1)


def _round_corners(shapes: np.ndarray) -> np.ndarray:
    """Corners at +- side / 2 rounded half to even, which keeps them symmetric."""
    return 2.0 * np.round(shapes / 2.0)


def _default_boxes(low: Number, high: Number, ratios: Sequence[Number]) -> np.ndarray:
    middle = math.sqrt(low * high)
    pairs = [(low, low), (middle, middle)]
    for ratio in ratios:
        long, short = low * math.sqrt(ratio), low / math.sqrt(ratio)
        pairs += [(long, short), (short, long)]
    return np.asarray(pairs, np.float64)


def _per_level(levels: list[np.ndarray]) -> Shapes:
    def at(strides: Strides) -> tuple[np.ndarray, ...]:
        if len(strides) != len(levels):
            raise ValueError(f"shapes for {len(levels)} levels, but {len(strides)} strides")
        return tuple(levels)

    return at


def _pairs(strides: Sequence[Number | Sequence[Number]]) -> Strides:
    return tuple((s, s) if np.ndim(s) == 0 else (s[0], s[1]) for s in strides)


def _level(
    shapes: np.ndarray, size: tuple[int, int], step: tuple[Number, Number], offset: Number
) -> np.ndarray:
    y, x = np.meshgrid(*((np.arange(size[i]) + offset) * step[i] for i in (0, 1)), indexing="ij")
    centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    return np.concatenate([centres - shapes / 2, centres + shapes / 2], axis=-1).reshape(-1, 4)


def _numbers(counts: tuple[tuple[int, int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Cell and prototype of every anchor, both numbered over all levels."""
    cells, prototypes, cell, prototype = [], [], 0, 0
    for rows, columns, count in counts:
        area = rows * columns
        cells.append(np.repeat(np.arange(cell, cell + area, dtype=np.int32), count))
        prototypes.append(np.tile(np.arange(prototype, prototype + count, dtype=np.int32), area))
        cell, prototype = cell + area, prototype + count
    return np.concatenate(cells), np.concatenate(prototypes)
