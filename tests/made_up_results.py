"""Result files that no run has written, and a paper for them."""

import json

from experiments import rows

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def table(**changes):
    settings = {
        "key": "1",
        "title": "Made up",
        "claim": "Both are better.",
        "setting": "COCO, val2017",
        "baseline": "base",
        "rows": (
            rows.Row(key="base", label="Base", config="a.py", published=rows.ap(30.0, source="T")),
            rows.Row(
                key="more",
                label="More | or less",
                config="b.py",
                published=rows.ap(32.5, 50.0, source="blog", verified=False),
            ),
            rows.Row(key="other", label="Other", config="c.py"),
            rows.Row(key="far", label="Far", published=rows.ap(40.0, source="T"), unavailable="no"),
        ),
    }
    return rows.Table(**settings | changes)


def paper(**changes):
    return rows.Paper(key="made_up", tables=(table(**changes),))


def result(config="a", ap=0.5, **changes):
    data = {"make": "m:shapes", "image_size": 64, "split": "validation"}
    return {
        "config": config,
        "scale": "bench",
        "seed": 0,
        "commit": "abc",
        "device": "1 x cpu",
        "data": {"train": data, "eval": data},
        "step": 10,
        "seconds": 90.0,
        "metrics": dict.fromkeys(METRICS, ap),
    } | changes


def write(folder, row, ap, *, seed=0, scale="bench", **changes):
    """The result file of a row, in its place."""
    content = result(row, ap, seed=seed, scale=scale, table="1", row=row) | changes
    path = folder / "results" / "1" / f"{row}_{scale}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def fresh(table, row, found):
    """No result is stale."""
    return ""


def costs(**changes):
    """The content of a file of costs: rows "base" and "more" of the table."""
    base = {"ms": 12.345, "detect_ms": 1.5, "boxes": 1606, "head_macs": 76_800_000}
    more = {"ms": 8.0, "detect_ms": 0.25, "boxes": 340, "head_macs": 1_628_200_000}
    return {
        "device": "1 x fast",
        "commit": "def",
        "jax": "0.1",
        "images": 7,
        "scale": "bench",
        "paper": "made_up",
        "table": "1",
        "rows": {"base": base | {"parameters": 10}, "more": more | {"parameters": 20}},
    } | changes


def write_costs(folder, **changes):
    """A file of costs in its place."""
    path = folder / "results" / "1" / "speed_bench.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(costs(**changes)))
    return path
