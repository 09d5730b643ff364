"""The command: what it refuses, what it leaves behind, and one real search."""

import csv
import importlib
import json
import math

import processes
import pytest
from command_line import one_sentence
from PIL import Image

from anchors_jax import experiment, options, spec
from experiments import sweep
from experiments.sweeping import trial

RATE, GAMMA = "train.learning_rate", "detector.objective.classify.loss.gamma"
SPACE = f"--space={RATE}=log:1e-4:1e-2,{GAMMA}=choice:0.5|2|3"


class Formula:
    """Stands in for training: best at rate 1e-3 and gamma 2; a wider gap costs more time."""

    def __init__(self, words, workdir, objectives):
        self.objectives = objectives

    def __call__(self, params, report):
        off = abs(math.log10(params[RATE]) + 3) + abs(float(params[GAMMA]) - 2)
        found = {"AP": 1 - off / 4, "milliseconds": 10 - off}
        for step in (1, 2):
            if len(self.objectives) == 1:
                report(step, found["AP"] * step / 2)
        return tuple(found[name] for name in self.objectives)


@pytest.fixture
def formula(monkeypatch):
    monkeypatch.setattr(trial, "Trainer", Formula)


def command(folder, *words):
    return sweep.main([processes.QUICKSTART, f"--workdir={folder}", *words])


def rows(folder):
    return list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))


def test_a_sweep_leaves_its_best_config_and_pictures(tmp_path, formula, capsys):
    folder = tmp_path / "rate"
    assert command(folder, SPACE, "--trials=8", "--seed=1", "--config.train.steps=1") == 0
    said = capsys.readouterr().out
    done = rows(folder)
    assert len(done) == 8
    top = max((row for row in done if row["state"] == "complete"), key=lambda r: float(r["AP"]))
    best = options.parse([f"--config={folder}/best.json"]).config
    assert best.train.learning_rate == float(top[RATE])
    assert spec.plain(best)["detector"]["objective"]["classify"]["loss"]["gamma"] == float(
        top[GAMMA]
    )
    assert best.train.steps == 1
    assert f"--config={folder}/best.json" in said
    for name in ("history", "importance", "parallel"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 600
    assert command(folder, SPACE, "--trials=8", "--config.train.steps=1") == 0
    assert rows(folder) == done  # the same command continues where nothing is left
    assert command(folder, SPACE, "--trials=10", "--config.train.steps=1") == 0
    assert len(rows(folder)) == 10


def test_two_objectives_leave_a_front(tmp_path, formula):
    words = ("--objectives=AP,milliseconds", "--sampler=grid", "--points=2", "--trials=20")
    assert command(tmp_path, SPACE, *words) == 0
    assert len(rows(tmp_path)) == 6  # of 2 x 3 points
    front = json.loads((tmp_path / "pareto.json").read_text())
    values = [(row["AP"], row["milliseconds"]) for row in front]
    assert values == sorted(values, reverse=True)  # here every gain has its price
    assert values[0] == (0.75, 9.0)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["detector"]["objective"]["classify"]["loss"]["gamma"] == 2.0
    assert (tmp_path / "pareto.png").exists()


def test_another_search_in_the_same_study_is_refused(tmp_path, formula, capsys):
    assert command(tmp_path, SPACE, "--trials=1") == 0
    wider = f"--space={RATE}=log:1e-5:1e-2"
    for words, what in (
        ([wider], "space"),
        ([SPACE, "--config.train.epochs=9"], "config"),
        ([SPACE, "--objectives=AP50"], "objectives"),
    ):
        assert command(tmp_path, *words) == 1
        assert f"is about another {what}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "--space is missing"),
        (["--space=train.learning_rat=log:1e-4:1e-2"], 2, "did you mean 'learning_rate'?"),
        (["--space=train.steps=float:0.5:2"], 2, "invalid literal for int"),
        (["--space=train.steps=choice:many"], 2, "invalid literal for int"),
        (["--space=detector.model.backbone.depth=choice:18|19"], 1, "depth 19"),
        ([SPACE, "--sampler=tep"], 2, "no such sampler; did you mean 'tpe'?"),
        ([SPACE, "--pruner=mean"], 2, "no such pruner; did you mean 'median'?"),
        ([SPACE, "--objectives=AP,milisecond"], 1, "did you mean 'milliseconds'?"),
        ([SPACE, "--objectives=AP,AP"], 1, "one stands twice"),
        ([SPACE, "--objectives=AP,macs", "--pruner=median"], 2, "several want none"),
        ([SPACE, "--trails=3"], 2, "did you mean '--trials'?"),
        ([SPACE, "--trials=x"], 2, "invalid int value"),
        ([SPACE, "--points=1"], 2, "--points >= 2"),
        ([SPACE, "--storage=nosuchdb://x"], 1, "--storage=nosuchdb://x cannot be used"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, formula, capsys, words, status, message):
    assert command(tmp_path, *words) == status
    error = capsys.readouterr().err
    assert message in error
    one_sentence(error)


def test_help(capsys):
    assert sweep.main(["--help"]) == 0
    assert "--storage" in capsys.readouterr().out
    assert sweep.main([]) == 2


@pytest.mark.parametrize("name", ["retinanet", "atss"])
def test_the_cost_of_a_head_follows_its_width(name):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    narrow = trial.macs(experiment.load(config))
    head, side = config.detector.model.head, config.data.canvases[0][0]
    cells = sum(math.ceil(side / stride) ** 2 for stride in (8, 16, 32, 64, 128))
    towers = 2 * head.depth * 9 * head.width**2
    outputs = head.shapes_per_cell * (config.num_classes + 4) + (head.quality is not None)
    assert narrow == cells * (towers + 9 * head.width * outputs)


@pytest.mark.slow
def test_a_real_search_trains_prunes_and_measures(tmp_path):
    words = ("--config.train.eval_every_epochs=0.25", "--trials=2", "--objectives=AP,milliseconds")
    assert command(tmp_path, SPACE, *words) == 0
    done = rows(tmp_path)
    assert [row["state"] for row in done] == ["complete"] * 2
    assert all(float(row["milliseconds"]) > 0 for row in done)
    folders = list((tmp_path / "trials").iterdir())
    assert all((folder / "result.json").exists() for folder in folders)
    front = json.loads((tmp_path / "pareto.json").read_text())
    with_checkpoints = {f.name for f in folders if (f / "checkpoints").exists()}
    assert with_checkpoints == {row["folder"].split("/")[-1] for row in front}
