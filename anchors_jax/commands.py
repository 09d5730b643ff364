"""What the commands do: each function is one verb of the command line."""

import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from anchors_jax import (
    __version__,
    checkpoints,
    evaluation,
    experiment,
    files,
    inference,
    logs,
    monitor,
    parallel,
    results,
    spec,
    train,
)
from anchors_jax.data import folder, prepare, records
from anchors_jax.models import count
from anchors_jax.models.one_stage import trainable_mask
from anchors_jax.options import Options, UsageError

CONFIG = "config.json"
# Keys that a continued run may change: they do not touch what is learned.
FREE_KEYS = {
    *("log_every", "checkpoint_every_epochs", "eval_every_epochs", "workers", "backend"),
    *("match_images", "voc", "eval_batch_size"),
    *results.PATHS,  # data may have moved
}


def train_command(
    options: Options,
    *,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Train, evaluate and draw; continue where an earlier run in the same workdir stopped.

    `on_evaluation` is that of `train.fit`.
    """
    workdir = options.require_workdir()
    config = options.config
    parallel.initialize()
    run = experiment.load(config)
    source, held_out = run.source("train"), run.source("eval")
    batches = run.train_batches(source)
    plan = run.plan(run.training_images(source))
    stored = checkpoints.Checkpoints(workdir)
    begin = stored.latest() or 0
    # A checkpoint has everything; the file of weights may be gone by then.
    state, update, notes = fresh_state(run, plan, weights=stored.latest() is None)
    keep_config(workdir, config, options.config_file, held_out)
    with logs.Logger(workdir, resume_step=begin, active=parallel.is_main()) as logger:
        for line in [*describe(run, plan, images=len(source)), *notes]:
            logger.note(line)
        evaluate, started = Evaluator(run, held_out), time.perf_counter()
        state, _ = train.fit(
            state=state,
            step_fn=train.bound_step(
                run.detector,
                update,
                ema_decay=config.train.ema_decay,
                normaliser_group=config.train.normaliser_group,
            ),
            batches=batches,
            plan=plan,
            schedule=run.schedule_of_batches(plan),
            checkpoints=stored,
            evaluate=evaluate,
            logger=logger,
            workdir=workdir,
            on_evaluation=on_evaluation,
        )
    if parallel.is_main():
        metrics, threshold = evaluate.metrics, options.score_threshold
        results.write(workdir, metrics, held_out, evaluate.table, score_threshold=threshold)
        results.training_curve(workdir)
        # A run that had ended keeps the result of its training, unless it was killed before that.
        if begin < plan.total_steps or not (workdir / results.RESULT).exists():
            results.write_result(
                workdir,
                metrics,
                config=spec.plain(config),
                step=int(state.step),
                # A run that was continued does not know how long it took before.
                seconds=None if begin else time.perf_counter() - started,
            )
        print(evaluation.format_table(metrics))
        print(f"written to {workdir}: {', '.join(results.WRITTEN)}")


def fresh_state(
    run: experiment.Experiment, plan: train.Plan, *, weights: bool
) -> tuple[train.TrainState, optax.GradientTransformation, list[str]]:
    """The state before the first step, its update rule, and lines on where it comes from.

    `weights`: begin as `config.init_from` says; without, with random numbers, to be replaced.
    """
    notes: list[str] = []

    def start(variables: Any) -> Any:
        variables, note = run.begin(variables)
        notes.append(note)
        return variables

    state, update = train.create_state(
        run.detector,
        run.canvases[0],
        run.rule(plan),
        seed=run.seed,
        average=run.config.train.ema_decay > 0,
        start=start if weights else None,
    )
    return state, update, notes


def eval_command(options: Options) -> None:
    """Evaluate a checkpoint of a run; write eval.json and the pictures."""
    workdir = options.require_workdir()
    parallel.initialize()
    run = experiment.load(options.config)
    held_out = run.source("eval")
    variables, step = load_variables(run, workdir, options.checkpoint)
    predict = inference.make_predict(run.detector)
    table = run_detector(run, predict, variables, held_out, progress=parallel.is_main())
    metrics = report_metrics(run, held_out, table)
    if parallel.is_main():
        out = options.out or workdir
        results.write(out, metrics, held_out, table, score_threshold=options.score_threshold)
        print(evaluation.format_table(metrics))
        print(f"step {step}; written to {out}: {', '.join(results.WRITTEN)}")


def predict_command(options: Options) -> None:
    """Detect in images or folders of images; write pictures and COCO JSON in original pixels."""
    workdir = options.require_workdir()
    if not options.arguments:
        raise UsageError("name at least one image or folder: predict ... --workdir=DIR IMAGE...")
    run = experiment.load(options.config)
    images = folder.folder(options.arguments, **kept_classes(workdir))
    variables, step = load_variables(run, workdir, options.checkpoint)
    predict = inference.make_predict(run.detector)
    table = run_detector(run, predict, variables, images, progress=True)
    out = options.out or workdir / "predictions"
    results.write_predictions(out, images, table, score_threshold=options.score_threshold)
    drawn = int((table.score >= options.score_threshold).sum())
    print(
        f"step {step}: {len(images)} images, {drawn} boxes with score >= "
        f"{options.score_threshold}; written to {out}"
    )


def prepare_command(options: Options) -> None:
    """Write the config's training and evaluation data as one ArrayRecord data set."""
    if options.out is None:
        raise UsageError("--out=DIR is missing: the folder to write the data set to")
    run = experiment.load(options.config)
    splits = {"train": run.source("train"), "validation": run.source("eval")}
    written = prepare.prepare(splits, out_dir=options.out, name=options.config.name)
    print(
        f"written to {written}; train on it with --config=configs/prepared.py "
        f"--config.data.root={written} --config.num_classes={run.config.num_classes}"
    )


def describe_command(options: Options) -> None:
    """Print the config and what the network costs."""
    run = experiment.load(options.config)
    print(json.dumps(spec.plain(options.config), indent=2))
    print(network_line(run))


def describe(run: experiment.Experiment, plan: train.Plan, *, images: int) -> list[str]:
    """What a run is, before it starts."""
    config = run.config
    rate, reference = run.learning_rate(), config.train.reference_batch
    hosts = parallel.process()[1]
    return [
        f"anchors_jax {__version__}, jax {jax.__version__}, {parallel.device_count()} x "
        f"{jax.devices()[0].device_kind} on {hosts} host{'s' * (hosts > 1)}",
        network_line(run),
        f"{images} training images, {plan.total_steps} steps of {plan.batch_size} images "
        f"({plan.total_steps * plan.batch_size / images:.1f} epochs)",
        f"learning rate {config.train.learning_rate:g} per {reference} images -> {rate:g} for "
        f"{config.data.batch_size * config.train.accumulate}",
    ]


def network_line(run: experiment.Experiment) -> str:
    """Parameters and FLOPs of the config's network on its first canvas."""
    model, (rows, columns) = run.detector.parts.model, run.canvases[0]
    mask = functools.partial(trainable_mask, model)
    return f"{count.report(model, run.canvases[0], mask=mask)} of {rows}x{columns}"


def run_detector(
    run: experiment.Experiment,
    predict: Callable[..., Any],
    variables: Any,
    source: Any,
    *,
    progress: bool = False,
) -> evaluation.DetectionTable:
    """Detections of a whole data set in original pixels; `progress` prints a line as it goes."""
    begin, done = time.perf_counter(), 0

    def on_batch(arrays: Mapping[str, np.ndarray], _: evaluation.DetectionTable) -> None:
        nonlocal done
        done += inference.count_images(arrays)
        if progress and sys.stderr.isatty():
            rate = done / (time.perf_counter() - begin)
            eta = (len(source) - done) / max(rate, 1e-9)
            line = f"\r{done}/{len(source)} images  {rate:.1f} img/s  eta {eta:.0f} s "
            print(line, end="", file=sys.stderr)

    table = inference.detect(
        predict,
        variables,
        run.eval_batches(source),
        category_ids=source.category_ids,
        on_batch=on_batch,
    )
    if progress:
        seconds = time.perf_counter() - begin
        print(f"\r{len(source)} images in {seconds:.1f} s ({len(source) / seconds:.1f} img/s)")
    return table


def report_metrics(
    run: experiment.Experiment, source: Any, table: evaluation.DetectionTable
) -> dict[str, Any]:
    """COCO's metrics, and VOC's where the config asks for them."""
    settings = run.config.evaluation
    truth = source.ground_truth()
    metrics = evaluation.coco_metrics(
        truth, table, backend=settings.backend, max_detections=settings.max_detections
    )
    if settings.voc:
        for rule in evaluation.VOC_RULES:
            voc = evaluation.voc_metrics(truth, table, rule=rule)
            metrics[f"VOC_AP50_{rule}"] = voc["AP"]
    return metrics


SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Evaluator:
    """variables -> what a run logs at an evaluation; keeps the last metrics and detections."""

    def __init__(self, run: experiment.Experiment, source: Any) -> None:
        self._run, self._source = run, source
        self._predict = inference.make_predict(run.detector)
        self._watch = monitor.MatchMonitor(
            run.detector, run.eval_batches(source), images=run.config.evaluation.match_images
        )
        self.metrics: dict[str, Any] = {}
        self.table = evaluation.empty_table()

    def __call__(self, variables: Any) -> dict[str, float]:
        """Detect in all images of the evaluation set; metrics, and how the matches look."""
        self.table = run_detector(self._run, self._predict, variables, self._source)
        self.metrics = report_metrics(self._run, self._source, self.table)
        matches = {f"match/{name}": value for name, value in self._watch(variables).items()}
        recall = f"AR{max(self._run.config.evaluation.max_detections)}"
        return {name: self.metrics[name] for name in (*SUMMARY, recall)} | matches


def load_variables(
    run: experiment.Experiment, workdir: pathlib.Path, which: str
) -> tuple[Any, int]:
    """Variables of the best, the latest or a numbered checkpoint, and its step.

    Raises:
      CheckpointError: there is none, or it belongs to another network.
    """
    stored = checkpoints.Checkpoints(workdir, read_only=True)
    step = {"best": stored.best, "latest": stored.latest}.get(which, lambda: int(which))()
    if step is None:
        raise checkpoints.CheckpointError(f"{stored.folder} holds no checkpoint yet")
    variables = stored.restore_variables(step, variables=run.variable_shapes())
    stored.close()
    return variables, step


def keep_config(
    workdir: pathlib.Path, config: ConfigDict, file: str, source: records.Source
) -> None:
    """Write config.json with the class names, or check that it is the run's config.

    Raises:
      ValueError: the workdir belongs to a run with another config; names the first difference.
    """
    path = workdir / CONFIG
    now = {
        "file": file,
        "classes": list(source.classes),
        "category_ids": [int(category) for category in source.category_ids],
        "config": spec.plain(config),
    }
    if not path.exists():
        if parallel.is_main():
            files.write_json(path, now)
        return
    before = json.loads(path.read_text())["config"]
    found = differences(before, now["config"])
    changed = [key for key in found if key.split(".")[-1] not in FREE_KEYS]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with another config: {', '.join(changed[:3])} "
            f"{'differs' if len(changed) == 1 else 'differ'}; choose another --workdir"
        )


def kept_classes(workdir: pathlib.Path) -> dict[str, Any]:
    """Class names and category ids of the run in `workdir`."""
    path = workdir / CONFIG
    if not path.exists():
        raise ValueError(f"{path} does not exist: {workdir} is not the folder of a run")
    kept = json.loads(path.read_text())
    return {"classes": kept["classes"], "category_ids": kept["category_ids"]}


def differences(one: Any, other: Any, *, prefix: str = "") -> list[str]:
    """Dotted keys at which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(one.keys() | other.keys()):
            where = f"{prefix}.{key}" if prefix else key
            if key not in one or key not in other:
                found.append(where)
            else:
                found += differences(one[key], other[key], prefix=where)
        return found
    return [] if one == other else [prefix]


COMMANDS: dict[str, Callable[[Options], None]] = {
    "train": train_command,
    "eval": eval_command,
    "predict": predict_command,
    "prepare": prepare_command,
    "describe": describe_command,
}
