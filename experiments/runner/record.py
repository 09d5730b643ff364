"""Result files of rows: the result of a run, and which row of which table it belongs to."""

import json
import pathlib
from typing import Any

from anchors_jax import files, results, spec
from experiments.runner import plan, resolve


def of_training(cell: plan.Cell, run: plan.Run) -> None:
    """Write the result of a row that is trained.

    Raises:
      ValueError: the work directory holds a run with another config.
    """
    _write(cell, run, trained(run))


def of_evaluation(cell: plan.Cell, run: plan.Run, folder: pathlib.Path) -> None:
    """Write the result of a row that reuses a checkpoint, from the eval.json in `folder`.

    Everything about the training is the owner's; `seconds` is None, as nothing was trained.
    """
    metrics = json.loads((folder / results.EVALUATION).read_text())
    config = results.without_folders(spec.plain(cell.config()))
    own = {
        "config": config["name"],
        "data": {split: config["data"][split] for split in ("train", "eval")},
        "seconds": None,
        "metrics": {name: value for name, value in metrics.items() if name != "curves"},
        "full_config": config,
    }
    _write(cell, run, trained(run) | own)


def of_owner(cell: plan.Cell, run: plan.Run) -> bool:
    """Write a trained row's result from the file of the row that trained it, if there is one."""
    if cell.row.reuse is not None or cell == run.owner or plan.state(run.owner) != "done":
        return False
    _write(cell, run, json.loads(run.owner.file.read_text()))
    return True


def trained(run: plan.Run) -> dict[str, Any]:
    """The result.json of a run.

    Raises:
      ValueError: it is of another config.
    """
    file = run.workdir / results.RESULT
    result = json.loads(file.read_text())
    now = results.without_folders(spec.plain(run.owner.config()))
    changed = plan.conflicts(result["full_config"], now)
    if changed:
        raise ValueError(
            f"{run.workdir} holds a run with another config ({', '.join(changed[:3])}); "
            "remove it or choose another --workdir"
        )
    return result


def _write(cell: plan.Cell, run: plan.Run, result: dict[str, Any]) -> None:
    own = {
        "paper": cell.paper,
        "table": cell.table.key,
        "row": cell.row.key,
        "overrides": resolve.plain_overrides(cell.table, cell.row, cell.scale),
        "run": run.name,
        "checkpoint_of": cell.row.reuse,
    }
    files.write_json(cell.file, own | {k: v for k, v in result.items() if k not in own})
