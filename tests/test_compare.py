"""The command `assign`: pictures and agreement of several configs, or the anchors of a network."""

import re

import numpy as np
import pytest
from command_line import command, config, refused

from anchors_jax import visualize
from anchors_jax.data import images

RETINANET = config("retinanet")
GUIDED = config("guided_anchoring")


@pytest.fixture(autouse=True)
def compiled(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ANCHORS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))


def size_of(path):
    return images.size_of(path.read_bytes(), name=path.name)


def test_two_methods_are_drawn_and_compared(tmp_path, capsys):
    out = tmp_path / "assign.png"
    assert command("assign", RETINANET, GUIDED, "--image=1", f"--out={out}") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("retinanet (untrained)")
    assert said[2].startswith("guided_anchoring (untrained)")
    assert said[1].split()[-2] == said[2].split()[-1] == "1.00"
    height, width = size_of(out)
    assert width > height


def test_predicted_anchors_are_drawn_beside_the_grid(tmp_path, capsys):
    out = tmp_path / "anchors.png"
    assert command("assign", GUIDED, "--image=1", "--predicted", f"--out={out}") == 0
    said = capsys.readouterr().out
    assert "written to" in said
    # Untrained, the predicted anchors are squares of the grid, hardly changed, and fewer.
    found = re.search(r"grid (\S+), predicted (\S+); (\S+) % of the locations", said)
    grid, predicted, kept = map(float, found.groups())
    assert 0 < predicted < grid + 0.02 < 1
    assert 0 < kept < 100
    height, width = size_of(out)
    assert width > 1.5 * height  # two panels
    assert command("assign", RETINANET, "--predicted", f"--out={out}") == 1
    assert "retinanet (untrained) does not predict its anchors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 2, "name at least one --config"),
        ((RETINANET, "--workdir=a", "--workdir=b"), 2, "2 --workdir for 1 --config"),
        ((RETINANET, "--out=x.txt"), 2, "should name a picture"),
        ((RETINANET, "--image=nothing"), 1, "--image=nothing: no such position or file among 3"),
    ],
)
def test_mistakes_are_one_sentence(words, status, message, capsys):
    refused(capsys, "assign", *words, status=status, message=message)


def test_best_anchors_without_objects_and_without_anchors(tmp_path):
    panel = visualize.AnchorPanel(
        title="none",
        image=np.zeros((40, 60, 3), np.uint8),
        objects=np.zeros((2, 4), np.float32),
        visible=np.array([False, False]),
        best=np.zeros((2, 4), np.float32),
        iou=np.zeros(2, np.float32),
        centres=np.zeros((0, 2), np.float32),
    )
    path = tmp_path / "anchors.png"
    visualize.best_anchors([panel], path)
    assert min(size_of(path)) > 200
