"""Which anchors each method takes as positives, side by side on one image.

Colour says the object, the marker says the stride; a marker stands at an anchor's centre.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from anchors_jax.visualize.boxes import PALETTE
from anchors_jax.visualize.curves import figure, save

MARKERS = ("o", "s", "^", "D", "*", "P", "X")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One method's positives on an image; boxes are in pixels of that image."""

    title: str
    image: UInt8[np.ndarray, "H W 3"]
    objects: Float[np.ndarray, "G 4"]
    visible: Bool[np.ndarray, "G"]  # which of the slots hold an object
    anchors: Float[np.ndarray, "A 4"]
    stride: Float[np.ndarray, "A"]  # of the anchor's level, in pixels
    gt: Int[np.ndarray, "A"]
    positive: Bool[np.ndarray, "A"]


def assignments(
    panels: Sequence[Panel],
    path: str | os.PathLike[str],
    *,
    columns: int = 3,
) -> None:
    """Write one panel per method."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = 4.0
    tallest = max(panel.image.shape[0] / panel.image.shape[1] for panel in panels)
    height = width * tallest + 0.4
    drawing = figure(width * columns, height * rows + 0.4)
    strides = np.unique(np.concatenate([panel.stride for panel in panels])).tolist()
    markers = {stride: MARKERS[n % len(MARKERS)] for n, stride in enumerate(strides)}
    for number, panel in enumerate(panels, 1):
        axes = drawing.add_subplot(rows, columns, number)
        _panel(axes, panel, markers)
    handles = [
        Line2D([], [], color="black", marker=marker, linestyle="", markersize=5)
        for marker in markers.values()
    ]
    names = [f"stride {stride:g}" for stride in strides]
    drawing.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    save(drawing, path, grid=False)


def _panel(axes: Axes, panel: Panel, markers: Mapping[float, str]) -> None:
    image, objects = panel.image, panel.objects
    # Pale, so that the marks stand out on any photograph.
    axes.imshow((0.5 * image + 127.5).astype(np.uint8), interpolation="nearest")
    centre = (panel.anchors[:, :2] + panel.anchors[:, 2:]) / 2
    for number in np.flatnonzero(panel.visible):
        x0, y0, x1, y1 = objects[number]
        colour = tuple(value / 255 for value in PALETTE[number % len(PALETTE)])
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.2))
        mine = panel.positive & (panel.gt == number)
        for stride in np.unique(panel.stride[mine]).tolist():
            x, y = centre[mine & (panel.stride == stride)].T
            axes.scatter(
                x,
                y,
                s=10 + 5 * list(markers).index(stride),
                color=[colour],
                marker=markers[stride],
                edgecolors="black",
                linewidths=0.3,
            )
    axes.set_xlim(0, image.shape[1])
    axes.set_ylim(image.shape[0], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    per_object = panel.positive.sum() / max(panel.visible.sum(), 1)
    counts = f"{panel.positive.sum()} positives, {per_object:.1f} per object"
    axes.set_title(f"{panel.title}\n{counts}")  # names of runs are long
