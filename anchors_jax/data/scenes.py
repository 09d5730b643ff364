"""One image of the shapes data: which objects, where, how large, and the drawing of them."""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from anchors_jax.data import drawing

_TRIES = 30  # places tried for an object before it is given up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """What the images look like. Lengths in pixels unless said otherwise.

    Sizes are sqrt(width * height) of the box; sizes and aspect ratios are log-uniform, so that
    every octave of a feature pyramid gets its share of the objects.
    """

    image_size: int = 256
    objects: tuple[int, int] = (1, 10)  # uniform, ends included
    min_size: float = 12.0
    max_size: float = 0.8  # of the image side
    max_aspect: float = 3.0  # width / height in 1/max_aspect..max_aspect
    crowding: float = 0.3  # probability that an object is put beside an earlier one
    occlusion: float = 0.4  # largest overlap of two boxes, as a share of the smaller one
    min_visible: float = 0.3  # objects of which less would be seen are not drawn
    empty: float = 0.05  # share of images without objects
    distractors: tuple[int, int] = (0, 6)  # unlabelled strokes and spots
    low_contrast: float = 0.25  # share of objects that hardly differ from what is behind
    blur: float = 1.0  # largest standard deviation
    noise: float = 8.0  # largest standard deviation, grey levels

    def __post_init__(self):
        checks = {
            "image_size": self.image_size >= 16,
            "objects": 1 <= self.objects[0] <= self.objects[1],
            "min_size": 4 <= self.min_size <= self.max_size * self.image_size,
            "max_size": 0 < self.max_size <= 1,
            "max_aspect": self.max_aspect >= 1,
            "distractors": 0 <= self.distractors[0] <= self.distractors[1],
            "blur": self.blur >= 0,
            "noise": self.noise >= 0,
        }
        for name in ("crowding", "occlusion", "min_visible", "empty", "low_contrast"):
            checks[name] = 0 <= getattr(self, name) <= 1
        for name, good in checks.items():
            if not good:
                raise ValueError(f"shapes: {name} = {getattr(self, name)!r} is out of range")


class Scene(NamedTuple):
    """An image with its n objects; later objects are in front of earlier ones."""

    image: UInt8[np.ndarray, "H W 3"]
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, " n"]


class _Shape(NamedTuple):
    box: np.ndarray
    label: int
    alpha: np.ndarray
    corner: tuple[int, int]


def scene(rng: np.random.Generator, style: Style) -> Scene:
    """Draw one image. Boxes are the tight boxes of the whole shapes, also where they are hidden."""
    side = style.image_size
    shapes = [] if rng.random() < style.empty else _visible(_layout(rng, style), style)
    image = rng.uniform(50, 205, 3).astype(np.float32) + drawing.texture(
        rng, (side, side), amplitude=rng.uniform(6, 26)
    )
    clutter = int(rng.integers(style.distractors[0], style.distractors[1] + 1))
    in_front = int(rng.binomial(clutter, 0.2))
    for _ in range(clutter - in_front):
        (drawing.stroke if rng.random() < 0.6 else drawing.blob)(rng, image)
    for shape in shapes:
        _draw(rng, image, shape, style)
    for _ in range(in_front):
        drawing.stroke(rng, image)
    sigma = rng.uniform(0, style.blur)
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image += rng.uniform(0, style.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return Scene(
        cv2.convertScaleAbs(np.maximum(image, 0)),  # rounds and saturates
        np.array([shape.box for shape in shapes], np.float32).reshape(-1, 4),
        np.array([shape.label for shape in shapes], np.int32),
    )


def _layout(rng: np.random.Generator, style: Style) -> list[_Shape]:
    """Shapes in the order of drawing, none of which covers too much of another's box."""
    shapes: list[_Shape] = []
    for _ in range(int(rng.integers(style.objects[0], style.objects[1] + 1))):
        label = int(rng.integers(len(drawing.CLASSES)))
        boxes = np.array([shape.box for shape in shapes]).reshape(-1, 4)
        box = _place(rng, style, boxes)
        if box is not None:
            contours = drawing.outline(drawing.CLASSES[label], rng.uniform(0, 2 * np.pi))
            shapes.append(_Shape(box, label, *drawing.mask(contours, box)))
    return shapes


def _place(rng: np.random.Generator, style: Style, others: np.ndarray) -> np.ndarray | None:
    side = style.image_size
    size = np.exp(rng.uniform(np.log(style.min_size), np.log(style.max_size * side)))
    # A long box must still fit: its longer side is size * sqrt(aspect).
    widest = min(np.log(style.max_aspect), 2 * np.log(side / size))
    stretch = np.exp(rng.uniform(-widest, widest) / 2)
    extent = np.array([size * stretch, size / stretch])
    for _ in range(_TRIES):
        if len(others) and rng.random() < style.crowding:
            near = others[rng.integers(len(others))]
            reach = (near[2:] - near[:2] + extent) / 2
            corner = (near[:2] + near[2:] - extent) / 2 + reach * rng.normal(0, 0.8, 2)
        else:
            corner = rng.uniform(0, 1, 2) * (side - extent)
        if (corner < 0).any() or (corner + extent > side).any():
            continue
        box = np.concatenate([corner, corner + extent])
        if _overlap(box, others).max(initial=0) <= style.occlusion:
            return box
    return None


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over the area of the smaller box."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    return common / np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1))


def _visible(shapes: list[_Shape], style: Style) -> list[_Shape]:
    """The shapes of which enough is seen once all are drawn."""
    owner = np.full((style.image_size, style.image_size), -1, np.int16)
    for i, shape in enumerate(shapes):
        rows, columns = shape.alpha.shape
        window = owner[
            shape.corner[0] : shape.corner[0] + rows, shape.corner[1] : shape.corner[1] + columns
        ]
        window[shape.alpha > 0.5] = i
    seen = np.bincount(owner[owner >= 0].ravel(), minlength=len(shapes))
    full = [max(1, int((shape.alpha > 0.5).sum())) for shape in shapes]
    return [s for s, n, m in zip(shapes, seen, full, strict=True) if n >= style.min_visible * m]


def _draw(rng: np.random.Generator, image: np.ndarray, shape: _Shape, style: Style) -> None:
    rows, columns = shape.alpha.shape
    behind = image[
        shape.corner[0] : shape.corner[0] + rows, shape.corner[1] : shape.corner[1] + columns
    ]
    faint = rng.random() < style.low_contrast
    low, high = (25.0, 45.0) if faint else (70.0, 220.0)
    colour = drawing.contrasting(rng, behind.reshape(-1, 3).mean(0), low, high)
    grain = drawing.texture(rng, (rows, columns), amplitude=rng.uniform(0, 8), octaves=3)
    drawing.blend(image, shape.alpha, shape.corner, colour + grain)
