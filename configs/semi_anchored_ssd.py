"""Semi-Anchored on SSD: each map classifies its locations and chooses among its default boxes.

Paper: L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection", Table 8.
Read: objectives/locations.py, objectives/semi_anchored.py, models/semi_anchored_ssd_head.py.
Against SSD: those three; focal loss without a background class instead of mined negatives; labels
by the max-IoU of RetinaNet (0.5, 0.4); IoU loss for boxes. Default boxes, codes, data, schedule and
NMS are SSD's, which the paper does not say.
Published: COCO val2017, 120 epochs: SSD300 AP 27.5 (SSD 25.5), SSD512 32.0 (30.1).
Run: python -m anchors_jax train --config=configs/semi_anchored_ssd.py:paper --workdir=runs/semi_ssd
Variants: those of configs/ssd.py: paper (default), paper512, voc300, voc512, bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax.assign import max_iou
from anchors_jax.models import semi_anchored_ssd_head
from anchors_jax.objectives import locations
from anchors_jax.objectives import semi_anchored as semi_anchored_objective
from anchors_jax.spec import bind, make
from configs import semi_anchored, ssd


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: as in configs/ssd.py."""
    config = ssd.get_config(arg)
    config.name = f"semi_anchored_{config.name}"
    head, codec = config.detector.model.head, config.detector.objective.regress.codec
    config.detector.model.head = make(
        semi_anchored_ssd_head.SemiAnchoredSSDHead,
        num_classes=config.get_ref("num_classes"),
        shapes_per_cell=head.shapes_per_cell,
        dtype=config.get_ref("compute_dtype"),
    )
    config.detector.objective = make(
        semi_anchored_objective.objective,
        label=bind(locations.by_anchors, assign=bind(max_iou.assign), ignore_iof=None),
        **semi_anchored.parts(codec=codec),
    )
    return config
