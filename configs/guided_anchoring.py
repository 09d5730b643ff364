"""Guided Anchoring (GA-RetinaNet): the network predicts its anchors, one per location at most.

Paper: J. Wang et al., "Region Proposal by Guided Anchoring", CVPR 2019, arXiv:1901.03278.
Read: objectives/guided_anchoring.py, assign/regions.py, assign/approx_iou.py,
  models/guided_head.py, deform.py.
Against RetinaNet: those; one square per location instead of nine anchors; anchors positive from IoU
0.5 and negative below it; smooth L1 with beta 0.04.
Published: ResNet-50, 800 px, 1x on COCO val2017: AP 36.9 (MMDetection; RetinaNet there 36.3);
  paper, test-dev: 37.1 (RetinaNet 35.9). MMDetection trains the location branch inverted.
Table 4, under config.detector: without L objective.locate=None, without S
  objective.assign_shapes=None, without FA model.head.adapt=False; thresholds objective.gate; number
  of shapes tried objective.assign_shapes.scales_per_octave and .ratios.
Run: python -m anchors_jax train --config=configs/guided_anchoring.py:paper --workdir=runs/guided
Variants: paper (default), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, losses
from anchors_jax.assign import approx_iou, max_iou, regions, sampling
from anchors_jax.models import guided_head
from anchors_jax.objectives import guided_anchoring
from anchors_jax.spec import bind, make
from configs import common, retinanet


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale."""
    config = retinanet.get_config(common.choose(arg, common.SCALES, "paper"))
    config.name = "guided_anchoring"
    model, paper = config.detector.model, config.scale == "paper"
    model.head = make(
        guided_head.GuidedHead,
        num_classes=config.get_ref("num_classes"),
        depth=model.head.depth,
        width=model.head.width,
        norm=model.head.norm,
        dtype=config.get_ref("compute_dtype"),
    )
    # RetinaNet's base of that scale: the shapes tried reach up from it, so that objects far below
    # the base are nobody's.
    base = config.detector.anchors.shapes.base_scale
    config.detector.anchors.shapes = make(
        anchors.octaves, base_scale=base, scales_per_octave=1, ratios=(1.0,)
    )
    config.detector.objective = make(
        guided_anchoring.objective,
        assign=bind(max_iou.assign, positive_iou=0.5, negative_iou=0.5),
        codec=make(codecs.deltas),
        # Boxes are regressed from anchors that move while both are learned. In a short training at
        # a high rate they move too fast; GA-RPN's divisor slows them: AP 49.8 instead of 40.0.
        shape_codec=make(codecs.shapes, std=1.0 if paper else 0.14),
        locate=bind(regions.find),
        assign_shapes=bind(approx_iou.assign),
        class_loss=bind(losses.focal, alpha=0.25, gamma=2.0),
        box_loss=bind(losses.smooth_l1, beta=0.04),
        location_loss=bind(losses.binary_focal, alpha=0.25, gamma=2.0),
        # The term is divided by cells. COCO has an object in 3000 of them, the small scales one in
        # 140: without this it would weigh twenty times as much, and classes are learned late.
        location_weight=1.0 if paper else 0.05,
        shape_loss=bind(losses.bounded_iou),
        sample_shapes=bind(sampling.expected),
    )
    return config
