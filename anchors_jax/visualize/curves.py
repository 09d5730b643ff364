"""Curves: precision against recall, and what a run logged against its steps.

Figures are made without pyplot, so there is no display, no global state and nothing to close.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anchors_jax import files
from anchors_jax.visualize.boxes import PALETTE

Rows = Sequence[dict[str, Any]]
NAMED_CLASSES = 10  # more curves than this cannot be told apart by colour


def precision_recall_plot(metrics: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write precision against recall at IoU .5 and .75, for every class and their mean.

    `metrics` come from `coco_metrics` with its curves. Up to ten classes are named with their AP
    at that IoU; more are drawn as grey lines behind the mean.
    """
    if "curves" not in metrics:
        raise ValueError(
            f"{os.fspath(path)}: the metrics hold no curves (coco_metrics(curves=True))"
        )
    curves = metrics["curves"]
    drawing = figure(8.4, 3.8)
    for n, (key, iou) in enumerate((("AP50", "0.5"), ("AP75", "0.75")), 1):
        axes = drawing.add_subplot(1, 2, n)
        _precision_recall(axes, curves["recall"], curves[key])
        axes.set_title(f"IoU \u2265 {iou}")
    save(drawing, path)


def training_curve(source: str | os.PathLike[str] | Rows, path: str | os.PathLike[str]) -> None:
    """Write the losses, the learning rate and the AP of a run over its steps.

    `source` is a metrics.jsonl or its rows, dicts with "step". A key belongs to the panel of the
    losses when it contains "loss", of the learning rate when its last part is "lr" or
    "learning_rate", and of the AP when its last part starts with "AP" ("eval/AP50", but not the
    APs of classes one level deeper). Panels without values are left out; losses are drawn as they
    are, pale, with their running mean on top.

    Raises ValueError, naming the file, when there is nothing to draw.
    """
    name = "rows" if isinstance(source, Sequence) and not isinstance(source, str) else str(source)
    series = _series(_read(source))
    panels = [
        (title, {key: values for key, values in series.items() if belongs(key)}, scale, smooth)
        for title, belongs, scale, smooth in (
            ("loss", lambda key: "loss" in key, "linear", True),
            (
                "learning rate",
                lambda key: key.split("/")[-1] in ("lr", "learning_rate"),
                "log",
                False,
            ),
            ("AP", _is_ap, "linear", False),
        )
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        raise ValueError(f"{name}: no loss, learning rate or AP to draw")
    drawing = figure(4.2 * len(panels), 3.4)
    for n, (title, lines, scale, smooth) in enumerate(panels, 1):
        axes = drawing.add_subplot(1, len(panels), n)
        _lines(axes, lines, smooth=smooth, in_percent=title == "AP")
        positive = all((values[:, 1] > 0).all() for values in lines.values())
        axes.set(title=title, xlabel="step", yscale=scale if positive else "linear")
        if title == "AP":
            axes.set_ylim(bottom=0)
    save(drawing, path)


def _precision_recall(axes: Axes, recall: list[float], curves: dict[str, Any]) -> None:
    named = len(curves["per_class"]) <= NAMED_CLASSES
    for n, (name, precision) in enumerate(curves["per_class"].items()):
        style = {"color": "0.8", "linewidth": 0.6}
        if named:
            label = f"{name}  {100 * np.mean(precision):.1f}"
            style = {"color": _colour(n), "linewidth": 1.2, "label": label}
        axes.plot(recall, precision, **style)
    if curves["mean"] and (not named or len(curves["per_class"]) > 1):
        label = f"mean of {len(curves['per_class'])}  {100 * np.mean(curves['mean']):.1f}"
        axes.plot(recall, curves["mean"], color="black", linewidth=2.0, label=label)
    if curves["mean"]:
        # Searching the best place takes long among many curves.
        axes.legend(loc="best" if named else "lower left", title="AP", alignment="left")
    else:
        axes.text(0.5, 0.5, "no ground truth", ha="center", va="center", color="0.4")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _lines(axes: Axes, lines: dict[str, np.ndarray], *, smooth: bool, in_percent: bool) -> None:
    groups = {key.rpartition("/")[0] for key in lines}
    prefix = f"{groups.pop()}/" if len(groups) == 1 else ""
    for n, (key, values) in enumerate(lines.items()):
        steps, y = values[:, 0], values[:, 1] * (100 if in_percent else 1)
        label = key.removeprefix(prefix)
        marker = "o" if len(y) < 30 else None
        style: dict[str, Any] = {"color": _colour(n), "linewidth": 1.5, "markersize": 3}
        if smooth and len(y) >= 30:
            axes.plot(steps, y, color=_colour(n), linewidth=0.6, alpha=0.3)
            y = _running_mean(y, max(3, len(y) // 30))
        axes.plot(steps, y, label=label, marker=marker, **style)
    if len(lines) > 1:
        axes.legend()


def _running_mean(y: Float[np.ndarray, "N"], half: int) -> Float[np.ndarray, "N"]:
    """Mean over up to `half` values to each side; the window shrinks at the ends."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    low = np.maximum(np.arange(len(y)) - half, 0)
    high = np.minimum(np.arange(len(y)) + half + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def _series(rows: Rows) -> dict[str, Float[np.ndarray, "N 2"]]:
    """Finite numbers of each key as (step, value), in order of steps."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key != "step" and "step" in row and number and np.isfinite(value):
                series.setdefault(key, []).append((row["step"], value))
    return {key: np.array(sorted(values), np.float64) for key, values in series.items()}


def _is_ap(key: str) -> bool:
    parts = key.split("/")
    return len(parts) <= 2 and parts[-1] in ("AP", "AP50", "AP75")


def _read(source: str | os.PathLike[str] | Rows) -> Rows:
    if not isinstance(source, str | os.PathLike):
        return source
    rows = []
    for number, line in enumerate(pathlib.Path(source).read_text("utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{os.fspath(source)}: line {number} is not JSON") from None
    return rows


def _colour(n: int) -> tuple[float, ...]:
    return tuple(value / 255 for value in PALETTE[n % len(PALETTE)])


def figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, without pyplot's global state."""
    drawing = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def save(drawing: Figure, path: str | os.PathLike[str], *, grid: bool = True) -> None:
    """Give all axes the same plain style and write the figure, atomically."""
    for axes in drawing.axes:
        axes.spines[["top", "right"]].set_visible(not grid)
        if grid:
            axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(10)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(9)
        legend = axes.get_legend()
        if legend is not None:
            legend.get_frame().set(edgecolor="none", alpha=0.85)
            legend.get_title().set_fontsize(8)
            for text in legend.get_texts():
                text.set_fontsize(8)
    with files.atomic_path(path) as temporary:
        drawing.savefig(temporary)
