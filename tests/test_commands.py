"""The command line as a user meets it: a whole small run, and mistakes."""

import json

import numpy as np
import pytest
from command_line import command, config, refused

from anchors_jax.data import images

CONFIG = config("quickstart")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "quickstart"
    assert command("train", CONFIG, f"--workdir={workdir}") == 0
    return workdir


def test_train_leaves_everything_behind(run):
    present = {path.name for path in run.iterdir()}
    assert {
        "config.json", "checkpoints", "metrics.jsonl", "eval.json", "detections.json",
        "detections.png", "precision_recall.png", "training.png",
    } <= present  # fmt: skip
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    metrics = json.loads((run / "eval.json").read_text())
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"} <= metrics.keys()
    assert set(metrics["per_class"]) == {"disk", "ring", "box", "triangle", "star"}


def test_train_again_continues_and_ends(run, capsys):
    before = (run / "metrics.jsonl").read_text()
    assert command("train", CONFIG, f"--workdir={run}") == 0
    said = capsys.readouterr()
    assert "continuing at step 2" in said.err
    assert "AP50" in said.out
    assert (run / "metrics.jsonl").read_text() == before


def test_eval_repeats_the_numbers(run, tmp_path):
    assert command("eval", CONFIG, f"--workdir={run}", f"--out={tmp_path}") == 0
    first, second = (json.loads((f / "eval.json").read_text()) for f in (run, tmp_path))
    assert first == second


def test_predict_draws_and_writes_original_pixels(run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide", (50, 120)), ("tall", (200, 40))):
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        (photos / f"{name}.jpg").write_bytes(images.encode_jpeg(pixels))
    out = tmp_path / "out"
    # A network that has hardly been trained says almost nothing: take its weakest boxes, too.
    words = ("predict", CONFIG, f"--workdir={run}", f"--out={out}", photos)
    assert command(*words, "--config.detector.detect.score_threshold=0.0") == 0
    content = json.loads((out / "predictions.json").read_text())
    assert [(i["width"], i["height"]) for i in content["images"]] == [(40, 200), (120, 50)]
    assert content["annotations"]
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        width, height = sizes[row["image_id"]]
        assert 0 <= x <= x + w <= width + 1e-3
        assert 0 <= y <= y + h <= height + 1e-3
    for name, size in (("wide", (50, 120)), ("tall", (200, 40))):
        assert images.size_of((out / f"{name}.png").read_bytes(), name=name) == size


def test_prepare_writes_what_prepared_reads(tmp_path, capsys):
    assert command("prepare", CONFIG, f"--out={tmp_path}") == 0
    said = capsys.readouterr().out
    folder = next(word for word in said.split() if "config.data.root=" in word).partition("=")[2]
    workdir = tmp_path / "run"
    words = [f"--config.data.root={folder}", "--config.num_classes=5", f"--workdir={workdir}"]
    assert command("train", config("prepared"), *words) == 0
    assert (workdir / "eval.json").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["trian", CONFIG], 2, "no command 'trian'; did you mean 'train'?"),
        (["train"], 2, "--config=FILE.py is missing"),
        (["train", CONFIG], 2, "--workdir=DIR is missing"),
        (["train", CONFIG, "--workdri=x"], 2, "Did you mean: workdir"),
        (["describe", f"{CONFIG[:-5]}smok"], 2, "no variant 'smok'; did you mean 'smoke'?"),
        (["describe", "--config=configs/quickstrat.py"], 2, "did you mean"),
        (
            ["describe", CONFIG, "--config.train.learning_rat=1"],
            2,
            "no key 'learning_rat' (--config.train.learning_rat); did you mean 'learning_rate'?",
        ),
        (["describe", CONFIG, "--config.train.epochs=many"], 2, "could not convert"),
        (["describe", CONFIG, "--config.detector.model.backbone.depth=19"], 1, "depth 19"),
        (["eval", CONFIG, "--workdir=/no/such"], 1, "/no/such/checkpoints does not exist"),
        (["eval", CONFIG, "--workdir=x", "--checkpoint=first"], 2, "not best, latest or a step"),
        (["predict", CONFIG, "--workdir=x"], 2, "name at least one image"),
        (["prepare", CONFIG], 2, "--out=DIR is missing"),
    ],
)
def test_mistakes_get_one_sentence(words, status, message, capsys):
    refused(capsys, *words, status=status, message=message)


def test_missing_data_is_named(tmp_path, capsys):
    words = [f"--workdir={tmp_path}/run", f"--config.data.root={tmp_path}/nothing"]
    assert command("train", config("bccd"), *words) == 1
    assert f"{tmp_path}/nothing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_workdir_is_refused(run, capsys):
    words = ("train", CONFIG, f"--workdir={run}", "--config.train.learning_rate=1.0")
    assert command(*words) == 1
    assert "another config: train.learning_rate differs" in capsys.readouterr().err


def test_a_config_that_lacks_a_key_is_another_one(run, tmp_path, capsys):
    content = json.loads((run / "config.json").read_text())
    del content["config"]["evaluation"]["max_detections"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert command("train", CONFIG, f"--workdir={tmp_path}") == 1
    assert "another config: evaluation.max_detections differs" in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_named(run, capsys):
    words = ("eval", CONFIG, f"--workdir={run}", "--config.detector.model.head.width=8")
    assert command(*words) == 1
    assert "does not fit this config" in capsys.readouterr().err


def test_help(capsys):
    assert command("--help") == 0
    assert "train" in capsys.readouterr().out
    assert command() == 2
