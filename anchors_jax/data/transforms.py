"""Geometry of images and boxes together, in numpy and OpenCV.

Every public function takes keyword hyper-parameters and returns a `Transform`: a pure function of
one example and a random generator. Images stay uint8; normalisation happens on the device.
"""

import functools
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from anchors_jax.data.records import Example

Transform = Callable[[Example, np.random.Generator], Example]

_INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
}


def resize(
    *,
    short: int | tuple[int, int] = 800,
    long: int | None = 1333,
    truncate: bool = False,
    interpolation: str = "linear",
) -> Transform:
    """Keep the aspect ratio: scale = min(short / short side, long / long side).

    Args:
      short: wanted short side in pixels, or a range (low, high): uniform over the integers in it,
        ends included (multi-scale training).
      long: the long side never exceeds this; None: no limit.
      truncate: sizes are int(x * scale) as in maskrcnn-benchmark, instead of int(x * scale + 0.5)
        as in MMDetection (640x480 gives 1066x800 or 1067x800).
      interpolation: linear, area, cubic or nearest.

    Source: RetinaNet (arXiv 1708.02002) section 4.1; Faster R-CNN (arXiv 1506.01497) section 3.3.
    """
    low, high = (short, short) if isinstance(short, int) else short
    if not 0 < low <= high:
        raise ValueError(f"short must be a positive length or a range low <= high, not {short}")
    if long is not None and long <= 0:
        raise ValueError(f"long must be positive, not {long}")
    _interpolation(interpolation)
    return functools.partial(
        _resize, short=(low, high), long=long, truncate=truncate, interpolation=interpolation
    )


def fit(
    *,
    canvas: tuple[int, int] | None = None,
    keep_ratio: bool = True,
    interpolation: str = "linear",
) -> Transform:
    """Resize to the largest size that fits the canvas (height, width).

    Args:
      canvas: None: the canvas that the loader chose for the image.
      keep_ratio: False: fill the canvas exactly, whatever the aspect ratio (SSD).
      interpolation: linear, area, cubic or nearest.
    """
    _interpolation(interpolation)
    return functools.partial(
        _fit, canvas=canvas, keep_ratio=keep_ratio, low=1.0, high=1.0, interpolation=interpolation
    )


def scale_jitter(
    *,
    low: float = 0.5,
    high: float = 1.0,
    canvas: tuple[int, int] | None = None,
    interpolation: str = "linear",
) -> Transform:
    """Resize to u times the size that fits the canvas, u log-uniform in [low, high], high <= 1."""
    if not 0 < low <= high <= 1:
        raise ValueError(f"scale_jitter needs 0 < low <= high <= 1, not {low} and {high}")
    _interpolation(interpolation)
    return functools.partial(
        _fit, canvas=canvas, keep_ratio=True, low=low, high=high, interpolation=interpolation
    )


def horizontal_flip(*, p: float = 0.5) -> Transform:
    """Mirror left and right with probability p."""
    if not 0 <= p <= 1:
        raise ValueError(f"horizontal_flip needs a probability, not {p}")
    return functools.partial(_horizontal_flip, p=p)


def drop_small(*, min_size: float = 1.0) -> Transform:
    """Drop objects whose width or height is now below `min_size` pixels. Crowd regions stay."""
    return functools.partial(_drop_small, min_size=min_size)


def compose(transforms: Sequence[Transform]) -> Transform:
    """One after another, sharing the generator."""
    return functools.partial(_compose, transforms=tuple(transforms))


def choose_canvas(height: int, width: int, canvases: Sequence[tuple[int, int]]) -> int:
    """Index of the canvas (height, width) on which an image can be shown largest.

    Among equals the one with the smaller area wins, then the first.
    """
    keys = [(-min(h / height, w / width), h * w, i) for i, (h, w) in enumerate(canvases)]
    return min(keys)[2]


def pad(
    image: UInt8[np.ndarray, "h w 3"], canvas: tuple[int, int], *, fill: int = 0
) -> UInt8[np.ndarray, "H W 3"]:
    """The image in the top left corner of a canvas (height, width) of colour `fill`.

    Raises:
      ValueError: the image is larger than the canvas.
    """
    height, width = image.shape[:2]
    if height > canvas[0] or width > canvas[1]:
        raise ValueError(f"an image of {(height, width)} does not fit a canvas of {canvas}")
    if (height, width) == canvas:
        return image
    padded = np.full((*canvas, 3), fill, np.uint8)
    padded[:height, :width] = image
    return padded


def shrink_to(example: Example, canvas: tuple[int, int]) -> Example:
    """Reduce an image that is larger than the canvas until it fits; others are left alone."""
    (height, width), (rows, columns) = example.size, canvas
    if height <= rows and width <= columns:
        return example
    scale = min(rows / height, columns / width)
    size = max(1, int(height * scale)), max(1, int(width * scale))
    return resized(example, size, interpolation="area")


def resized(example: Example, size: tuple[int, int], *, interpolation: str = "linear") -> Example:
    """The image at `size` (height, width), boxes and scale along with it."""
    (height, width), (new_height, new_width) = example.size, size
    if (height, width) == (new_height, new_width):
        return example
    method = _interpolation(interpolation)
    image = cv2.resize(example.image, (new_width, new_height), interpolation=method)
    factor = np.float32([new_width / width, new_height / height])
    boxes = example.boxes * np.tile(factor, 2)
    limit = np.float32([new_width, new_height, new_width, new_height])
    return example.replace(
        image=image,
        boxes=np.clip(boxes, 0, limit),  # by rounding only
        scale=example.scale * factor,
    )


def box_sizes(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 2"]:
    """Width and height of each box."""
    return boxes[:, 2:] - boxes[:, :2]


def _interpolation(name: str) -> int:
    if name not in _INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {sorted(_INTERPOLATIONS)}, not {name!r}")
    return _INTERPOLATIONS[name]


def _resize(
    example: Example,
    rng: np.random.Generator,
    *,
    short: tuple[int, int],
    long: int | None,
    truncate: bool,
    interpolation: str,
) -> Example:
    wanted = short[0] if short[0] == short[1] else int(rng.integers(short[0], short[1] + 1))
    height, width = example.size
    scale = wanted / min(height, width)
    if long is not None:
        scale = min(scale, long / max(height, width))
    add = 0.0 if truncate else 0.5
    # The product may fall short of an integer by one unit in the last place: 800 must stay 800.
    size = tuple(max(1, int(side * scale + add + 1e-6)) for side in (height, width))
    return resized(example, size, interpolation=interpolation)


def _fit(
    example: Example,
    rng: np.random.Generator,
    *,
    canvas: tuple[int, int] | None,
    keep_ratio: bool,
    low: float,
    high: float,
    interpolation: str,
) -> Example:
    target = canvas or example.canvas
    if target is None:
        raise ValueError("no canvas: give `canvas=`, or use the transform inside a loader")
    if not keep_ratio:
        return resized(example, target, interpolation=interpolation)
    (height, width), (rows, columns) = example.size, target
    scale = min(rows / height, columns / width)
    if low < high:
        scale *= float(np.exp(rng.uniform(np.log(low), np.log(high))))
    else:
        scale *= low
    size = (
        min(rows, max(1, int(height * scale + 0.5))),
        min(columns, max(1, int(width * scale + 0.5))),
    )
    return resized(example, size, interpolation=interpolation)


def _horizontal_flip(example: Example, rng: np.random.Generator, *, p: float) -> Example:
    if rng.random() >= p:
        return example
    width = np.float32(example.size[1])
    x0, y0, x1, y1 = example.boxes.T
    boxes = np.stack([width - x1, y0, width - x0, y1], 1)
    return example.replace(image=cv2.flip(example.image, 1), boxes=boxes)


def _drop_small(example: Example, rng: np.random.Generator, *, min_size: float) -> Example:
    del rng
    large = (box_sizes(example.boxes) >= min_size).all(1)
    return example.keep(large | example.crowd)


def _compose(
    example: Example, rng: np.random.Generator, *, transforms: tuple[Transform, ...]
) -> Example:
    for transform in transforms:
        example = transform(example, rng)
    return example
