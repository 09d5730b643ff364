"""One picture of clustered shapes beside those that a config has now."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from anchors_jax.search import coverage, coverage_plot
from anchors_jax.visualize.boxes import PALETTE
from anchors_jax.visualize.curves import figure, save


def plot(
    wh: Float[np.ndarray, "n 2"],
    shapes: Mapping[str, Sequence[Float[np.ndarray, "_ 2"]]],
    iou: Mapping[str, Float[np.ndarray, "_"]],
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> None:
    """Write boxes with both sets of shapes, and the recall of both on the grid.

    Args:
      wh: sizes of the boxes, network pixels.
      shapes: by name, (width, height) of the shapes of each level: first the present ones.
      iou: by the same names, each box's best IoU with the anchors on the grid.
      path: of the picture.
      title: above it.
    """
    drawing = figure(10.4, 4.4)
    left, right = drawing.subplots(1, 2)
    coverage_plot.dots(left, wh, np.ones(len(wh), bool), PALETTE[11], "boxes")
    for number, ((name, levels), marker) in enumerate(zip(shapes.items(), "oX", strict=True)):
        points = np.concatenate([np.reshape(level, (-1, 2)) for level in levels])
        colour = tuple(value / 255 for value in PALETTE[(1, 0)[number]])
        left.scatter(
            *points.T,
            marker=marker,
            s=45,
            facecolors=[colour] if number else "none",
            edgecolors="white" if number else [colour],
            linewidths=0.7 if number else 1.2,
            label=f"{name}: {len(points)} shapes",
            zorder=3,
        )
        right.plot(
            coverage.IOUS,
            coverage.recall(iou[name]),
            color=colour,
            label=f"{name}: mean IoU {iou[name].mean():.3f}",
        )
    left.set(xlabel="width (network pixels)", ylabel="height", title="Boxes and shapes")
    coverage_plot.log_sides(left)
    left.legend(loc="upper left")
    right.set(xlabel="IoU", ylabel="objects with such an anchor", ylim=(0, 1.02))
    right.set_title("Recall of the anchors on the grid")
    right.legend(loc="lower left")
    if title:
        drawing.suptitle(title, fontsize=10)
    save(drawing, path)
