"""Predicted anchors beside the fixed grid: where there are anchors, and the best for each object.

Colour says the object: dotted its box, solid its best anchor. Dots are the centres of all anchors.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from anchors_jax.visualize.boxes import PALETTE
from anchors_jax.visualize.curves import figure, save


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorPanel:
    """One set of anchors on an image; boxes and centres are in pixels of that image."""

    title: str
    image: UInt8[np.ndarray, "H W 3"]
    objects: Float[np.ndarray, "G 4"]
    visible: Bool[np.ndarray, "G"]  # which of the slots hold an object
    best: Float[np.ndarray, "G 4"]  # the anchor with the largest IoU
    iou: Float[np.ndarray, "G"]  # and that IoU
    centres: Float[np.ndarray, "N 2"]


def best_anchors(panels: Sequence[AnchorPanel], path: str | os.PathLike[str]) -> None:
    """Write the panels in rows of two: grid and prediction of one method after the other."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(panel.image.shape[0] / panel.image.shape[1] for panel in panels)
    drawing = figure(4.6 * columns, (4.6 * tallest + 0.4) * rows)
    for number, panel in enumerate(panels, 1):
        _panel(drawing.add_subplot(rows, columns, number), panel)
    save(drawing, path, grid=False)


def _panel(axes: Axes, panel: AnchorPanel) -> None:
    # Pale, so that lines stand out on any photograph.
    axes.imshow((0.5 * panel.image + 127.5).astype(np.uint8), interpolation="nearest")
    axes.scatter(*panel.centres.T, s=3, color="black", alpha=0.5, linewidths=0)
    for number in np.flatnonzero(panel.visible):
        colour = tuple(value / 255 for value in PALETTE[number % len(PALETTE)])
        _frame(axes, panel.objects[number], ec=colour, lw=1.0, ls=":")
        if panel.iou[number] > 0.0:
            _frame(axes, panel.best[number], ec=colour, lw=1.6)
    axes.set_xlim(0, panel.image.shape[1])
    axes.set_ylim(panel.image.shape[0], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    mean = panel.iou[panel.visible].mean() if panel.visible.any() else float("nan")
    axes.set_title(f"{panel.title}: {len(panel.centres)} anchors, mean best IoU {mean:.2f}")


def _frame(axes: Axes, box: Float[np.ndarray, "4"], **style: object) -> None:
    x0, y0, x1, y1 = box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **style))
