"""Metrics as text for the terminal."""

from typing import Any

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def format_table(metrics: dict[str, Any], *, max_classes: int = 20) -> str:
    """COCO metrics in percent as aligned text; a dash where there is no ground truth.

    The AP of every class is listed when there are at most `max_classes`, otherwise the best and
    the worst five.
    """
    recalls = [key for key in metrics if key.startswith("AR")]
    lines = [_row(SUMMARY, metrics), _row(recalls, metrics)]
    classes = metrics.get("per_class", {})
    rows = [(name, ap, metrics.get("per_class_AP50", {}).get(name)) for name, ap in classes.items()]
    if len(rows) > max_classes:
        ranked = sorted((row for row in rows if row[1] >= 0), key=lambda row: -row[1])
        rows = ranked if len(ranked) <= 10 else [*ranked[:5], ("...", None, None), *ranked[-5:]]
    if len(classes) > 1 and rows:
        width = max(5, *(len(name) for name, _, _ in rows))
        lines.append(f"{'class':<{width}}  {'AP':>5}  {'AP50':>5}")
        for name, ap, ap50 in rows:
            lines.append(f"{name:<{width}}  {_percent(ap)}  {_percent(ap50)}".rstrip())
    counts = [f"{metrics[key]:,} {key}" for key in ("images", "objects", "detections")
              if key in metrics]  # fmt: skip
    if counts:
        lines.append(", ".join(counts))
    return "\n".join(lines)


def _row(keys: tuple[str, ...] | list[str], metrics: dict[str, Any]) -> str:
    known = [key for key in keys if key in metrics]
    head = "  ".join(f"{key:>5}" for key in known)
    return head + "\n" + "  ".join(_percent(metrics[key]) for key in known)


def _percent(value: float | None) -> str:
    if value is None:
        return " " * 5
    return f"{'-':>5}" if value < 0 else f"{100 * value:5.1f}"
