"""RetinaNet: nine anchors per location, max-IoU assignment, focal loss.

Paper: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
Read: assign/max_iou.py, losses.py (focal), objectives/dense.py, models/dense_head.py.
Published: ResNet-50, 800 px, 1x on COCO val2017: AP 36.5 (MMDetection); paper, 1.5x: 35.7 test-dev.
Tables, under config.detector.objective: 1a, 1b classify.loss.alpha and .gamma; 1d select
(selection.online); 3 classify.loss (losses.focal_star).
Run: python -m anchors_jax train --config=configs/retinanet.py:paper --workdir=runs/retinanet
Variants: paper (default), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, images, losses, selection
from anchors_jax.assign import max_iou
from anchors_jax.detectors import one_stage
from anchors_jax.objectives import dense, terms
from anchors_jax.spec import bind, make
from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale."""
    config = common.base(common.choose(arg, common.SCALES, "paper"))
    config.name = "retinanet"
    config.detector = make(
        one_stage.detector,
        model=common.network(config, shapes_per_cell=9),
        anchors=make(
            anchors.Grid,
            # Small images hold small objects: half the paper's base size at bench scale.
            shapes=make(anchors.octaves, base_scale=4.0 if config.scale == "paper" else 2.5),
            strides=(8, 16, 32, 64, 128),
        ),
        objective=make(
            dense.objective,
            assign=bind(max_iou.assign, positive_iou=0.5, negative_iou=0.4),
            classify=make(terms.sigmoid, loss=bind(losses.focal, alpha=0.25, gamma=2.0)),
            regress=make(terms.on_codes, codec=make(codecs.deltas), loss=bind(losses.l1)),
            select=bind(selection.everything),
        ),
        preprocess=bind(images.normalize),
        detect=common.detection(config.scale),
    )
    return config
