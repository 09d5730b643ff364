"""Configs of released checkpoints: they build, stay plain, and say which AP to expect."""

import json

import pytest

from anchors_jax import experiment, spec
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
