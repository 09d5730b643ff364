"""Region proposals: RPN on a feature pyramid, and GA-RPN, which predicts its anchors.

Papers: S. Ren et al., "Faster R-CNN", NIPS 2015, arXiv:1506.01497, with T.-Y. Lin et al., "Feature
Pyramid Networks", CVPR 2017, arXiv:1612.03144; J. Wang et al., "Region Proposal by Guided
Anchoring", CVPR 2019, arXiv:1901.03278.
Read: models/proposal_head.py, nms.py (propose), assign/max_iou.py, selection.py (expected); guided:
  objectives/guided_anchoring.py.
Against RetinaNet: all objects are one class; levels P2 to P6, P6 by subsampling; three anchors per
cell, positive from IoU 0.7 and negative below 0.3; binary cross entropy; the mean over samples of
256 anchors; proposals by NMS level by level. Judged by average recall, AR1000 first of all.
Published: ResNet-50, 800 px, 1x on COCO: AR1000 59.4, GA-RPN 68.5 (Guided Anchoring, Table 1, as
  retold; MMDetection 58.7 and 68.4).
Run: python -m anchors_jax train --config=configs/rpn.py:guided --workdir=runs/ga_rpn
Variants: paper (default), bench, smoke; guided, bench_guided, smoke_guided.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, images, losses, nms, selection
from anchors_jax.assign import approx_iou, max_iou
from anchors_jax.detectors import one_stage
from anchors_jax.models import proposal_head
from anchors_jax.objectives import dense, guided_anchoring, terms
from anchors_jax.spec import bind, make
from configs import common

IOUS = {"positive_iou": 0.7, "negative_iou": 0.3, "min_positive_iou": 0.3}
GUIDED = {"guided": "paper", "bench_guided": "bench", "smoke_guided": "smoke"}


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale, or GA-RPN at a scale."""
    variant = common.choose(arg, (*common.SCALES, *GUIDED), "paper")
    guided = variant in GUIDED
    config = common.base(GUIDED.get(variant, variant))
    config.name = "ga_rpn" if guided else "rpn"
    config.num_classes = 1
    config.data.class_agnostic = True
    config.evaluation.max_detections = (100, 300, 1000)
    if config.scale == "paper":
        config.train.learning_rate = 0.02
    config.detector = make(
        one_stage.detector,
        model=_network(config, guided=guided),
        anchors=make(
            anchors.Grid,
            shapes=make(
                anchors.octaves,
                # RetinaNet's proportion at the small scales.
                base_scale=8.0 if config.scale == "paper" else 5.0,
                scales_per_octave=1,
                ratios=(1.0,) if guided else (0.5, 1.0, 2.0),
            ),
            strides=(4, 8, 16, 32, 64),
        ),
        objective=_guided_objective(config) if guided else _objective(),
        preprocess=bind(images.normalize),
        detect=bind(nms.propose),
    )
    return config


def _network(config: ConfigDict, *, guided: bool) -> ConfigDict:
    model = common.network(config)
    model.backbone.outputs = (2, 3, 4, 5)
    model.neck.extra_source = "pool"
    head = proposal_head.GuidedProposalHead if guided else proposal_head.ProposalHead
    model.head = make(
        head,
        num_classes=config.get_ref("num_classes"),
        width=model.head.width,
        norm=model.head.norm,
        dtype=config.get_ref("compute_dtype"),
    )
    return model


def _objective() -> ConfigDict:
    return make(
        dense.objective,
        assign=bind(max_iou.assign, **IOUS),
        classify=make(terms.sigmoid, loss=bind(losses.class_bce)),
        regress=make(terms.on_codes, codec=make(codecs.deltas), loss=bind(losses.l1)),
        select=bind(selection.expected),
    )


def _guided_objective(config: ConfigDict) -> ConfigDict:
    return make(
        guided_anchoring.objective,
        assign=bind(max_iou.assign, **IOUS),
        classify=make(terms.sigmoid, loss=bind(losses.class_bce)),
        regress=make(
            terms.on_codes,
            codec=make(codecs.deltas, stds=(0.07, 0.07, 0.11, 0.11)),
            loss=bind(losses.smooth_l1, beta=1.0),
        ),
        select=bind(selection.expected),
        **common.guided_branches(
            config,
            assign=bind(
                approx_iou.assign, positive_iou=0.7, negative_iou=0.3, min_positive_iou=0.3
            ),
            std=0.14,
        ),
    )
