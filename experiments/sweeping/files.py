"""What a sweep leaves behind: the best config, all trials as a table, and its pictures."""

import csv
import io
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import optuna
from matplotlib import pyplot
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as draw

from anchors_jax import files, options, spec
from experiments.sweeping import space, trial, worker

BEST, FRONT, TABLE = "best.json", "pareto.json", "trials.csv"
HISTORY, IMPORTANCE, PARALLEL, PARETO = (
    f"{name}.png" for name in ("history", "importance", "parallel", "pareto")
)


def write(
    study: optuna.Study,
    workdir: pathlib.Path,
    words: Sequence[str],
    objectives: Sequence[str],
    *,
    pictures: bool = True,
) -> FrozenTrial | None:
    """Write everything; the best trial, if one has ended.

    Of several objectives, best.json is the config with the best first one, and pareto.json lists
    every trial that no other beats in all of them.
    """
    front = best_trials(study)
    write_table(study, workdir / TABLE, objectives)
    if not front:
        return None

    def config(found: FrozenTrial) -> dict[str, Any]:
        return spec.plain(options.parse([*words, *space.overrides(found.params)]).config)

    files.write_json(workdir / BEST, config(front[0]))
    if len(objectives) > 1:
        rows = [
            {
                "trial": found.number,
                **dict(zip(objectives, found.values, strict=True)),
                "folder": str(trial.folder(workdir, found.params).relative_to(workdir)),
                "params": found.params,
            }
            for found in front
        ]
        files.write_json(workdir / FRONT, rows)
    if pictures:
        write_pictures(study, workdir, objectives)
    return front[0]


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that no other beats in every objective, each set of values once, best first first."""
    ended = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not ended:
        return []
    maximized = study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    unique = {worker.identity(t.params): t for t in study.best_trials}
    sign = -1 if maximized else 1
    return sorted(unique.values(), key=lambda t: (sign * t.values[0], t.number))


def write_table(study: optuna.Study, path: pathlib.Path, objectives: Sequence[str]) -> None:
    """One line per trial that was done: number, state, objectives, values, seconds, error."""
    done = [t for t in study.get_trials(deepcopy=False) if worker.counts(t)]
    keys = sorted({key for t in done for key in t.params})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", *objectives, *keys, "seconds", "error"])
    for t in done:
        values = t.values or [""] * len(objectives)
        if t.state == TrialState.PRUNED and t.intermediate_values:
            values = [t.intermediate_values[max(t.intermediate_values)]]
        seconds = f"{t.duration.total_seconds():.1f}" if t.duration else ""
        own = [t.params.get(key, "") for key in keys]
        error = t.user_attrs.get(worker.ERROR, "")
        table.writerow([t.number, t.state.name.lower(), *values, *own, seconds, error])
    files.write_text(path, text.getvalue())


def write_pictures(study: optuna.Study, workdir: pathlib.Path, objectives: Sequence[str]) -> None:
    """History, importance and parallel coordinates of the first objective; the Pareto front."""
    first = None if len(objectives) == 1 else lambda t: t.values[0]
    named = {"target": first, "target_name": objectives[0]}
    judge = PedAnovaImportanceEvaluator()
    _draw(workdir / HISTORY, lambda: draw.plot_optimization_history(study, **named))
    _draw(workdir / PARALLEL, lambda: _parallel_coordinates(study, **named))
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 1:
        importances = draw.plot_param_importances
        _draw(workdir / IMPORTANCE, lambda: importances(study, evaluator=judge, **named))
    if len(objectives) in (2, 3):
        names = list(objectives)
        _draw(workdir / PARETO, lambda: draw.plot_pareto_front(study, target_names=names))


def _parallel_coordinates(study: optuna.Study, *, target_name: str, **named: Any) -> Any:
    """Optuna's plot with the last parts of the keys, which its own cut at 20 letters loses."""
    axes = draw.plot_parallel_coordinate(study, target_name=target_name, **named)
    keys = sorted({key for t in study.get_trials(deepcopy=False) for key in t.params})
    labels = [target_name, *(key.rpartition(".")[2] for key in keys)]
    if len(axes.get_xticks()) == len(labels):  # not so without a completed trial
        axes.set_xticklabels(labels, rotation=0)
    return axes


def tidy(study: optuna.Study, workdir: pathlib.Path) -> None:
    """Remove the checkpoints of trials that have ended and are not among the best."""
    kept = {trial.folder(workdir, t.params) for t in best_trials(study)}
    for t in ended(study.get_trials(deepcopy=False)):
        where = trial.folder(workdir, t.params)
        if where not in kept:
            shutil.rmtree(where / "checkpoints", ignore_errors=True)


def ended(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that are over and will not be continued."""
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def _draw(path: pathlib.Path, plot: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental functions; too few trials
        axes = plot()
    figure = (axes if hasattr(axes, "figure") else axes[0]).figure
    figure.set_size_inches(8.0, 4.5)
    bar = figure.axes[1] if path.name == PARALLEL else None
    if bar is not None:  # the colours' scale, clear of the last coordinate's numbers
        box = bar.get_position()
        bar.set_position([box.x0 + 0.08, box.y0, box.width, box.height])
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=160, bbox_inches="tight")
    pyplot.close(figure)
