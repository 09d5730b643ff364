"""Configs of released checkpoints: they build, stay plain, and say which AP to expect."""

import json
import re

import golden_cases
import jax
import numpy as np
import pytest

from anchors_jax import experiment, spec
from anchors_jax.weights import families, fitting
from configs import parity


@pytest.mark.parametrize("name", parity.EXPECTED)
def test_builds_and_survives_json(name):
    config = parity.get_config(name)
    again = json.loads(json.dumps(spec.plain(config)))
    assert again == spec.plain(config)
    experiment.load(config)
    spec.build(again["detector"])
    assert config.name == f"parity_{name}"
    assert config.num_classes == again["detector"]["model"]["head"]["num_classes"] == 80
    assert 20 < parity.EXPECTED[name] < 50


def test_a_wrong_name_is_answered_by_the_nearest():
    with pytest.raises(ValueError, match="'mmdet_ats_r50'; did you mean 'mmdet_atss_r50'"):
        parity.get_config("mmdet_ats_r50")


def test_caffe_networks_see_blue_first():
    detector = parity.get_config("mmdet_ga_retinanet_r50_caffe").detector
    assert detector.preprocess.bgr
    assert tuple(detector.preprocess.std) == (1.0, 1.0, 1.0)
    assert detector.model.backbone.style == "caffe"
    assert not detector.model.backbone.norm.trainable


def test_every_common_size_has_its_canvas_where_the_steps_depend_on_it():
    canvases = parity.get_config("torchvision_retinanet").data.canvases
    assert len(set(canvases)) == len(canvases)
    for long in range(800, 1334):  # of images at most 5:3
        assert (800, 32 * -(-long // 32)) in canvases
        assert (32 * -(-long // 32), 800) in canvases


def shapes_of(name):
    """Shapes of torchvision's RetinaNet: version 1, its old names, and version 2."""
    path = golden_cases.FOLDER / "names_torchvision_retinanet.json"
    if not path.exists():
        pytest.skip(f"no {path.name} in {golden_cases.FOLDER}")
    shapes = json.loads(path.read_text())
    tower = re.compile(r"(head\.\w+\.conv)\.(\d)\.0\.(\w+)")
    found = {}
    for key, shape in shapes.items():
        match = tower.fullmatch(key)
        if name == "old":
            key = tower.sub(lambda m: f"{m[1]}.{2 * int(m[2])}.{m[3]}", key)
            key = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key)
        elif match and match[3] == "bias":  # a norm in its place
            found |= {f"{match[1]}.{match[2]}.1.{leaf}": shape for leaf in ("weight", "bias")}
            continue
        elif key == "backbone.fpn.extra_blocks.p6.weight":
            shape = (256, 2048, 3, 3)
        found[key] = shape
    return found


@pytest.mark.parametrize(
    ("name", "variant"), [("old", "torchvision_retinanet"), ("v2", "torchvision_retinanet_v2")]
)
def test_other_versions_of_torchvisions_retinanet_fit(name, variant):
    state = {k: np.broadcast_to(np.float32(1), shape) for k, shape in shapes_of(name).items()}
    family = families.recognise(state)
    assert family.name == "torchvision_retinanet" + "_old" * (name == "old")
    detector = experiment.load(parity.get_config(variant)).detector
    variables = jax.eval_shape(lambda key: detector.init(key, (64, 64)), jax.random.key(0))
    fitted, dropped = fitting.fit(state, family, variables)
    assert not dropped
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(fitted))
