"""One trial of a sweep: train what the command line says, and measure what was asked for."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from anchors_jax import checkpoints, commands, experiment, inference, options, parallel, results
from anchors_jax.models import count
from anchors_jax.spec import nearest
from anchors_jax.train import NonFiniteLossError
from experiments.sweeping import space, worker

LOCK = ".lock"
LARGER = commands.SUMMARY
SMALLER = ("milliseconds", "macs")


class Trainer:
    """What a worker does with the values of a trial.

    Args:
      words: --config and its overrides, as on the command line.
      workdir: of the sweep; each trial has a folder of its own in it.
      objectives: names out of `LARGER` and `SMALLER`.
    """

    def __init__(
        self, words: Sequence[str], workdir: pathlib.Path, objectives: Sequence[str]
    ) -> None:
        self._words, self._workdir, self._objectives = list(words), workdir, list(objectives)

    def __call__(
        self, params: Mapping[str, Any], report: Callable[[int, float], None]
    ) -> tuple[float, ...]:
        """Train, or continue what a killed worker began; one value per objective.

        A run whose loss is no longer a number has found nothing: its AP is 0.
        """
        with _own(folder(self._workdir, params)) as where:
            words = [*self._words, *space.overrides(params), f"--workdir={where}"]
            parsed = options.parse(words)

            def on_evaluation(step: int, metrics: Mapping[str, float]) -> None:
                if len(self._objectives) == 1 and self._objectives[0] in metrics:
                    report(step, metrics[self._objectives[0]])

            try:
                commands.train_command(parsed, on_evaluation=on_evaluation)
                metrics = json.loads((where / results.RESULT).read_text())["metrics"]
            except NonFiniteLossError as error:
                print(f"AP 0: {error}", file=sys.stderr)
                metrics = dict.fromkeys(LARGER, 0.0)
            run = experiment.load(parsed.config)
            found = {name: metrics[name] for name in LARGER}
            for name in self._objectives:
                if name in SMALLER:
                    found[name] = {"milliseconds": milliseconds, "macs": macs}[name](run, where)
            jax.clear_caches()  # the next trial compiles its own programs
            return tuple(found[name] for name in self._objectives)


def check(objectives: Sequence[str]) -> tuple[str, ...]:
    """The direction of each objective.

    Raises:
      ValueError: there is no such objective, or one stands twice.
    """
    known = (*LARGER, *SMALLER)
    for name in objectives:
        if name not in known:
            raise ValueError(f"--objectives: no objective {name!r}{nearest(name, known)}")
    if len(set(objectives)) < len(objectives):
        raise ValueError(f"--objectives={','.join(objectives)}: one stands twice")
    return tuple("maximize" if name in LARGER else "minimize" for name in objectives)


def folder(workdir: pathlib.Path, params: Mapping[str, Any]) -> pathlib.Path:
    """Where a trial with these values is trained, whoever does it."""
    digest = hashlib.sha256(worker.identity(params).encode()).hexdigest()[:10]
    return workdir / "trials" / digest


def milliseconds(run: experiment.Experiment, where: pathlib.Path, *, repeats: int = 9) -> float:
    """Median wall time of detection per image, on one batch of the evaluation set, compiled."""
    canvas = run.canvases[0]
    try:
        variables, _ = commands.load_variables(run, where, "latest")
    except checkpoints.CheckpointError:  # it diverged before the first one
        variables = jax.jit(functools.partial(run.detector.init, canvas=canvas))(jax.random.key(0))
    loader = run.eval_batches(run.source("eval"))
    batch = parallel.shard(inference.as_batch(next(iter(loader))))
    loader.close()
    predict, variables = inference.make_predict(run.detector), parallel.replicate(variables)
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        jax.block_until_ready(predict(variables, batch))
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times[2:]) / run.config.data.eval_batch_size


def macs(run: experiment.Experiment, where: pathlib.Path | None = None) -> float:
    """Multiply-adds of the head alone on one image: what anchors cost, whatever the backbone."""
    return float(count.head_multiply_adds(run.detector.parts.model, run.canvases[0]))


@contextlib.contextmanager
def _own(where: pathlib.Path) -> Iterator[pathlib.Path]:
    """A trial's folder while no other process of this machine is in it; else one beside it.

    A worker that slept (a closed laptop) may wake up after its trial was given to another.
    """
    where.mkdir(parents=True, exist_ok=True)
    with open(where / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield where.with_name(f"{where.name}-{os.getpid()}")
            return
        except OSError:  # a file system without locks
            pass
        yield where
