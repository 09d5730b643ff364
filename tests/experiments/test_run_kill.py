"""The runner and its trainings, killed for real: the same command then finishes the work."""

import json
import os
import signal
import time

import processes
import pytest

from experiments import rows
from experiments.runner import plan

ROW = ("-m", "experiments.run", "atss", "3", "--rows=atss", "--scale=smoke")


def words(tmp_path):
    return [*ROW, f"--workdir={tmp_path}/runs", f"--results={tmp_path}/results"]


def the_run(tmp_path):
    cells, _ = plan.select(
        rows.load("atss"),
        tables=("3",),
        only=("atss",),
        scale="smoke",
        seeds=1,
        folder=tmp_path / "results",
    )
    (one,) = plan.group(cells, tmp_path / "runs")
    return one


def wait_for(condition, child, *, timeout=400):
    deadline = time.monotonic() + timeout
    while not condition():
        assert child.process.poll() is None, child.output()
        assert time.monotonic() < deadline, child.output()
        time.sleep(0.01)


def training_processes(one):
    """Ids of the processes that train in the work directory of a run."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            try:
                with open(f"/proc/{folder}/cmdline") as file:
                    line = file.read()
            except OSError:
                continue
            if f"--workdir={one.workdir}" in line and "anchors_jax" in line:
                found.append(int(folder))
    return found


@pytest.mark.slow
def test_a_killed_runner_and_training_are_continued(tmp_path):
    env, one = processes.environment(), the_run(tmp_path)
    log = one.workdir / "log.txt"
    # Early, before anything is kept; then after the last checkpoint, before the result is written.
    with processes.started(*words(tmp_path), env=env) as child:
        wait_for(lambda: (one.workdir / "config.json").exists(), child)
        child.process.send_signal(signal.SIGKILL)
        for process in training_processes(one):
            os.kill(process, signal.SIGKILL)
    assert one.missing()
    with processes.started(*words(tmp_path), env=env) as child:
        wait_for(lambda: list(one.workdir.glob("checkpoints/2/*")), child)
        child.process.send_signal(signal.SIGKILL)
        for process in training_processes(one):
            os.kill(process, signal.SIGKILL)
    whole = plan.is_trained(one.workdir)
    said = processes.output_of(*words(tmp_path), env=env, timeout=400)
    assert "[1/1] atss/3/atss seed 0" in said
    assert whole or "continuing at step 2" in log.read_text()
    assert not one.missing()
    assert json.loads(one.cells[0].file.read_text())["step"] == 2
    assert "1 results are there, 0 to make" in processes.output_of(
        *words(tmp_path), env=env, timeout=60
    )


@pytest.mark.slow
def test_a_killed_runner_leaves_its_training_to_the_next_one(tmp_path):
    env, one = processes.environment(), the_run(tmp_path)
    with processes.started(*words(tmp_path), env=env) as child:
        wait_for(lambda: training_processes(one), child)
        child.process.send_signal(signal.SIGKILL)
    (training,) = training_processes(one)
    said = processes.output_of(*words(tmp_path), env=env, timeout=400)
    assert "waiting for another process" in said
    assert training not in training_processes(one)
    assert (one.workdir / "log.txt").read_text().count("$ python -m anchors_jax train") == 1
    assert not one.missing()
