"""What detection with the rows of a table costs: python -m experiments.speed PAPER [TABLE ...]

Rows are measured in turn, image by image, in one process on the first device. One file per table
and scale holds one such session; `python -m experiments.report` shows it beside the AP.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from experiments.flags import check, exit_status, positive, table_parser

USAGE = """\
usage: python -m experiments.speed PAPER [TABLE ...] [flags]

flags
  --scale=bench           smoke, bench or paper
  --rows=a,b              these rows only: the file then holds no others
  --workdir=runs          where experiments.run left the runs; of each row that of seed 0 is taken
  --results=experiments   where PAPER/results/TABLE/speed_SCALE.json is written
  --images=30             the first N of the evaluation set
  --config.KEY=VALUE      where data is kept (root, images, annotations, directory, cache_dir)

papers: {papers}
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; `extra` holds the words `--config.KEY=VALUE`.

    Raises:
      UsageError: a flag or a value is not understood; names the nearest.
    """
    from anchors_jax.speed import IMAGES

    parser = table_parser()
    parser.add_argument("--images", type=positive, default=IMAGES)
    values, rest = parser.parse(words)
    values.extra = check(values.scale, rest)
    return values


def run(words: Sequence[str]) -> None:
    """Do what a command line says.

    Raises:
      ValueError: there is no run to measure, or one of another config, or its data is not there.
    """
    from experiments import rows
    from experiments.runner import plan

    values = parse(words)
    paper, workdir = rows.load(values.paper), values.workdir.absolute()
    cells, _ = plan.select(
        paper,
        tables=values.tables,
        only=values.rows,
        scale=values.scale,
        seeds=1,
        folder=values.results.absolute(),
    )
    runs = plan.group(cells, workdir)
    of = {cell.name: one for one in runs for cell in one.cells if plan.is_trained(one.workdir)}
    here = [cell for cell in cells if cell.name in of]
    if not here:
        raise ValueError(
            f"no run of {paper.key} at {values.scale} scale with seed 0 has ended in "
            f"{values.workdir}: python -m experiments.run makes them"
        )
    for cell in cells:
        if cell.name not in of:
            print(f"not measured: {cell.name}: its run is not there", file=sys.stderr)
    with contextlib.chdir(rows.FOLDER.parent):  # configs name their data as seen from there
        for table in dict.fromkeys(cell.table.key for cell in here):
            chosen = [cell for cell in here if cell.table.key == table]
            measure(chosen, [of[cell.name] for cell in chosen], values)


def measure(cells: Sequence[Any], runs: Sequence[Any], values: argparse.Namespace) -> None:
    """Measure rows of one table, each on the checkpoint of its run; write the file, print it."""
    import jax

    from anchors_jax import commands_speed, files, speed
    from experiments.reporting import speeds

    subjects = [_subject(cell, one, values.extra) for cell, one in zip(cells, runs, strict=True)]
    costs, images = speed.measure(subjects, images=values.images)
    keys = [cell.row.key for cell in cells]
    found = dict(zip(keys, map(dataclasses.asdict, costs), strict=True))
    names = {"scale": values.scale, "paper": cells[0].paper, "table": cells[0].table.key}
    out = speeds.file(names["paper"], names["table"], scale=values.scale, folder=cells[0].folder)
    files.write_json(out, speed.conditions(images) | names | {"rows": found})
    print(commands_speed.markdown(keys, list(found.values())))
    print(f"median of {images} images, one at a time; written to {out}\n")
    jax.clear_caches()  # the next table compiles its own programs


def _subject(cell: Any, one: Any, extra: Sequence[str]) -> Any:
    """A row's own config with the last checkpoint of its run: what its AP was measured with."""
    from anchors_jax import commands, experiment, options, speed
    from experiments.runner import launch, record

    record.trained(one)
    loaded = experiment.load(options.parse(launch.config_words(cell, extra)).config)
    variables, _ = commands.load_variables(loaded, one.workdir, "latest")
    return speed.Subject(run=loaded, variables=variables)


def main(words: Sequence[str]) -> int:
    """Run one command line; returns the exit status (1: failed, 2: not understood)."""
    from anchors_jax.__main__ import settle_jax

    settle_jax()
    # Libraries' notes on their own housekeeping; faults reach the user as exceptions.
    logging.getLogger("absl").setLevel(logging.ERROR)
    from experiments.rows import PAPERS

    return exit_status(
        run,
        words,
        usage=USAGE.format(papers=", ".join(PAPERS)),
        stopped="nothing of the last table was written",
    )


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())  # configs import their neighbours as `configs.*`
    sys.exit(main(sys.argv[1:]))
