"""What a search found, as JSON data and as a table."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from anchors_jax.search import costs
from anchors_jax.search.accumulation import METRICS
from anchors_jax.search.layout import Layout, Removed
from anchors_jax.search.pareto import Front


def anchor_names(shapes: list[Float[np.ndarray, "S 2"]]) -> list[str]:
    """Width x height in pixels, of every prototype."""
    return [f"{width:.0f}x{height:.0f}" for level in shapes for width, height in level]


def front_rows(
    front: Front,
    layout: Layout,
    exact: Callable[[Removed], tuple[float, ...]],
    extra: Mapping[str, Callable[[Removed], int | float]],
) -> list[dict[str, Any]]:
    """One row of plain data per node of the front, in its order.

    Args:
      front: ordered.
      exact: unrounded metrics.
      extra: name -> further costs, such as multiply-adds.
    """
    return [
        {
            "index": index,
            "removed": list(node.key),
            "kept": [list(slots) for slots in layout.kept(node.removed)],
            "metrics": dict(zip(METRICS, exact(node.removed), strict=True)),
            "rounded": dict(zip(METRICS, node.metrics, strict=True)),
            "cost": node.cost,
            "boxes": costs.boxes(layout.cells, layout.counts(node.removed)),
            **{name: price(node.removed) for name, price in extra.items()},
        }
        for index, node in enumerate(front)
    ]


def markdown(base: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """A table of the full set and the front; changes are against the full set."""
    prices = [name for name in ("boxes", "macs", "latency") if name in base]
    header = ["index", "kept per level", *METRICS]
    header += [column for name in prices for column in (name, "change")]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in ({**base, "index": "all"}, *rows):
        cells = [str(row["index"]), ",".join(str(len(slots)) for slots in row["kept"])]
        cells += [_percent(row["metrics"][name]) for name in METRICS]
        for name in prices:
            change = row[name] / base[name] - 1 if base[name] else 0.0
            cells += [_amount(row[name]), f"{100 * change:+.1f}%"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


def _amount(value: int | float) -> str:
    if isinstance(value, float) and value < 1:
        return f"{1000 * value:.2g} ms"
    return f"{value / 1e6:,.1f}M" if value >= 1e7 else f"{value:,.0f}"
