"""ATSS: one square anchor per location; each object's candidates decide on its threshold.

Paper: S. Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via
Adaptive Training Sample Selection", CVPR 2020, arXiv:1912.02424.
Read: assign/atss.py, quality.py (centerness), objectives/dense.py.
Against RetinaNet: assign/atss.py with one anchor per location; GIoU loss weighted by centerness, a
centerness branch; group norm and a scale per level in the head; P6 from P5; NMS at 0.6.
Published: ResNet-50, 800 px, 90k steps on COCO val2017: AP 39.3 (RetinaNet with that head 37.0).
Tables, under config.detector: 4 objective.assign.topk; 5 and 6 anchors.shapes; 7 (several shapes)
anchors.shapes with model.head.shapes_per_cell.
Run: python -m anchors_jax train --config=configs/atss.py:paper --workdir=runs/atss
Variants: paper (default), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, losses, selection
from anchors_jax.assign import atss
from anchors_jax.objectives import dense, terms
from anchors_jax.spec import bind, make
from configs import common, retinanet


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale."""
    config = retinanet.get_config(arg)
    config.name = "atss"
    common.single_shape(config)
    side = 8.0 if config.scale == "paper" else 5.0  # RetinaNet's proportion at the small scales
    config.detector.anchors.shapes = make(anchors.relative, scales=(side,), ratios=(1.0,))
    config.detector.objective = make(
        dense.objective,
        assign=bind(atss.assign, topk=9),
        classify=make(terms.sigmoid, loss=bind(losses.focal, alpha=0.25, gamma=2.0)),
        regress=make(
            terms.on_boxes,
            codec=make(codecs.deltas, stds=(0.1, 0.1, 0.2, 0.2), limit_both_sides=False),
            loss=bind(losses.giou),
            weight=2.0,
        ),
        select=bind(selection.everything, floor=0.0),
        quality=common.quality_branch(),
    )
    return config
