"""What is to be run: cells of tables, the trainings behind them, and what already exists."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from anchors_jax import commands, experiment, results, spec
from anchors_jax.data import records
from anchors_jax.logs import read_metrics
from experiments import rows
from experiments.runner import resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One wanted result: a row at a scale with a seed; `folder` is where results are kept."""

    paper: str
    table: rows.Table
    row: rows.Row
    scale: str
    seed: int
    folder: pathlib.Path = rows.FOLDER

    @property
    def name(self) -> str:
        """PAPER/TABLE/ROW, as commands name it."""
        return f"{self.paper}/{self.table.key}/{self.row.key}"

    @property
    def file(self) -> pathlib.Path:
        """Its result file."""
        keys = self.paper, self.table.key, self.row.key
        return rows.result_file(*keys, scale=self.scale, seed=self.seed, folder=self.folder)

    def config(self) -> ConfigDict:
        """The row's config with the cell's seed."""
        config = resolve.config_of(self.table, self.row, self.scale)
        config.seed = self.seed
        return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training and all wanted cells that report or evaluate it."""

    owner: Cell
    cells: tuple[Cell, ...]
    workdir: pathlib.Path

    @property
    def name(self) -> str:
        """PAPER/TABLE/ROW of the row that trains."""
        return self.owner.name

    def missing(self) -> tuple[Cell, ...]:
        """The cells without a result of their present config."""
        return tuple(cell for cell in self.cells if state(cell) != "done")


def select(
    paper: rows.Paper,
    *,
    tables: Sequence[str],
    only: Sequence[str],
    scale: str,
    seeds: int,
    folder: pathlib.Path = rows.FOLDER,
) -> tuple[list[Cell], list[tuple[str, str]]]:
    """The cells of a paper's tables (none named: all), and what cannot be run with its reason.

    Raises:
      rows.RowError: a table, row or scale does not exist.
    """
    if scale not in rows.SCALES:
        raise rows.RowError(f"no scale {scale!r}{spec.nearest(scale, rows.SCALES)}")
    chosen = [paper.table(key) for key in tables] if tables else list(paper.tables)
    known = {row.key for table in chosen for row in table.rows}
    for key in only:
        if key not in known:
            where = f"table {tables[0]}" if len(tables) == 1 else "the tables"
            raise rows.RowError(f"{where} of {paper.key}: no row {key!r}{spec.nearest(key, known)}")
    cells, left_out = [], []
    for table in chosen:
        for row in table.rows:
            if only and row.key not in only:
                continue
            if row.available and row.word(scale) is not None:
                keys = {"paper": paper.key, "table": table, "row": row, "scale": scale}
                cells += [Cell(**keys, seed=seed, folder=folder) for seed in range(seeds)]
            else:
                no_scale = f"no {scale} scale" if row.available else "a quoted number"
                left_out.append((f"{paper.key}/{table.key}/{row.key}", row.unavailable or no_scale))
    return cells, left_out


def group(cells: Sequence[Cell], workdir: pathlib.Path) -> list[Run]:
    """The trainings behind cells: rows with the same config, and those that reuse it, share one."""
    grouped: dict[tuple[tuple[str, str, str], int], list[Cell]] = {}
    for cell in cells:
        key = resolve.owner_of(cell.table, cell.row, cell.scale), cell.seed
        grouped.setdefault(key, []).append(cell)
    runs = []
    for ((paper, table_key, row_key), seed), members in grouped.items():
        table = rows.load(paper).table(table_key)
        owner = dataclasses.replace(
            members[0], paper=paper, table=table, row=table.row(row_key), seed=seed
        )
        folder = workdir / owner.name / f"{owner.scale}_seed{seed}"
        runs.append(Run(owner=owner, cells=tuple(members), workdir=folder))
    return runs


def state(cell: Cell) -> str:
    """ "done", "missing", or "stale: KEY ..." where the file is of another config."""
    if not cell.file.exists():
        return "missing"
    try:
        kept = json.loads(cell.file.read_text())["full_config"]
    except (ValueError, KeyError, TypeError):
        return "stale: the file cannot be read"
    changed = conflicts(kept, results.without_folders(spec.plain(cell.config())))
    return f"stale: {', '.join(changed[:3])}" if changed else "done"


def conflicts(kept: Any, now: Any) -> list[str]:
    """Keys at which two configs differ, but for those that do not touch what is learned."""
    free = {*commands.FREE_KEYS, *resolve.NAMES}
    return [key for key in resolve.changes(kept, now) if key.split(".")[-1] not in free]


def images(run: experiment.Experiment) -> int | None:
    """Training images, if that can be known without preparing data."""
    known = records.foreseen(run.readers["train"])
    if known is not None:
        every = run.config.data.keep_empty or known.with_objects is None
        return known.images if every else known.with_objects
    try:
        return len(run.data("train"))
    except (OSError, ValueError):
        return None


def steps(run: experiment.Experiment) -> int | None:
    """Training steps, if they can be known without preparing data."""
    if run.config.train.steps:
        return run.config.train.steps
    count = images(run)
    return None if count is None else run.plan(count).total_steps


def step_reached(workdir: pathlib.Path) -> int:
    """The last logged step of the run in a folder; 0 where there is none."""
    file = workdir / "metrics.jsonl"
    logged = read_metrics(file) if file.exists() else []
    return int(logged[-1]["step"]) if logged else 0


def is_trained(workdir: pathlib.Path) -> bool:
    """Whether the run in a folder has ended."""
    return (workdir / results.RESULT).exists()
