"""Guided Anchoring (GA-RetinaNet): the network predicts its anchors, one per location at most.

Paper: J. Wang et al., "Region Proposal by Guided Anchoring", CVPR 2019, arXiv:1901.03278.
Read: objectives/guided_anchoring.py, objectives/guided_locations.py, assign/approx_iou.py,
  models/guided_head.py, deform.py.
Against RetinaNet: those; one square per location instead of nine anchors; anchors positive from IoU
0.5 and negative below it; smooth L1 with beta 0.04.
Published: ResNet-50, 800 px, 1x on COCO val2017: AP 36.9 (MMDetection; RetinaNet there 36.3);
  paper, test-dev: 37.1 (RetinaNet 35.9). MMDetection trains the location branch inverted.
Table 4, under config.detector: without L objective.locations=None, without S
  objective.shapes=None, without FA model.head.adapt=False; thresholds objective.locations.gate;
  number of shapes tried objective.shapes.assign.scales_per_octave and .ratios.
Run: python -m anchors_jax train --config=configs/guided_anchoring.py:paper --workdir=runs/guided
Variants: paper (default), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, losses, selection
from anchors_jax.assign import approx_iou, max_iou
from anchors_jax.models import guided_head
from anchors_jax.objectives import guided_anchoring, terms
from anchors_jax.spec import bind, make
from configs import common, retinanet


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale."""
    config = retinanet.get_config(common.choose(arg, common.SCALES, "paper"))
    config.name = "guided_anchoring"
    model = config.detector.model
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
        classify=make(terms.sigmoid, loss=bind(losses.focal, alpha=0.25, gamma=2.0)),
        regress=make(
            terms.on_codes, codec=make(codecs.deltas), loss=bind(losses.smooth_l1, beta=0.04)
        ),
        select=bind(selection.everything),
        # Boxes are regressed from anchors that move while both are learned. In a short training at
        # a high rate they move too fast; GA-RPN's divisor slows them: AP 49.8 instead of 40.0.
        **common.guided_branches(
            config,
            assign=bind(approx_iou.assign),
            std=1.0 if config.scale == "paper" else 0.14,
        ),
    )
    return config
