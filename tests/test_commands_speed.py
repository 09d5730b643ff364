"""`speed` as a user meets it: two runs side by side, what is written, and mistakes."""

import importlib
import json
import math
import pathlib
import shutil

import pytest

from anchors_jax import commands_speed, experiment, speed
from anchors_jax.__main__ import main

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CONFIG = f"--config={REPOSITORY}/configs/retinanet.py:smoke"
CANVAS = 64  # of smoke scale
CELLS = sum(math.ceil(CANVAS / stride) ** 2 for stride in (8, 16, 32, 64, 128))


def command(*words):
    return main(["anchors_jax", *map(str, words)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has learned nothing."""
    workdir = tmp_path_factory.mktemp("speed") / "run"
    assert command("train", CONFIG, f"--workdir={workdir}", "--config.train.steps=2") == 0
    return workdir


def test_runs_are_measured_side_by_side(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "result.json").unlink()
    (other / "eval.json").write_text(json.dumps({"AP": 0.25, "AP50": -1.0}))
    result = json.loads((run / "result.json").read_text())
    result["metrics"] |= {"AP": 0.2, "AP50": 0.5}
    (run / "result.json").write_text(json.dumps(result))
    capsys.readouterr()
    words = [f"--workdir={run}", f"--workdir={other}", "--images=3", f"--out={tmp_path}/s.json"]
    # Changes every run's own config.
    assert command("speed", *words, "--config.detector.detect.score_threshold=0.5") == 0
    content = json.loads((tmp_path / "s.json").read_text())
    assert content.keys() == {"device", "commit", "jax", "images", "runs"}
    assert content["images"] == 3
    assert content["device"].startswith("1 x cpu")
    first, second = content["runs"]
    assert first["workdir"] == str(run)
    for entry in (first, second):
        assert entry["ms"] > entry["detect_ms"] > 0
        assert entry["boxes"] == 9 * CELLS
        assert entry["step"] == 2
    assert {k: first[k] for k in ("AP", "AP50")} == {"AP": 0.2, "AP50": 0.5}
    assert {k: second[k] for k in ("AP", "AP50")} == {"AP": 0.25, "AP50": None}
    printed = capsys.readouterr().out
    assert f"| {run} | 20.0 | 50.0 | " in printed
    assert f"| {other} | 25.0 (+5.0) | - | " in printed
    assert f"{9 * CELLS:,} (+0 %)" in printed
    assert "median of 3 images, one at a time, on 1 x cpu" in printed


def test_without_a_name_the_file_lies_in_the_first_run(run):
    assert command("speed", f"--workdir={run}", "--images=1", "--checkpoint=latest") == 0
    assert json.loads((run / "speed.json").read_text())["images"] == 1


@pytest.mark.parametrize(
    ("config", "scale", "boxes", "macs"),
    [
        ("ssd", "paper", 8732, 4_231_319_040),  # published: 8732 and 4231.3M
        ("retinanet", "smoke", 9 * CELLS, None),
        ("atss", "smoke", CELLS, None),
        ("semi_anchored", "smoke", CELLS, None),  # 25 anchors per location, one leaves it
    ],
)
def test_counts_follow_from_the_config(config, scale, boxes, macs):
    settings = importlib.import_module(f"configs.{config}").get_config(scale)
    found = speed.counts(experiment.load(settings))
    assert found["boxes"] == boxes
    assert found["parameters"] > 0
    if macs is None:
        head, classes = settings.detector.model.head, settings.num_classes
        towers = 2 * head.depth * 9 * head.width**2
        outputs = head.shapes_per_cell * (classes + 4) + (head.get("quality") is not None)
        if config == "semi_anchored":
            outputs = classes + head.shapes_per_cell * (1 + 4)
        macs = CELLS * (towers + 9 * head.width * outputs)
    assert found["head_macs"] == macs


def test_changes_are_against_the_first_row():
    base = {"ms": 20.0, "detect_ms": 4.0, "boxes": 1000, "head_macs": 10**8, "parameters": 10**6}
    less = {"ms": 12.34, "detect_ms": 1.0, "boxes": 500, "head_macs": 59e6, "parameters": 10**6}
    head, _, first, second = commands_speed.markdown(["a", "b"], [base, less]).splitlines()
    assert head == "| run | ms | post-processing ms | boxes | head MACs | parameters |"
    assert first == "| a | 20.0 | 4.00 | 1,000 | 100.0M | 1.0M |"
    assert second == (
        "| b | 12.3 (-38 %) | 1.00 (-75 %) | 500 (-50 %) | 59.0M (-41 %) | 1.0M (+0 %) |"
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "--workdir=DIR is missing"),
        (["--workdir=/no/such"], 1, "/no/such/config.json does not exist"),
        (["--workdir=x", "--images=0"], 2, "'0' is not a number from 1 on"),
        (["--workdir=x", "--checkpoint=last"], 2, "--checkpoint=last is not best, latest or"),
        (["--workdir=x", "--workdir=y", "--config=z.py"], 2, "each has its own"),
    ],
)
def test_mistakes_get_one_sentence(words, status, message, capsys):
    assert command("speed", *words) == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_mistakes_in_a_run_get_one_sentence(run, tmp_path, capsys):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    for words, status, message in (
        ([f"--workdir={tmp_path}"], 1, "checkpoints does not exist: train into this workdir"),
        ([f"--workdir={run}", "--checkpoint=7"], 1, "checkpoints/7 does not exist; there is 2"),
        ([f"--workdir={run}", "--image=7"], 2, "Unknown command line flag 'image'"),
        ([f"--workdir={run}", "photo.jpg"], 2, "'photo.jpg' is not a flag of speed"),
    ):
        capsys.readouterr()
        assert command("speed", *words) == status
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
