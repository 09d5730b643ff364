"""`prune` as a user meets it: search, the same again, apply, evaluate; and mistakes."""

import json

import numpy as np
import pytest
from command_line import command, config, refused

CONFIG = config("retinanet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has hardly learned anything, and takes its weakest boxes."""
    workdir = tmp_path_factory.mktemp("prune") / "run"
    words = ["--config.train.steps=20", "--config.detector.detect.score_threshold=0.005"]
    words += ["--config.train.learning_rate=0.02"]
    assert command("train", CONFIG, f"--workdir={workdir}", *words) == 0
    return workdir


def test_search_and_the_same_again(run, tmp_path, capsys):
    words = ["prune", f"--workdir={run}", f"--out={tmp_path}", "--cost=boxes", "--min-map=0"]
    assert command(*words) == 0
    assert {
        "candidates.npz", "evaluations.jsonl", "front.json", "front.md", "pareto.png",
        "redundancy.md", "redundancy.png",
    } <= {path.name for path in tmp_path.iterdir()}  # fmt: skip
    first = json.loads((tmp_path / "front.json").read_text())
    assert {"commit", "device", "seed", "scale", "data", "step"} <= first.keys()
    assert first["search"] == "shared"
    assert first["front"]
    assert len(first["anchors"]) == 45
    capsys.readouterr()
    assert command(*words) == 0
    assert "(0 new" in capsys.readouterr().out
    again = json.loads((tmp_path / "front.json").read_text())
    assert again["front"] == first["front"]


@pytest.mark.slow
def test_a_configuration_becomes_a_run_with_the_metrics_of_the_search(run, tmp_path, capsys):
    words = ["prune", f"--workdir={run}", f"--out={tmp_path}", "--cost=boxes", "--min-map=0"]
    assert command(*words) == 0
    row = json.loads((tmp_path / "front.json").read_text())["front"][-1]
    small = tmp_path / "small"
    index = row["index"]
    assert command(*words, f"--apply={index}", f"--to={small}") == 0
    own = f"--config={small}/config.py"
    assert command("eval", own, f"--workdir={small}", f"--out={tmp_path}/eval") == 0
    metrics = json.loads((tmp_path / "eval" / "eval.json").read_text())
    for name, value in row["metrics"].items():
        np.testing.assert_allclose(metrics[name], value, atol=1e-4)
    assert command(*words, f"--apply={index}", f"--to={small}") == 1
    assert "holds a run already" in capsys.readouterr().err


def test_a_sampler_tries_the_same_space(run, tmp_path):
    words = ["prune", f"--workdir={run}", f"--out={tmp_path}", "--min-map=0", "--trials=15"]
    assert command(*words, "--search=optuna") == 0
    found = json.loads((tmp_path / "front.json").read_text())
    assert found["search"] == "optuna"
    assert found["front"]
    assert (tmp_path / "front_macs_optuna_nsga2.json").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "--workdir=DIR is missing"),
        (["--workdir=x", "--apply=1"], 2, "go together"),
        (["--workdir=/no/such"], 1, "/no/such/config.json does not exist"),
        (["--workdir=x", "--search=three"], 2, "invalid choice: 'three'"),
    ],
)
def test_mistakes_get_one_sentence(words, status, message, capsys):
    refused(capsys, "prune", *words, status=status, message=message)


def test_wrong_configurations_are_named(run, tmp_path, capsys):
    for chosen, message in (
        ("3", "search first, or name prototype ids"),
        ("3,99", "anchor 99 does not exist"),
        ("a", "neither an index nor ids"),
    ):
        words = [f"--workdir={run}", f"--out={tmp_path}", f"--to={tmp_path}/x"]
        assert command("prune", *words, f"--apply={chosen}") != 0
        assert message in capsys.readouterr().err
