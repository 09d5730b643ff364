"""Two processes that train together: the same numbers as one, and every file written once."""

import json
import pathlib

import jax
import numpy as np
import processes
import pytest

from anchors_jax import commands, experiment, options
from anchors_jax.__main__ import main
from anchors_jax.logs import read_metrics

CHILD = pathlib.Path(__file__).with_name("multihost_child.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("hosts")
    processes.on_hosts(2, CHILD, folder, timeout=180)
    return [dict(np.load(folder / f"{index}.npz")) for index in range(2)]


def test_processes_know_each_other(seen):
    np.testing.assert_array_equal(seen[0]["process"], [0, 2, 2, True])
    np.testing.assert_array_equal(seen[1]["process"], [1, 2, 2, False])


def test_sums_cross_hosts_and_slices_stay(seen):
    for index, host in enumerate(seen):
        np.testing.assert_array_equal(host["back"], [0, 1, 2])
        assert host["total"] == 6 * 1 + 6 * 2
        np.testing.assert_array_equal(host["product"], [[0, 1 + index, 2 + 2 * index]] * 2)
        np.testing.assert_array_equal(host["flags"], [True, False, True, True])
    np.testing.assert_array_equal(seen[0]["bits"], seen[1]["bits"])
    assert len(set(seen[0]["bits"].tolist())) == 2, "every device draws its own numbers"


def test_every_host_gets_all_detections(seen):
    ids = seen[0]["table_image_id"]
    assert len(set(ids.tolist())) == 5
    np.testing.assert_array_equal(seen[0]["table_score"], np.float32(0.75))
    for name in ("table_image_id", "table_box", "table_score"):
        np.testing.assert_array_equal(seen[0][name], seen[1][name])


def test_checkpoints_are_written_once_and_read_everywhere(seen):
    for host in seen:
        np.testing.assert_array_equal(host["restored"], np.arange(4) * 3)
        assert host["best"] == 1


def words(command, workdir):
    """A run with enough detections to be worth gathering."""
    threshold = "--config.detector.detect.score_threshold=0.0"
    return [command, processes.QUICKSTART, f"--workdir={workdir}", threshold]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """(one process with two devices, two processes with one) and what the two said."""
    folder = tmp_path_factory.mktemp("runs")
    said = processes.on_hosts(2, "-m", "anchors_jax", *words("train", folder / "two"), timeout=900)
    assert main(["anchors_jax", *words("train", folder / "one")]) == 0
    return folder / "one", folder / "two", said


@pytest.mark.slow
def test_two_hosts_train_like_one(workdirs):
    one, two, _ = workdirs
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (one, two)]
    assert [row["step"] for row in rows[1]] == [1, 2, 2]
    for first, second in zip(*rows, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            if name.startswith(("train/loss", "train/per_image", "train/gradient", "eval/")):
                assert second[name] == pytest.approx(first[name], rel=1e-5, abs=1e-5), name
    run = experiment.load(options.parse(words("train", two)[1:]).config)
    variables = [commands.load_variables(run, folder, "latest") for folder in (one, two)]
    assert [step for _, step in variables] == [2, 2]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        *(tree for tree, _ in variables),
    )


@pytest.mark.slow
def test_the_first_host_speaks_and_writes_for_all(workdirs):
    one, two, said = workdirs
    assert "2 x cpu on 2 hosts" in said[0]
    assert "AP50" in said[0]
    assert not [line for line in said[1].splitlines() if not line.startswith("[Gloo]")]
    assert len(list((two / "tensorboard").iterdir())) == 1
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    kept = json.loads((two / "config.json").read_text())
    assert kept["classes"] == json.loads((one / "config.json").read_text())["classes"]
    found = [json.loads((folder / "detections.json").read_text()) for folder in (one, two)]
    assert found[1]
    assert {row["image_id"] for row in found[0]} == {row["image_id"] for row in found[1]}


@pytest.mark.slow
def test_two_hosts_evaluate_what_they_trained(workdirs, tmp_path):
    _, two, _ = workdirs
    said = processes.on_hosts(
        2, "-m", "anchors_jax", *words("eval", two), f"--out={tmp_path}", timeout=900
    )
    assert "images in" in said[0]
    assert not [line for line in said[1].splitlines() if not line.startswith("[Gloo]")]
    first, second = (json.loads((f / "eval.json").read_text()) for f in (two, tmp_path))
    assert first == second


@pytest.mark.slow
def test_one_process_continues_what_two_began(workdirs, tmp_path, capsys):
    _, two, _ = workdirs
    before = json.loads((two / "eval.json").read_text())
    assert main(["anchors_jax", *words("train", two)]) == 0
    assert "continuing at step 2" in capsys.readouterr().err
    after = json.loads((two / "eval.json").read_text())
    assert after["AP"] == pytest.approx(before["AP"], abs=1e-6)
