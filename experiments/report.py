"""Tables of our numbers beside the published ones: python -m experiments.report PAPER|all|FOLDER

Reads the result files that experiments.run writes. A number that is in no result file is in no
table.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from experiments.flags import Parser, UsageError, exit_status, known_scale

USAGE = """\
usage: python -m experiments.report PAPER|all|FOLDER [--runs=runs] [--scales=paper,bench]

PAPER    one of: {papers}
         writes the tables between the marks of experiments/PAPER/README.md, and the page
         experiments/PAPER/report.html with intervals, curves and pictures
all      every paper
FOLDER   a folder with results/*.json of any runs: writes the table into FOLDER/README.md

flags
  --runs=runs           where the runs are (--workdir of experiments.run); curves and pictures
                        come from there, the numbers never do
  --scales=paper,bench  in this order; smoke means nothing and is left out unless named
"""

SCALES = ("paper", "bench")


def of_paper(
    key: str, *, runs: pathlib.Path, scales: Sequence[str], folder: pathlib.Path | None = None
) -> list[str]:
    """Write README.md and report.html of a paper; one line per table about its claim.

    Raises:
      ValueError: no such paper, a result file that is none, or a README without marks.
    """
    from anchors_jax import files
    from experiments import rows
    from experiments.reporting import html, markdown, measured, section, speeds
    from experiments.runner import plan

    def stale(table: rows.Table, row: rows.Row, result: measured.Result) -> str:
        cell = plan.Cell(paper=key, table=table, row=row, scale=result.scale, seed=int(result.seed))
        state = plan.state(cell)
        return "" if state == "done" else f"it is of another config ({state})"

    paper = rows.load(key)
    folder = folder or rows.FOLDER / key
    groups, left_out = measured.collect(paper, folder, stale=stale)
    costs, others = speeds.collect(paper, folder)
    left_out |= others
    parts = section.sections(paper, groups, scales, costs)
    title = key.replace("_", " ").capitalize()
    markdown.insert(folder / "README.md", markdown.text(parts, left_out), title=title)
    files.write_text(folder / "report.html", html.page(title, parts, left_out, runs=runs))
    return [f"{key}, table {p.table.key} ({p.scale or 'not run'}): {p.word}" for p in parts]


def of_folder(folder: pathlib.Path) -> list[str]:
    """Write the table of a folder's results into its README.md; the table."""
    from experiments.reporting import folder as folders
    from experiments.reporting import markdown

    text = folders.text(folders.read(folder))
    markdown.insert(folder / "README.md", text, title=folder.name)
    return [text]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
      UsageError: a flag, a scale or a value is not understood; names the nearest.
    """
    from experiments import rows

    parser = Parser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--scales", type=lambda text: text.split(","), default=list(SCALES))
    values, rest = parser.parse(words)
    if rest:
        raise UsageError(f"{rest[0]}: tables show what was run; nothing can be set here")
    for scale in values.scales:
        known_scale(scale)
    if values.names == ["all"]:
        values.names = list(rows.PAPERS)
    return values


def run(words: Sequence[str]) -> None:
    """Do what a command line says."""
    from experiments import rows

    values = parse(words)
    for name in values.names:
        if name not in rows.PAPERS and pathlib.Path(name).is_dir():
            lines = of_folder(pathlib.Path(name))
        else:
            lines = of_paper(name, runs=values.runs, scales=values.scales)
        print("\n".join(lines))


def main(words: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    from experiments import rows

    return exit_status(run, words, usage=USAGE.format(papers=", ".join(rows.PAPERS)))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # configs are read, nothing is computed
    sys.exit(main(sys.argv[1:]))
