"""One picture of how anchors cover a data set."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from anchors_jax.search import coverage, coverage_positives, coverage_report
from anchors_jax.visualize.boxes import PALETTE
from anchors_jax.visualize.curves import figure, save

_DOTS = 20_000  # more dots than this only cover each other
_CLASSES = 10
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def plot(
    found: coverage_report.Coverage,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    *,
    threshold: float,
    given: coverage_positives.Positives | None = None,
    title: str = "",
) -> None:
    """Write four panels: recall by IoU, sizes of boxes and anchors, positives, recall by class."""
    drawing = figure(10.4, 7.6)
    axes = drawing.subplots(2, 2)
    masks = coverage_report.groups(found, classes)
    _recall(axes[0, 0], found, masks["size"], threshold)
    _sizes(axes[0, 1], found, threshold)
    if given is not None and given.counts:
        _positives(axes[1, 0], given)
    else:
        axes[1, 0].set_axis_off()
    _by_class(axes[1, 1], found, masks["class"], threshold)
    if title:
        drawing.suptitle(title, fontsize=10)
    save(drawing, path)


def dots(
    axes: Axes,
    wh: Float[np.ndarray, "n 2"],
    shown: Bool[np.ndarray, "n"],
    colour: tuple[int, int, int],
    label: str,
) -> None:
    """A dot per shown box at its width and height; of very many an even sample."""
    chosen = np.linspace(0, len(wh) - 1, min(len(wh), _DOTS)).astype(int)
    points = wh[chosen[shown[chosen]]]
    size = 3 if len(wh) > 2000 else 7
    style = {"s": size, "alpha": 0.35, "linewidths": 0, "color": [_unit(colour)]}
    axes.scatter(*np.maximum(points, 0.5).T, rasterized=True, **style)
    axes.scatter([], [], s=25, color=[_unit(colour)], label=label)  # a dot that a legend shows


def log_sides(axes: Axes) -> None:
    """Both axes in powers of two, with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN)
        axis.set_minor_formatter(NullFormatter())


def _sizes(axes: Axes, found: coverage_report.Coverage, threshold: float) -> None:
    """Boxes, red where no anchor reaches the threshold, and a mark per anchor shape."""
    wh, reached = found.boxes.wh, found.best.iou >= threshold
    for mask, colour, name in (
        (reached, PALETTE[1], f"best IoU \u2265 {threshold:g}"),
        (~reached, PALETTE[0], "below"),
    ):
        if mask.any():
            dots(axes, wh, mask, colour, f"boxes, {name} ({100 * mask.mean():.1f} %)")
    for number, level in enumerate(found.levels):
        if len(level.shapes):
            axes.scatter(
                *level.shapes.T,
                marker="X",
                s=55,
                color=str(0.75 * number / max(len(found.levels) - 1, 1)),
                edgecolors="white",
                linewidths=0.7,
                label=None if number else "anchor shapes, paler on coarser levels",
                zorder=3,
            )
    axes.set(xlabel="width (network pixels)", ylabel="height", title="Boxes and anchor shapes")
    log_sides(axes)
    axes.legend(loc="upper left")


def _recall(
    axes: Axes, found: coverage_report.Coverage, sizes: dict[str, np.ndarray], threshold: float
) -> None:
    iou = found.best.iou
    rows = {"all": np.ones(len(iou), bool), **sizes}
    for number, (name, mask) in enumerate(rows.items()):
        if mask.any():
            colour = "black" if name == "all" else _colour(number - 1)
            mean = iou[mask].mean()
            axes.plot(
                coverage.IOUS,
                coverage.recall(iou[mask]),
                color=colour,
                linewidth=2.2 if name == "all" else 1.4,
                label=f"{name}: {mask.sum():,} objects, mean IoU {mean:.2f}",
            )
    axes.axvline(threshold, color="0.6", linewidth=0.9, linestyle="--")
    axes.set(xlabel="IoU", ylabel="objects with such an anchor", ylim=(0, 1.02))
    axes.set_title(f"Recall of the anchors (dashed: IoU {threshold:g})")
    if len(iou):
        axes.legend(loc="lower left", fontsize="small", framealpha=0)


def _positives(axes: Axes, given: coverage_positives.Positives) -> None:
    top = max((int(np.percentile(c, 99)) for c in given.counts.values() if len(c)), default=1)
    at = np.arange(1, max(top, 2) + 1)
    for number, (name, counts) in enumerate(given.counts.items()):
        mean = counts.mean() if len(counts) else 0.0
        axes.step(
            at,
            coverage_positives.cumulative(counts, at),
            where="mid",
            color=_colour(number),
            label=f"{name}: mean {mean:.1f}",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="positives", ylabel="objects with at least so many", ylim=(0, 1.02))
    axes.set_title(f"Positives per object ({len(given.images)} images)")
    axes.legend(loc="lower left", framealpha=0)


def _by_class(
    axes: Axes, found: coverage_report.Coverage, masks: dict[str, np.ndarray], threshold: float
) -> None:
    """Recall at the threshold and at 0.75, of the classes that are covered worst."""
    rows = [(name, found.best.iou[mask]) for name, mask in masks.items() if mask.any()]
    rows.sort(key=lambda item: coverage.recall(item[1], (threshold,))[0])
    worst = rows[:_CLASSES][::-1]
    place = np.arange(len(worst))
    for offset, iou, colour in ((0.2, threshold, _colour(1)), (-0.2, 0.75, _colour(2))):
        values = [coverage.recall(best, (iou,))[0] for _, best in worst]
        axes.barh(place + offset, values, height=0.38, color=colour, label=f"IoU \u2265 {iou:g}")
    axes.set_yticks(place, [f"{name} ({len(best):,})" for name, best in worst])
    left_out = len(rows) - len(worst)
    axes.set(xlabel="recall", xlim=(0, 1))
    axes.set_title(f"The {len(worst)} worst of {len(rows)} classes" if left_out else "Classes")
    if worst:
        axes.legend(loc="lower right")


def _colour(number: int) -> tuple[float, ...]:
    return _unit(PALETTE[number % len(PALETTE)])


def _unit(colour: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(value / 255 for value in colour)
