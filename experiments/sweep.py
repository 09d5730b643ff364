"""Search over config values: python -m experiments.sweep --config=FILE.py --space=... --workdir=DIR

Any number of these processes may work on the same study; the same command continues it.
"""

import argparse
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from experiments.flags import Parser, UsageError, exit_status

USAGE = """\
usage: python -m experiments.sweep --config=FILE.py[:VARIANT] --space=SPACE --workdir=DIR [flags]

what is searched
  --space=KEY=RANGE,KEY=RANGE,...  or a JSON file {"KEY": "RANGE", ...}; KEY is a config key, RANGE
      log:LOW:HIGH            evenly in the logarithm          train.learning_rate=log:1e-4:1e-2
      float:LOW:HIGH[:STEP]   evenly, or multiples of STEP     detector.detect.iou_threshold=float:0.4:0.7
      int:LOW:HIGH[:STEP]     whole numbers                    detector.model.head.depth=int:1:4
      choice:A|B|...          as --config.KEY=A                compute_dtype=choice:float32|bfloat16
  --config.KEY=VALUE          another value for all trials, such as --config.train.epochs=2

how
  --trials=20                 different ones the study has in the end, of all workers together
  --sampler=tpe               tpe, random, grid (of all values, or --points of a continuous range), nsga2
  --points=5                  of a continuous range on a grid
  --objectives=AP             AP, AP50, AP75, APs, APm, APl, AR100 (larger is better); milliseconds
                              (detection per image, measured), macs (multiply-adds of the head).
                              Several give a Pareto front: AP,milliseconds
  --pruner=median             stop a trial whose AP at an evaluation is below the median of the others
                              (after five trials; as often as train.eval_every_epochs says); none.
                              Default: median for one objective; several allow none only
  --seed=N                    of the sampler; workers of one study need different ones (default: drawn)

where
  --workdir=DIR               trials, best.json, trials.csv, history.png, importance.png,
                              parallel.png, pareto.png
  --storage=URL               sqlite:///FILE (default: DIR/study.db) or, for many machines,
                              postgresql://USER@HOST/DATABASE (pip install "psycopg[binary]")
  --study=NAME                in that storage (default: the name of DIR)
  --heartbeat=10              seconds between signs of life; a trial whose worker gave none for three
                              times as long is continued by another from its last checkpoint
  --keep-checkpoints          of all trials, not only of the best
  --debug                     on an error, show where it happened

examples
  python -m experiments.sweep --config=configs/quickstart.py --workdir=runs/sweeps/rate_gamma \\
    --space=train.learning_rate=log:1e-4:1e-2,detector.objective.classify.loss.gamma=float:0.5:3 --trials=20
  python -m experiments.sweep --config=configs/quickstart.py --workdir=runs/sweeps/head --sampler=nsga2 \\
    --space=detector.model.head.depth=int:0:4,detector.model.head.width=int:16:128:16 --objectives=AP,macs
  python -m anchors_jax train --config=runs/sweeps/rate_gamma/best.json --config.seed=1 --workdir=runs/best1

The best of many trials looks better than it is, as it was chosen by the numbers it is judged by:
train best.json with other seeds before believing its AP.
"""  # noqa: E501


SLOW = 60  # seconds: after trials that take longer, the pictures are drawn anew


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line; `config_words` are those that a trial's own command line starts with.

    Raises:
      UsageError: a flag or a value is not understood; names the nearest.
    """
    from anchors_jax.spec import nearest
    from experiments.sweeping import study

    parser = Parser()
    for name in ("--config", "--space", "--storage", "--study", "--sampler", "--pruner"):
        parser.add_argument(name)
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=["AP"])
    for name, default in (("--trials", 20), ("--points", 5), ("--heartbeat", 10), ("--seed", None)):
        parser.add_argument(name, type=int, default=default)
    for name in ("--keep-checkpoints", "--debug"):
        parser.add_argument(name, action="store_true")
    values, rest = parser.parse(words)
    for name in ("config", "space", "workdir"):
        if getattr(values, name) is None:
            raise UsageError(f"--{name} is missing; --help shows examples")
    if values.trials < 0 or values.points < 2 or values.heartbeat < 1:
        raise UsageError("want --trials >= 0, --points >= 2 and --heartbeat >= 1")
    several = len(values.objectives) > 1
    values.sampler = values.sampler or "tpe"
    values.pruner = values.pruner or ("none" if several else "median")
    for name, known in (("sampler", study.SAMPLERS), ("pruner", study.PRUNERS)):
        if getattr(values, name) not in known:
            hint = nearest(getattr(values, name), known)
            raise UsageError(f"--{name}={getattr(values, name)}: no such {name}{hint}")
    if several and values.pruner != "none":
        raise UsageError(f"--pruner={values.pruner} compares one number: several want none")
    values.config_words = [f"--config={values.config}", *rest]
    values.storage = values.storage or f"sqlite:///{values.workdir.absolute()}/study.db"
    values.study = values.study or values.workdir.absolute().name
    return values


def run(words: Sequence[str]) -> None:
    """Do what a command line says."""
    values = parse(words)
    from experiments.sweeping import files as sweep_files
    from experiments.sweeping import space, study, trial, worker

    ranges = space.parse(values.space)
    directions = trial.check(values.objectives)
    record = about(values, ranges)
    values.workdir.mkdir(parents=True, exist_ok=True)
    opened = study.open_study(
        values.storage,
        values.study,
        directions=directions,
        record=record,
        sampler=values.sampler,
        pruner=values.pruner,
        trials=values.trials,
        heartbeat=values.heartbeat,
        seed=values.seed,
    )

    def write(**how: bool) -> Any:
        words, objectives = values.config_words, values.objectives
        return sweep_files.write(opened, values.workdir, words, objectives, **how)

    def after(ended: Any) -> None:
        write(pictures=ended.duration.total_seconds() > SLOW)
        if not values.keep_checkpoints:
            sweep_files.tidy(opened, values.workdir)
        print(line(ended, values.objectives), flush=True)

    worker.Worker(
        opened,
        ranges,
        trial.Trainer(values.config_words, values.workdir, values.objectives),
        trials=values.trials,
        heartbeat=values.heartbeat,
        lock=study.lock_of(values.storage),
        grid=space.grid(ranges, points=values.points) if values.sampler == "grid" else None,
        after=after,
        say=lambda text: print(text, flush=True),
    ).work()
    best = write()
    if best is None:
        raise worker.StudyError(f"study {values.study!r} has no trial that ended yet")
    print(f"best: {line(best, values.objectives)}\nwritten to {values.workdir}")
    print(f"train it: python -m anchors_jax train --config={values.workdir}/{sweep_files.BEST}")


def about(values: argparse.Namespace, ranges: dict[str, Any]) -> dict[str, Any]:
    """What a study is about, once the config is known to take the whole space.

    Raises:
      ValueError: the config has no such key, or a value does not fit.
    """
    from anchors_jax import experiment, options, results, spec
    from experiments.sweeping import space

    for corner in space.corners(ranges):
        experiment.load(options.parse([*values.config_words, *space.overrides(corner)]).config)
    config = spec.plain(options.parse(values.config_words).config)
    return {
        "config": results.without_folders(config),
        "space": {key: str(distribution) for key, distribution in ranges.items()},
        "objectives": values.objectives,
    }


def line(ended: Any, objectives: Sequence[str]) -> str:
    """A trial in one line."""
    from experiments.sweeping import worker

    found = [
        f"{name} {value:.4g}" for name, value in zip(objectives, ended.values or (), strict=False)
    ]
    words = " ".join(found) or ended.user_attrs.get(worker.ERROR) or ended.state.name.lower()
    return f"trial {ended.number}: {worker.describe(ended.params)}  ->  {words}"


def main(words: Sequence[str]) -> int:
    """Run one command line; returns the exit status (1: failed, 2: not understood)."""
    from anchors_jax.__main__ import settle_jax

    settle_jax()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    return exit_status(run, words, usage=USAGE)


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())  # configs import their neighbours as `configs.*`
    sys.exit(main(sys.argv[1:]))
