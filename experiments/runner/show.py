"""What a plan would do, row by row: --dry-run of `experiments.run`."""

import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from anchors_jax import experiment, results, spec
from anchors_jax.data import records
from anchors_jax.models import count
from experiments import rows
from experiments.runner import launch, plan, resolve

CHANGES = 8  # keys shown of the difference to the baseline


def table_lines(
    paper: str, table: rows.Table, runs: Sequence[plan.Run], *, extra: Sequence[str] = ()
) -> Iterator[str]:
    """What is known of a table and of those of its rows that are among the cells of `runs`."""
    yield f"{paper}, table {table.key}: {table.title}"
    yield f"  claim    {table.claim}"
    yield f"  setting  {table.setting}"
    of_row: dict[str, list[tuple[plan.Run, plan.Cell]]] = {}
    for run in runs:
        for cell in run.cells:
            if (cell.paper, cell.table.key) == (paper, table.key):
                of_row.setdefault(cell.row.key, []).append((run, cell))
    for row in table.rows:
        if row.key in of_row:
            yield ""
            yield from row_lines(table, row, of_row[row.key], extra=extra)
    yield ""


def row_lines(
    table: rows.Table,
    row: rows.Row,
    cells: Sequence[tuple[plan.Run, plan.Cell]],
    *,
    extra: Sequence[str] = (),
) -> Iterator[str]:
    """Label, published number, difference to the baseline, data, cost, state and commands."""
    run, cell = cells[0]
    config = cell.config()
    yield f"  {row.key}: {row.label}{_published(row)}"
    yield f"    config   {row.config}:{row.word(cell.scale)}"
    yield from _differences(table, row, cell, config)
    for word in launch.known_words(config, extra):
        key, _, value = word.removeprefix("--config.").partition("=")
        with config.ignore_type():  # weights are None where none are named
            config.update_from_flattened_dict({key: value})
    loaded = experiment.load(config)
    yield f"    data     {data_line(loaded)}"
    yield f"    cost     {cost_line(row, loaded)}"
    yield f"    exists   {', '.join(_state(*pair) for pair in cells)}"
    if row.reuse is None and run.name != cell.name:
        yield f"    shared   with {run.name}, which has the same config"
    reuses = row.reuse is not None
    words = launch.eval_words(cell, run, extra) if reuses else launch.train_words(run, extra)
    command = " ".join(words)
    yield f"    one host {command}"
    if not reuses:
        yield (
            "    N hosts  JAX_COORDINATOR_ADDRESS=HOST0:1234 JAX_NUM_PROCESSES=N JAX_PROCESS_ID=i "
            f"{command}"
        )


def _published(row: rows.Row) -> str:
    if row.published is None:
        return ""
    number = ", ".join(f"{name} {value:g}" for name, value in row.published.metrics.items())
    doubt = "" if row.published.verified else ", not verified"
    return f"   [published: {number} ({row.published.source}{doubt})]"


def _differences(
    table: rows.Table, row: rows.Row, cell: plan.Cell, config: ConfigDict
) -> Iterator[str]:
    baseline = table.row(table.baseline)
    if row.key == baseline.key:
        yield "    differs  this is the baseline"
        return
    if not baseline.available or baseline.word(cell.scale) is None:
        yield f"    differs  the baseline {baseline.key} cannot be run at {cell.scale} scale"
        return
    base = spec.plain(resolve.config_of(table, baseline, cell.scale))
    found = resolve.changes(base, spec.plain(config))
    shown = [key for key in found if key.split(".")[-1] not in resolve.NAMES]
    if not shown:
        yield "    differs  in nothing from the baseline"
    for key in shown[:CHANGES]:
        before, after = (_short(value) for value in found[key])
        yield f"    differs  {key}: {before} -> {after}"
    if len(shown) > CHANGES:
        yield f"    differs  and in {len(shown) - CHANGES} more keys"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.rpartition("anchors_jax.")[2] if text.startswith("anchors_jax.") else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def data_line(run: experiment.Experiment) -> str:
    """What a row is trained on, and whether it is there."""
    reader = run.readers["train"]
    name, known = reader.func.__name__, records.foreseen(reader)
    if known is not None and known.origin:
        return f"{name}, {known.origin}"
    paths = [str(reader.keywords[key]) for key in results.PATHS if reader.keywords.get(key)]
    there = "there" if all(os.path.exists(path) for path in paths) else "missing"
    return f"{name} {', '.join(paths)} ({there})"


def cost_line(row: rows.Row, run: experiment.Experiment) -> str:
    """Steps and floating-point operations; a backward pass counts as two forward ones."""
    canvas = run.canvases[0]
    forward = forward_flops(run.detector.parts.model, canvas)
    one = f"{forward / 1e9:.1f} GFLOPs per image of {canvas[0]}x{canvas[1]}"
    if row.reuse is not None:
        return f"evaluation only, {one}"
    steps, batch = plan.steps(run), run.config.data.batch_size
    if steps is None:
        return f"{one}; the steps depend on data that is not there"
    total = 3 * forward * steps * batch
    return f"{steps} steps of {batch}, {one}, about {total / 1e15:.3g} PFLOPs in all"


_COUNTED: dict[tuple[str, tuple[int, int]], float] = {}


def forward_flops(model: Any, canvas: tuple[int, int]) -> float:
    """Operations of one forward pass on one image; of networks that read alike counted once."""
    key = re.sub(r" at 0x[0-9a-f]+", "", repr(model)), canvas
    if key not in _COUNTED:
        _COUNTED[key] = count.report(model, canvas).flops
    return _COUNTED[key]


def _state(run: plan.Run, cell: plan.Cell) -> str:
    found = plan.state(cell)
    if found != "missing":
        return f"seed {cell.seed} {found}"
    if plan.is_trained(run.workdir):
        return f"seed {cell.seed} trained, no result yet"
    reached = _checkpoint(run.workdir)
    return f"seed {cell.seed} " + (f"interrupted after step {reached}" if reached else "missing")


def _checkpoint(workdir: pathlib.Path) -> int:
    """The last whole checkpoint of a run."""
    found = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    return max(found, default=0)
