"""FreeAnchor: each object learns from a bag of 50 anchors instead of from those assigned to it.

Paper: X. Zhang et al., "FreeAnchor: Learning to Match Anchors for Visual Object Detection",
NeurIPS 2019, arXiv:1909.02466.
Read: objectives/freeanchor.py, bags.py.
Against RetinaNet: objectives/freeanchor.py and the scale of the codes; no assigner, and the same
network and inference. As in MMDetection, the loss is divided by the objects of every two images.
Published: 800 px on COCO val2017, 1x: AP 38.7 (ResNet-50; the authors' and MMDetection's), 40.3
(ResNet-101, MMDetection; the authors' 40.5). RetinaNet in MMDetection: 36.5, 38.5.
Tables, under config.detector.objective: bag_size (40, 50, 60, 100), iou_threshold (0.5, 0.6, 0.7),
alpha (0.25, 0.5, 0.75), gamma (1.5, 2.0, 2.5), regress.weight; the paper gives the winners only.
Run: python -m anchors_jax train --config=configs/freeanchor.py:paper --workdir=runs/freeanchor
Variants: paper (default, MMDetection's setting), official (the authors'), bench, smoke. Missing of
theirs: boxes that include their last pixel, and Caffe's weights with its strides and colours.
Both references count anchors in the padding and in crowds: objective.mask_padding=False,
objective.ignore_iof=None; MMDetection's anchors stand on the corners of cells: anchors.offset=0.
"""

from ml_collections import ConfigDict

from anchors_jax import codecs, losses
from anchors_jax.objectives import freeanchor, terms
from anchors_jax.spec import bind, make
from configs import common, retinanet

STDS = (0.1, 0.1, 0.2, 0.2)


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale, or official."""
    variant = common.choose(arg, (*common.SCALES, "official"), "paper")
    official = variant == "official"
    config = retinanet.get_config("paper" if official else variant)
    config.name = "freeanchor_official" if official else "freeanchor"
    config.detector.objective = make(
        freeanchor.objective,
        regress=make(
            terms.on_codes,
            codec=make(codecs.deltas, stds=STDS, limit_both_sides=not official),
            loss=bind(losses.smooth_l1, beta=0.11),
            weight=0.75,
        ),
        log_limit=100.0 if official else None,
    )
    if official:
        config.train = common.schedule_90k()
        config.train.schedule.warmup = "linear"
        config.detector.model.head.prior = 0.02
        common.extra_levels_from_p5(config.detector.model.neck)
        config.detector.anchors.shapes.rounding = "legacy"
    if config.scale == "paper":
        config.train.normaliser_group = 2
    return config
