"""Boxes on an image: colours, frames and labels.

Images are uint8 RGB [H, W, 3]; boxes are `x0, y0, x1, y1` in pixels of that image.
"""

import colorsys
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

# Twelve colours that stay apart on photographs and on white; further classes walk the hue circle.
PALETTE = (
    (230, 60, 50), (30, 120, 220), (40, 160, 70), (245, 150, 20), (150, 70, 190), (0, 170, 180),
    (220, 70, 150), (130, 100, 60), (120, 170, 20), (90, 90, 210), (200, 165, 0), (90, 110, 120),
)  # fmt: skip


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB of a class: the same in every picture, whatever else is drawn."""
    if label < len(PALETTE):
        return PALETTE[label]
    hue = (label * 0.618034) % 1.0  # steps of the golden ratio never come close to each other
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.9, 0.6)[label % 3], 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "N 4"],
    labels: Int[np.ndarray, "N"],
    scores: Float[np.ndarray, "N"] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    names: bool = True,
    line_width: int | None = None,
    font_size: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the image with its boxes, each with a chip that says class and score.

    Line and letters scale with the image unless given, in pixels. The best score lies on top; a
    chip moves to where it covers no other, stays inside the image, and is left out (the lowest
    scores first) where all room is taken. `names` off keeps only
    the scores, for a picture that has a legend. Raises ValueError for a box that is not finite.
    """
    boxes = np.asarray(boxes, np.float64)
    if not np.isfinite(boxes).all():
        raise ValueError(f"box {int(np.argmin(np.isfinite(boxes).all(1)))} to draw is not finite")
    canvas = Image.fromarray(np.ascontiguousarray(image))
    side = min(canvas.size)
    width = line_width or max(1, round(side / 240))
    letters = font(font_size or max(9, round(side / 36)))
    draw = ImageDraw.Draw(canvas)
    order = np.arange(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    for n in order:
        _outline(draw, canvas.size, boxes[n], class_colour(int(labels[n])), width)
    taken: list[tuple[int, int, int, int]] = []
    for n in order[::-1]:
        text = [class_names[int(labels[n])]] if names and class_names is not None else []
        text += [] if scores is None else [f"{float(scores[n]):.2f}"]
        if text:
            _chip(draw, canvas.size, boxes[n], " ".join(text), int(labels[n]), letters, taken)
    return np.asarray(canvas)


def _outline(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: np.ndarray,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """A frame of the box, drawn inwards; the part beyond the image is left out."""
    limit = np.array([*size, *size]) - 1
    x0, y0, x1, y1 = np.clip(np.round(box), 0, limit).astype(int).tolist()
    x1, y1 = max(x0, x1), max(y0, y1)
    thickness = min(width, (min(x1 - x0, y1 - y0) + 3) // 2)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=thickness)


def _chip(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: np.ndarray,
    text: str,
    label: int,
    letters: ImageFont.FreeTypeFont,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """A filled label at the corner of the box where it covers other labels least.

    Where all corners are taken it is left out: half-hidden numbers help nobody.
    """
    left, _, right, _ = draw.textbbox((0, 0), text, font=letters)
    ascent, descent = letters.getmetrics()
    pad = max(2, letters.size // 5)
    width, height = right - left + 2 * pad, ascent + descent + pad // 2
    x0, y0, x1, y1 = np.round(box).astype(int).tolist()
    corners = [
        (x0, y0 - height), (x0, y0), (x1 - width, y0 - height), (x0, y1), (x0, y1 - height),
        (x1 - width, y0), (x1 - width, y1 - height), (x1 - width, y1),
    ]  # fmt: skip
    spots = [
        (min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0)))
        for x, y in corners
    ]
    chips = [(x, y, x + width, y + height) for x, y in spots]
    covered = [sum(_common(chip, other) for other in taken) for chip in chips]
    best = int(np.argmin(covered))
    if 4 * covered[best] > width * height:
        return
    chip = chips[best]
    taken.append(chip)
    colour = class_colour(label)
    draw.rectangle((chip[0], chip[1], chip[2] - 1, chip[3] - 1), fill=colour)
    draw.text((chip[0] + pad - left, chip[1] + pad // 4), text, fill=_ink(colour), font=letters)


def _common(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """Area in which two rectangles overlap."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return (20, 20, 20) if 0.3 * red + 0.59 * green + 0.11 * blue > 150 else (255, 255, 255)


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)
