"""Tables from result files: python -m experiments.report FOLDER

Reads FOLDER/results/*.json (the `result.json` of runs) and writes the table between the marks in
FOLDER/README.md. A number that is in no result file is in no table.
"""

import argparse
import json
import pathlib
import statistics
import sys
from typing import Any

from anchors_jax import files

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All result files of an experiment.

    Raises:
      ValueError: a file that is no result of a run, naming file and key.
    """
    results = []
    for path in sorted((folder / "results").glob("*.json")):
        result = json.loads(path.read_text())
        for key in ("config", "scale", "seed", "commit", "device", "data", "metrics"):
            if key not in result:
                raise ValueError(f"{path}: no key {key!r}; expected the result.json of a run")
        results.append(result)
    if not results:
        raise ValueError(f"{folder / 'results'}: no result files")
    return results


def data_name(result: dict[str, Any]) -> str:
    """What a run was evaluated on, in a few words."""
    data = result["data"]["eval"]
    reader = data["make"].partition(":")[2]
    where = data.get("root") or data.get("annotations") or data.get("directory")
    if reader == "shapes":
        where = f"{data['image_size']} px"
    return f"{reader} {where}, {data.get('split', 'all')}"


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row per config and data set; means over seeds, with their range."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((data_name(result), result["config"], result["scale"]), []).append(result)
    lines = [
        f"| config | scale | data | seeds | {' | '.join(COLUMNS)} | steps | minutes | commit |",
        "|---|---|---|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    for (data, config, scale), runs in sorted(groups.items()):
        cells = [config, scale, data, str(len(runs))]
        cells += [_mean([run["metrics"][column] for run in runs]) for column in COLUMNS]
        seconds = [run["seconds"] for run in runs if run["seconds"]]
        minutes = f"{statistics.mean(seconds) / 60:.1f}" if seconds else "continued"
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        cells += [str(runs[0]["step"]), minutes, commits]
        lines.append("| " + " | ".join(cells) + " |")
    devices = ", ".join(sorted({result["device"] for result in results}))
    return "\n".join([*lines, "", f"AP in percent; measured on {devices}."])


def _mean(values: list[float]) -> str:
    values = [100 * value for value in values if value >= 0]
    if not values:
        return "-"
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> int:
    """Write the table into the README of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    try:
        text = table(read(folder))
        page = folder / "README.md"
        content = page.read_text()
        before, mark, rest = content.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise ValueError(f"{page}: needs the marks {BEGIN} and {END}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    files.write_text(page, f"{before}{BEGIN}\n{text}\n{END}{after}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
