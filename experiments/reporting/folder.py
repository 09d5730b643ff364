"""A table of whatever runs were put into a folder: one line per config, data set and scale."""

import json
import pathlib
import statistics

from experiments.reporting import measured, wording
from experiments.reporting.markdown import table as markdown_table
from experiments.reporting.measured import Result
from experiments.reporting.section import FIRST
from experiments.reporting.statistics import interval


def read(folder: pathlib.Path) -> list[Result]:
    """All of FOLDER/results/*.json, the `result.json` of runs.

    Raises:
      ValueError: a file that is no result of a run, naming file and key; or there is none.
    """
    results = [measured.read(path, own=False) for path in sorted(folder.glob("results/*.json"))]
    if not results:
        raise ValueError(f"{folder / 'results'}: no result files")
    return results


def text(results: list[Result]) -> str:
    """Markdown: means over seeds with their 95 % interval."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        same = json.dumps(result.content["data"], sort_keys=True)  # one name, other drawings
        groups.setdefault((result.data, result.config, result.scale, same), []).append(result)
    head = ["config", "scale", "data", "seeds", *FIRST, "steps", "minutes", "commit"]
    body = []
    for (data, config, scale, _), runs in sorted(groups.items()):
        steps = {run.step for run in runs}
        if len(steps) > 1:
            files = " and ".join(str(run.file) for run in runs)
            raise ValueError(f"{files} differ in step: {', '.join(map(str, sorted(steps)))}")
        seconds = [run.content["seconds"] for run in runs if run.content.get("seconds")]
        minutes = f"{statistics.mean(seconds) / 60:.1f}" if seconds else "continued"
        commits = ", ".join(sorted({run.commit for run in runs}))
        numbers = [_mean(runs, metric) for metric in FIRST]
        cells = [config, scale, data, str(len(runs)), *numbers]
        body.append([*cells, str(runs[0].step), minutes, commits])
    devices = ", ".join(sorted({result.device for result in results}))
    measured_on = f"AP in percent; ± 95 % of Student's t over seeds; measured on {devices}."
    return f"{markdown_table(head, body)}\n\n{measured_on}"


def _mean(runs: list[Result], metric: str) -> str:
    values = [value for run in runs if (value := run.metric(metric)) is not None]
    if not values:
        return "-"
    found = interval(values)
    return wording.number(found.mean) + (f" ± {found.half:.1f}" if found.half else "")
