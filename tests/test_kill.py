"""A run that is killed, at any moment, loses nothing but the steps after its last checkpoint."""

import contextlib
import json
import pathlib
import time

import jax
import numpy as np
import processes
import pytest
import saving_child

from anchors_jax import commands, experiment, options
from anchors_jax.checkpoints import Checkpoints
from anchors_jax.logs import read_metrics

SAVING = pathlib.Path(saving_child.__file__)


def finished(folder):
    """Steps whose checkpoint is complete."""
    return sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())


def unfinished(folder):
    """Checkpoints that are being written, or were when their process was killed."""
    return [path for path in folder.glob("checkpoints/*") if not path.name.isdigit()]


def wait(child, condition, *, timeout):
    """Poll until the condition holds; fails when the process ends or time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert child.process.poll() is None, child.output()[-3000:]
        assert time.monotonic() < deadline, child.output()[-3000:]
        time.sleep(0.001)


def check_whole(folder):
    """Every finished checkpoint holds all of its own step."""
    reader = Checkpoints(folder, read_only=True)
    for step in finished(folder):
        variables, training, loader = reader.restore(
            step, variables=saving_child.state(0), training={"step": np.int32(0)}
        )
        assert training["step"] == loader["step"] == step
        for leaf in variables.values():
            np.testing.assert_array_equal(leaf, np.float32(step))
    reader.close()


def save_until_killed(folder):
    """A process that saves, killed in its third checkpoint or later, where it can be caught."""
    before = max(finished(folder), default=0)
    with processes.started(SAVING, folder, env=processes.environment()) as child:
        wait(child, lambda: max(finished(folder), default=0) > before + 1, timeout=60)
        with contextlib.suppress(AssertionError):
            wait(child, lambda: unfinished(folder), timeout=5)


def test_killed_while_writing_leaves_whole_checkpoints_only(tmp_path):
    caught = 0
    for attempt in range(4):
        save_until_killed(tmp_path)
        caught += bool(unfinished(tmp_path))
        assert finished(tmp_path)
        check_whole(tmp_path)
        if caught and attempt:
            break
    assert caught, "no attempt hit a checkpoint that was being written"
    # The next run clears away what was left half-written, once it saves.
    last = max(finished(tmp_path))
    stored = Checkpoints(tmp_path)
    assert stored.latest() == last
    stored.save(
        last + 1,
        variables=saving_child.state(last + 1),
        training={"step": np.int32(last + 1)},
        loader={"step": last + 1},
    )
    stored.close()
    assert not unfinished(tmp_path)
    check_whole(tmp_path)


STEPS = 40


def train_words(workdir):
    return [
        "train",
        processes.QUICKSTART,
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        "--config.train.checkpoint_every_epochs=0.5",  # every second step
        "--config.train.ema_decay=0.9",
    ]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    env = processes.environment()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with processes.started("-m", "anchors_jax", *train_words(cut), env=env) as child:
        wait(child, lambda: finished(cut), timeout=600)
    killed_at = max(finished(cut))
    assert 0 < killed_at < STEPS
    with processes.started("-m", "anchors_jax", *train_words(cut), env=env) as child:
        wait(child, lambda: max(finished(cut)) > max(killed_at, STEPS // 2), timeout=600)
    killed_again = max(finished(cut))
    assert killed_at < killed_again < STEPS
    said = processes.output_of("-m", "anchors_jax", *train_words(cut), env=env, timeout=600)
    assert f"continuing at step {killed_again}" in said
    processes.output_of("-m", "anchors_jax", *train_words(whole), env=env, timeout=600)

    rows = [read_metrics(folder / "metrics.jsonl") for folder in (cut, whole)]
    assert [row["step"] for row in rows[0]] == [*range(1, STEPS + 1), STEPS]  # the last: evaluation
    timings = ("train/images_per_second", "train/seconds_waiting")
    for first, second in zip(*rows, strict=True):
        assert {k: v for k, v in first.items() if k not in timings} == {
            k: v for k, v in second.items() if k not in timings
        }
    assert finished(cut) == finished(whole)
    run = experiment.load(options.parse(train_words(whole)[1:]).config)
    first, second = (commands.load_variables(run, folder, "latest") for folder in (cut, whole))
    assert first[1] == second[1] == STEPS
    jax.tree.map(np.testing.assert_array_equal, first[0], second[0])
    results = [(folder / "eval.json").read_text() for folder in (cut, whole)]
    assert json.loads(results[0]) == json.loads(results[1])
    assert not unfinished(cut)
