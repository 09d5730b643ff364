"""Pictures of a pruning search: the front of accuracy and cost, and who covers whom."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from anchors_jax.visualize.boxes import PALETTE
from anchors_jax.visualize.curves import figure, save

Points = Sequence[tuple[float, float]]  # (cost, mAP in 0..1)


def pareto_plot(
    fronts: Mapping[str, Points],
    path: str | os.PathLike[str],
    *,
    tried: Points = (),
    whole: tuple[float, float] | None = None,
    unit: str = "cost",
) -> None:
    """Write mAP against cost: named fronts as steps, everything tried as grey points.

    `whole` is the full set of anchors. Costs of 1e7 and more are shown in millions.
    """
    drawing = figure(5.6, 3.8)
    axes = drawing.add_subplot()
    largest = max((x for points in (*fronts.values(), tried) for x, _ in points), default=1.0)
    factor, word = (1e-6, f"{unit}, millions") if largest >= 1e7 else (1.0, unit)
    if tried:
        x, y = np.array(tried, np.float64).T
        axes.scatter(x * factor, 100 * y, s=6, color="0.8", label="tried", linewidths=0)
    for n, (name, points) in enumerate(fronts.items()):
        x, y = np.array(sorted(points), np.float64).reshape(-1, 2).T
        colour = tuple(value / 255 for value in PALETTE[n % len(PALETTE)])
        style = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.2}
        axes.plot(x * factor, 100 * y, drawstyle="steps-post", label=name, **style)
    if whole is not None:
        axes.plot(
            whole[0] * factor, 100 * whole[1], "k*", markersize=9, label="all anchors", zorder=3
        )
    axes.set(xlabel=word, ylabel="AP, without retraining")
    axes.legend(loc="lower right")
    save(drawing, path)


def cover_plot(
    matrix: Float[np.ndarray, "M M"],
    names: Sequence[str],
    levels: Sequence[int],
    path: str | os.PathLike[str],
) -> None:
    """Write who covers whom as a heat map; lines separate levels, grey rows have no detection."""
    count = len(names)
    side = float(np.clip(0.16 * count, 3.5, 11.0))
    drawing = figure(side + 1.6, side + 0.6)
    axes = drawing.add_subplot()
    axes.set_facecolor("0.85")
    shown = axes.imshow(100 * matrix, vmin=0, vmax=100, cmap="viridis", interpolation="nearest")
    for n in np.flatnonzero(np.diff(np.asarray(levels))):
        axes.axhline(n + 0.5, color="white", linewidth=0.8)
        axes.axvline(n + 0.5, color="white", linewidth=0.8)
    labels = [f"P{level + 3} {name}" for level, name in zip(levels, names, strict=True)]
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    axes.set(xlabel="are covered by boxes of", ylabel="detections of", title="Cover, percent")
    drawing.colorbar(shown, ax=axes, shrink=0.7)
    save(drawing, path, grid=False)
