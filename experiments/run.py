"""Fill the tables of a paper: python -m experiments.run PAPER [TABLE ...] [flags]

Runs what is missing and continues what was interrupted: the same command again is always right.
One result file per row and seed, in experiments/PAPER/results/TABLE/.
"""

import argparse
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from experiments.flags import check, exit_status, positive, table_parser

USAGE = """\
usage: python -m experiments.run PAPER [TABLE ...] [flags]

flags
  --scale=bench           smoke (seconds, for tests), bench (minutes per row) or paper
  --seeds=1               seeds 0 to N - 1 of every row
  --rows=a,b              these rows only
  --workdir=runs          where the runs are: WORKDIR/PAPER/TABLE/ROW/SCALE_seedK
  --results=experiments   where result files are written, under PAPER/results
  --dry-run               what would be done: configs, cost, data, commands
  --jobs=N                rows at a time; default: one per GPU, else one. 1: all GPUs on one row
  --shard=I/N             the I-th of N equal shares (0 to N - 1): one per host
  --config.KEY=VALUE      where data is kept (root, images, annotations, directory, cache_dir),
                          and the weights to start from (init_from: a file, or random)

papers: {papers}
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; `extra` holds the words `--config.KEY=VALUE`.

    Raises:
      UsageError: a flag or a value is not understood; names the nearest.
    """
    parser = table_parser()
    parser.add_argument("--seeds", type=positive, default=1)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--jobs", type=positive)
    parser.add_argument("--shard", type=_shard, default=(0, 1))
    values, rest = parser.parse(words)
    values.extra = check(values.scale, rest)
    return values


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(index), int(count)


def run(words: Sequence[str]) -> int:
    """Do what a command line says; the exit status."""
    from experiments import rows
    from experiments.runner import execute, launch, plan

    values = parse(words)
    paper = rows.load(values.paper)
    cells, left_out = plan.select(
        paper,
        tables=values.tables,
        only=values.rows,
        scale=values.scale,
        seeds=values.seeds,
        folder=values.results,
    )
    index, count = values.shard
    # Runs start in the repository, wherever this was called.
    here = pathlib.Path.cwd() == rows.FOLDER.parent
    runs = plan.group(cells, values.workdir if here else values.workdir.resolve())[index::count]
    if values.dry_run:
        dry_run(paper, runs, left_out, values)
        return 0
    pending = [run for run in runs if run.missing()]
    cells_done = sum(len(run.cells) - len(run.missing()) for run in runs)
    print(
        f"{paper.key} at {values.scale} scale: {cells_done} results are there, "
        f"{sum(len(run.missing()) for run in pending)} to make in {len(pending)} runs"
        + (f"; {len(left_out)} rows cannot be run (--dry-run says why)" if left_out else "")
    )
    if not pending:
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    workers = launch.environments(values.jobs)[: len(pending)]
    failures = execute.Runner(pending, environments=workers, extra=values.extra).work()
    for failure in failures:
        name = f"{failure.cell.name} seed {failure.cell.seed}"
        print(f"error: {name}: {failure.reason}", file=sys.stderr)
    return 1 if failures else 0


def dry_run(paper: Any, runs: Sequence[Any], left_out: Sequence[Any], values: Any) -> None:
    """Print what would be done."""
    from experiments.runner import show

    wanted = {cell.table.key for run in runs for cell in run.cells}
    for table in paper.tables:
        if table.key in wanted:
            for line in show.table_lines(paper.key, table, runs, extra=values.extra):
                print(line)
    for name, reason in left_out:
        print(f"not run: {name}: {reason}")
    missing = [run for run in runs if run.missing()]
    hosts = " ".join(["python -m experiments.run", paper.key, *values.tables])
    print(
        f"{len(runs)} runs, {len(missing)} of them not done. On several hosts, host I of N: "
        f"{hosts} --scale={values.scale} --seeds={values.seeds} --shard=I/N"
    )


def main(words: Sequence[str]) -> int:
    """Run one command line; returns the exit status (1: rows failed, 2: not understood)."""
    # Plans are made on the CPU: the accelerators belong to the runs. JAX is not imported yet.
    chosen = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax  # noqa: F401  reads the variable on import

    os.environ.pop("JAX_PLATFORMS")
    if chosen is not None:
        os.environ["JAX_PLATFORMS"] = chosen
    from experiments.rows import PAPERS

    return exit_status(run, words, usage=USAGE.format(papers=", ".join(PAPERS)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
