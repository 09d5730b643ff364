"""Pixels for the shapes data: outlines, masks, textures and clutter. All from a given generator."""

import cv2
import numpy as np
from jaxtyping import Float32

CLASSES = ("disk", "ring", "box", "triangle", "star")
_FINE = 4  # sub-samples per pixel and axis of a mask
_BITS = 4  # fractional bits of OpenCV's fixed-point coordinates


def outline(name: str, angle: float) -> list[Float32[np.ndarray, "_ 2"]]:
    """Closed contours of a shape turned by `angle` (radians), fitted into the unit square.

    The second contour, if any, is a hole. Fitting each axis on its own makes the box of the drawn
    shape exactly the box that was asked for, whatever the angle.
    """
    if name in ("disk", "ring"):
        contours = [_polygon(64, 1.0)] + ([_polygon(64, 0.55)] if name == "ring" else [])
    elif name == "box":
        contours = [_polygon(4, 1.0)]
    elif name == "triangle":
        contours = [_polygon(3, 1.0)]
    elif name == "star":
        points = _polygon(10, 1.0)
        points[1::2] *= 0.45
        contours = [points]
    else:
        raise ValueError(f"no shape {name!r}; there are {CLASSES}")
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    contours = [contour @ turn for contour in contours]
    low, high = contours[0].min(0), contours[0].max(0)
    return [((contour - low) / (high - low)).astype(np.float32) for contour in contours]


def _polygon(corners: int, radius: float) -> np.ndarray:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def mask(
    contours: list[Float32[np.ndarray, "_ 2"]], box: np.ndarray
) -> tuple[Float32[np.ndarray, "h w"], tuple[int, int]]:
    """Coverage 0..1 of the pixels around a box [4], and the (row, column) where they begin."""
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    size = box[2:] - box[:2]
    points = [(contour * size + box[:2] - (left, top)) * _FINE - 0.5 for contour in contours]
    fixed = [np.round(p * (1 << _BITS)).astype(np.int32) for p in points]
    fine = np.zeros(((bottom - top) * _FINE, (right - left) * _FINE), np.uint8)
    cv2.fillPoly(fine, fixed, 255, lineType=cv2.LINE_8, shift=_BITS)
    coverage = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / 255, (int(top), int(left))


def texture(
    rng: np.random.Generator, size: tuple[int, int], *, amplitude: float, octaves: int = 5
) -> Float32[np.ndarray, "h w 3"]:
    """Noise around 0: octaves of random grids, each twice as fine and 0.6 times as strong.

    Coarse octaves are added on the grid of the next finer one; only the sum is drawn full size.
    """
    total = np.zeros((3, 3, 3), np.float32)
    for octave in range(octaves):
        cells = 3 * 2**octave
        total = cv2.resize(total, (cells, cells), interpolation=cv2.INTER_CUBIC)
        colour = rng.standard_normal((cells, cells, 3), dtype=np.float32)
        grey = rng.standard_normal((cells, cells, 1), dtype=np.float32)
        total = total + np.float32(0.6**octave) * (np.float32(0.4) * colour + grey)
    total = cv2.resize(total, size[::-1], interpolation=cv2.INTER_CUBIC)
    return total * np.float32(amplitude)


def blend(
    image: Float32[np.ndarray, "H W 3"],
    alpha: Float32[np.ndarray, "h w"],
    corner: tuple[int, int],
    colour: np.ndarray,
) -> None:
    """Paint a colour [3] or [h, w, 3] with opacity alpha into the image, in place."""
    rows = slice(corner[0], corner[0] + alpha.shape[0])
    columns = slice(corner[1], corner[1] + alpha.shape[1])
    patch = image[rows, columns]
    image[rows, columns] = patch + alpha[:, :, None] * (colour - patch)


def stroke(rng: np.random.Generator, image: Float32[np.ndarray, "H W 3"]) -> None:
    """A bent line somewhere in the image: clutter that no class accounts for."""
    height, width = image.shape[:2]
    start = rng.uniform(0, 1, 2) * (width, height)
    steps = rng.normal(0, 0.15 * max(height, width), (3, 2))
    points = np.concatenate([start[None], start + np.cumsum(steps, 0)])
    thick = int(rng.integers(1, max(2, height // 64) + 1))
    opacity, colour = rng.uniform(0.4, 1.0) / 255, _colour(rng)
    low = np.clip(np.floor(points.min(0)) - thick, 0, (width, height)).astype(int)
    high = np.clip(np.ceil(points.max(0)) + thick, 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    fixed = np.round((points - low) * (1 << _BITS)).astype(np.int32)
    alpha = np.zeros((high - low)[::-1], np.uint8)
    cv2.polylines(alpha, [fixed], False, 255, thick, cv2.LINE_AA, _BITS)
    blend(image, alpha * np.float32(opacity), (int(low[1]), int(low[0])), colour)


def blob(rng: np.random.Generator, image: Float32[np.ndarray, "H W 3"]) -> None:
    """A soft spot without an edge."""
    extent = np.array(image.shape[:2])
    radius = rng.uniform(0.04, 0.2, 2) * extent
    centre = rng.uniform(0, 1, 2) * extent
    low = np.clip(np.floor(centre - 3 * radius), 0, extent).astype(int)
    high = np.clip(np.ceil(centre + 3 * radius), 0, extent).astype(int)
    y, x = (
        np.exp(-0.5 * ((np.arange(low[i], high[i]) - centre[i]) / radius[i]) ** 2).astype(
            np.float32
        )
        for i in range(2)
    )
    opacity = np.float32(rng.uniform(0.3, 0.9))
    blend(image, opacity * y[:, None] * x, (int(low[0]), int(low[1])), _colour(rng))


def _colour(rng: np.random.Generator) -> Float32[np.ndarray, "3"]:
    return rng.uniform(20, 235, 3).astype(np.float32)


def contrasting(
    rng: np.random.Generator, around: np.ndarray, low: float, high: float
) -> Float32[np.ndarray, "3"]:
    """A colour whose distance from the colour `around` is between low and high grey levels."""
    best, gap = _colour(rng), np.inf
    for _ in range(8):
        direction = rng.standard_normal(3)
        step = direction / np.linalg.norm(direction) * rng.uniform(low, high)
        colour = np.clip(around + step, 0, 255)
        miss = max(0.0, low - float(np.linalg.norm(colour - around)))
        if miss < gap:
            best, gap = colour.astype(np.float32), miss
        if gap == 0:
            break
    return best
