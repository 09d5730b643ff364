"""A smoke config that expects weights: frozen stages and frozen batch norm, as paper scale has."""

from anchors_jax.models import norms
from anchors_jax.spec import bind
from configs import retinanet


def get_config(arg: str = ""):
    config = retinanet.get_config("smoke")
    config.name = "pretrained"
    backbone = config.detector.model.backbone
    backbone.frozen_stages = 1
    backbone.norm = bind(norms.FrozenBatchNorm)
    if arg == "caffe":
        backbone.norm.trainable = False
    return config
