"""Pictures of a section for a page: means with intervals, curves over the steps, detections."""

import base64
import io
import pathlib
import re
import tempfile
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from anchors_jax import results
from anchors_jax.logs import read_metrics
from anchors_jax.visualize.curves import figure, save
from experiments.reporting.measured import Result
from experiments.reporting.section import Section

OURS, PUBLISHED = "#1f77b4", "#d62728"
WIDTH = 1100  # pixels of an embedded picture


def intervals(part: Section) -> str | None:
    """Our first metric, and differences to the baseline beside the published ones, as data URI."""
    first = part.metrics[0]
    lines = [line for line in part.lines if first in line.means]
    if not lines:
        return None
    drawing = figure(9.0, 1.1 + 0.32 * len(lines))
    left = drawing.add_subplot(1, 2, 1)
    right = drawing.add_subplot(1, 2, 2, sharey=left)
    places = np.arange(len(lines))[::-1]
    for y, line in zip(places, lines, strict=True):
        mean = line.means[first]
        left.errorbar(mean.mean, y, xerr=mean.half, fmt="o", color=OURS, capsize=3)
        gap = line.difference
        if gap is not None:
            right.errorbar(gap.mean, y, xerr=gap.half, fmt="o", color=OURS, capsize=3)
        published = part.published_difference(line)
        if published is not None:
            right.plot(published, y, "D", color=PUBLISHED, fillstyle="none")
    left.set_yticks(places, [line.row.label for line in lines])
    left.set(xlabel=f"our {first} at {part.scale} scale", ylim=(-0.6, len(lines) - 0.4))
    right.axvline(0, color="0.5", linewidth=0.8)
    right.set(xlabel=f"to {part.baseline.label}: ours (dots), published (diamonds)")
    right.tick_params(labelleft=False)
    return svg(drawing)


def curves(part: Section, runs: pathlib.Path) -> str | None:
    """AP at each evaluation, the mean over seeds, where the runs are on this machine."""
    found = {}
    for line in part.lines:
        series = [_evaluations(folder(runs, result)) for result in line.group.values()]
        series = [one for one in series if one]
        steps = sorted(set.intersection(*map(set, series))) if series else []
        if len(steps) > 1:
            found[line.row.label] = [(s, np.mean([one[s] for one in series])) for s in steps]
    if not found:
        return None
    drawing = figure(9.0, 3.6)
    axes = drawing.add_subplot(1, 1, 1)
    for label, points in found.items():
        axes.plot(*np.array(points).T, marker="o", markersize=3, label=label)
    axes.set(xlabel="step", ylabel="AP", ylim=(0, None))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return svg(drawing)


def pictures(part: Section, runs: pathlib.Path) -> Mapping[str, str]:
    """Detections beside the truth of the baseline and the best row: label -> data URI."""
    first = part.metrics[0]
    lines = [line for line in part.lines if first in line.means]
    if not lines:
        return {}
    best = max(lines, key=lambda line: line.means[first].mean)
    chosen = [line for line in lines if line is best or line.row is part.baseline]
    found = {}
    for line in chosen:
        for seed, result in sorted(line.group.items()):
            file = folder(runs, result) / results.PICTURE
            if file.exists():
                found[f"{line.row.label}, seed {seed}"] = photograph(file)
                break
    return found


def folder(runs: pathlib.Path, result: Result) -> pathlib.Path:
    """Where experiments.run kept the run behind a result."""
    name = result.content.get("run") or "unknown"
    return runs / name / f"{result.scale}_seed{result.seed}"


def svg(drawing: Figure) -> str:
    """A figure as a data URI; the same figure gives the same bytes."""
    with tempfile.TemporaryDirectory() as where:
        path = pathlib.Path(where) / "figure.svg"
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
            save(drawing, path)
        text = re.sub(r"<metadata>.*?</metadata>", "", path.read_text(), flags=re.DOTALL)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def photograph(file: pathlib.Path) -> str:
    """A picture file, made smaller, as a data URI."""
    with Image.open(file) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((WIDTH, 10 * WIDTH))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _evaluations(where: pathlib.Path) -> dict[int, float]:
    """Step -> AP in percent of a run; empty where it is not on this machine."""
    file = where / "metrics.jsonl"
    rows = read_metrics(file) if file.exists() else []
    return {row["step"]: 100 * row["eval/AP"] for row in rows if row.get("eval/AP") is not None}
