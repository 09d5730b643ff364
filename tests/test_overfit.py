"""Every method learns a few images by heart; RetinaNet learns real ones, too. Minutes each."""

import json
import pathlib

import pytest

from anchors_jax.__main__ import main

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
METHODS = (
    "retinanet",
    "fcos",
    "atss",
    "paa",
    "freeanchor",
    "semi_anchored",
    "ssd",
    "guided_anchoring",
)


def train(workdir, config, *overrides):
    words = [f"--config={REPOSITORY}/configs/{config}", f"--workdir={workdir}", *overrides]
    assert main(["anchors_jax", "train", *words]) == 0
    return json.loads((workdir / "eval.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_eight_drawings(method, tmp_path):
    metrics = train(
        tmp_path / method,
        f"{method}.py:bench",
        "--config.data.train.num_train=8",
        "--config.data.eval.num_train=8",
        "--config.data.eval.split=train",
        "--config.train.steps=400",
        "--config.train.eval_every_epochs=0",
        "--config.train.checkpoint_every_epochs=0",
    )
    assert metrics["AP50"] > 0.9


@pytest.mark.slow
def test_sixteen_photographs_of_coco(coco128, tmp_path):
    metrics = train(tmp_path / "coco", "coco.py:overfit16", f"--config.data.root={coco128}")
    assert metrics["AP50"] >= 0.9
