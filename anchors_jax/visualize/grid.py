"""Detections beside the truth: a grid of pictures, for reports and papers."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from anchors_jax import files
from anchors_jax.visualize.boxes import class_colour, draw_boxes, font


class Boxes(NamedTuple):
    """Boxes of one image in its own pixels; `scores` is None for ground truth."""

    boxes: Float[np.ndarray, "N 4"]
    labels: Int[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"] | None = None


def detections_beside_truth(
    samples: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Boxes, Boxes]],
    class_names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    score_threshold: float = 0.3,
    panel_height: int = 360,
    pairs_per_row: int = 1,
    titles: Sequence[str] | None = None,
) -> None:
    """Write a grid: for each (image, detections, truth) the truth left and the detections right.

    Detections below the threshold are left out. All panels get one height in pixels before
    anything is drawn, so lines and letters are equally sharp on images of every size. `titles`
    are captions of the pairs, such as file names. The suffix of `path` chooses the format.
    """
    if not samples:
        raise ValueError(f"{os.fspath(path)}: no image to draw")
    pairs, present = [], set()
    for image, detections, truth in samples:
        if detections.scores is None:
            raise ValueError(f"{os.fspath(path)}: detections without scores")
        keep = np.asarray(detections.scores) >= score_threshold
        shown = Boxes(*(np.asarray(column)[keep] for column in detections))
        present |= {int(n) for n in (*truth.labels, *shown.labels)}
        pairs.append([_panel(image, boxes, class_names, panel_height) for boxes in (truth, shown)])
    heads = ("Ground truth", f"Detections (score \u2265 {score_threshold:g})")
    picture = _grid(pairs, heads, titles, pairs_per_row)
    legend = [(class_names[label], class_colour(label)) for label in sorted(present)]
    picture = _with_legend(picture, legend)
    with files.atomic_path(path) as temporary:
        picture.save(temporary)


def _panel(
    image: UInt8[np.ndarray, "H W 3"], found: Boxes, class_names: Sequence[str], height: int
) -> Image.Image:
    factor = height / image.shape[0]
    size = (max(1, round(image.shape[1] * factor)), height)
    resample = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, resample))
    boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4) * factor
    drawn = draw_boxes(
        resized,
        boxes,
        found.labels,
        found.scores,
        class_names,
        names=False,
        line_width=max(2, round(height / 180)),
        font_size=max(10, height // 30),
    )
    return Image.fromarray(drawn)


def _grid(
    pairs: list[list[Image.Image]],
    heads: tuple[str, str],
    titles: Sequence[str] | None,
    pairs_per_row: int,
) -> Image.Image:
    """Pairs in rows, in columns as wide as their widest panel, under headings."""
    height, gap = pairs[0][0].height, max(6, pairs[0][0].height // 50)
    letters, small = font(height // 20), font(height // 26)
    caption = small.size * 2 if titles is not None else 0
    rows = [pairs[n : n + pairs_per_row] for n in range(0, len(pairs), pairs_per_row)]
    used = min(pairs_per_row, len(pairs))
    widths = [max(row[c][0].width for row in rows if c < len(row)) for c in range(used)]
    starts = [gap + sum(2 * w + 6 * gap for w in widths[:c]) for c in range(used)]
    head = letters.size * 2
    picture = Image.new(
        "RGB",
        (starts[-1] + 2 * widths[-1] + 2 * gap, head + len(rows) * (height + gap + caption)),
        "white",
    )
    draw = ImageDraw.Draw(picture)
    for c, width in enumerate(widths):
        for side, text in enumerate(heads):
            middle = starts[c] + side * (width + gap) + width // 2
            draw.text((middle, head // 2), text, fill="black", font=letters, anchor="mm")
    for r, row in enumerate(rows):
        top = head + r * (height + gap + caption)
        for c, pair in enumerate(row):
            for side, panel in enumerate(pair):
                x = starts[c] + side * (widths[c] + gap) + (widths[c] - panel.width) // 2
                picture.paste(panel, (x, top))
            if titles is not None:
                left = starts[c] + (widths[c] - pair[0].width) // 2
                spot = (left, top + height + caption // 2)
                title = titles[r * pairs_per_row + c]
                draw.text(spot, title, fill=(70, 70, 70), font=small, anchor="lm")
    return picture


def _with_legend(
    picture: Image.Image, entries: list[tuple[str, tuple[int, int, int]]]
) -> Image.Image:
    """The picture with one coloured square and name per class below it, wrapped to its width."""
    if not entries:
        return picture
    letters = font(max(12, min(20, picture.width // 60)))
    square, gap, line = letters.size, letters.size // 2, letters.size * 2
    spots, x, y = [], gap, 0
    for name, _ in entries:
        width = square + gap + round(letters.getlength(name)) + 3 * gap
        if x + width > picture.width and x > gap:
            x, y = gap, y + line
        spots.append((x, y))
        x += width
    result = Image.new("RGB", (picture.width, picture.height + y + line), "white")
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for (name, colour), (x, y) in zip(entries, spots, strict=True):
        middle = picture.height + y + line // 2
        draw.rectangle((x, middle - square // 2, x + square, middle + square // 2), fill=colour)
        draw.text((x + square + gap, middle), name, fill="black", font=letters, anchor="lm")
    return result
