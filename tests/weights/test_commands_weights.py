"""Weights on the command line: convert, and eval and predict of a file."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from command_line import command, config, refused

from anchors_jax import experiment, options
from anchors_jax.data import images
from anchors_jax.weights import export

CONFIG = config("retinanet")
LOW = "--config.detector.detect.score_threshold=0.0"  # an untrained network says little


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A whole detector in a file of our own."""
    run = experiment.load(options.parse([CONFIG]).config)
    variables = run.detector.init(jax.random.key(3), run.canvases[0])
    path = tmp_path_factory.mktemp("weights") / "ours.safetensors"
    export.write(path, variables, metadata={"config": "retinanet"})
    return path


def test_a_file_a_run_and_back_evaluate_alike(weights, tmp_path, capsys):
    workdir, again = tmp_path / "run", tmp_path / "again.npz"
    assert command("convert", CONFIG, f"--weights={weights}", f"--to={workdir}") == 0
    assert command("convert", CONFIG, f"--workdir={workdir}", f"--to={again}") == 0
    first = safetensors.numpy.load_file(weights)
    with np.load(again) as second:
        assert set(second.files) == set(first)
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value)
    for number, source in enumerate((f"--weights={again}", f"--workdir={workdir}")):
        assert command("eval", CONFIG, LOW, source, f"--out={tmp_path}/{number}") == 0
    results = [json.loads((tmp_path / n / "eval.json").read_text()) for n in "01"]
    assert results[0] == results[1]
    assert "anchors_jax, " in capsys.readouterr().out  # the family
    assert command("convert", CONFIG, f"--weights={weights}", f"--to={workdir}") == 1
    assert "holds a run already" in capsys.readouterr().err


def test_predict_needs_no_run(weights, tmp_path, capsys):
    photo = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    photo.write_bytes(images.encode_jpeg(pixels))
    words = ("predict", CONFIG, LOW, f"--weights={weights}", f"--out={tmp_path}/out", photo)
    assert command(*words) == 0
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["annotations"]
    assert {c["name"] for c in content["categories"]} == {"disk", "ring", "box", "triangle", "star"}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["convert", "--to=x.npz"], 2, "name one to convert from"),
        (["convert", "--weights=a.npz"], 2, "--to=PATH is missing"),
        (["convert", "--weights=a.npz", "--to=b.npz"], 1, "a.npz: there is no such file"),
        (["eval", "--weights=a.npz"], 2, "--out=DIR is missing"),
        (["eval", "--weights=a.npz", "--family=resnt", "--out=o"], 1, "a.npz: there is no such"),
        (["predict", "--weights=a.npz"], 2, "name at least one image"),
    ],
)
def test_mistakes_are_one_sentence(words, status, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(capsys, words[0], CONFIG, *words[1:], status=status, message=message)


def test_a_backbone_alone_is_no_detector(tmp_path, capsys):
    path = tmp_path / "r18.npz"
    np.savez(path, **{"layer1.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)})
    assert command("eval", CONFIG, f"--weights={path}", f"--out={tmp_path}") == 1
    assert "r18.npz" in capsys.readouterr().err
