"""Semi-Anchored: locations are classified, 25 anchors at each regress, a third output chooses.

Paper: L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection".
Read: objectives/locations.py, objectives/semi_anchored.py, models/semi_anchored_head.py.
Against RetinaNet: those three; IoU loss for boxes; 5 scales x 5 ratios; group norm in the towers;
P6 and P7 from P5. The paper's five ratios and its shrinking factor are not given.
Published: ResNet-50, 800 px, 90k steps of 16 on COCO val2017: AP 39.6, AP50 57.4, AP75 43.1
(RetinaNet there 35.9); 9 anchors 39.0, 1 anchor 35.8; ResNet-101, twice as long, test-dev: 43.6.
Tables, under config.detector: 1 anchors.shapes.scales_per_octave and .ratios with
model.head.shapes_per_cell; 2 model.head.classify_anchors; 3 the variants; 4 objective.label's
gamma; 5 objective.sigma; 6 objective.choose.top_k and .min_score.
Run: python -m anchors_jax train --config=configs/semi_anchored.py:paper --workdir=runs/semi
Variants: paper (default), bench, smoke; each with _fcos or _fcos_shrink: the labels of Table 3.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, losses
from anchors_jax.assign import fcos, max_iou
from anchors_jax.models import fpn, norms, semi_anchored_head
from anchors_jax.objectives import locations, semi_anchored, terms
from anchors_jax.spec import bind, make
from configs import common, retinanet

RATIOS = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)
# Side of the part of an object in which FCOS's rule finds its locations.
SHRINK = {"fcos": 1.0, "fcos_shrink": 0.5}
VARIANTS = {f"{scale}_{name}": (scale, name) for scale in common.SCALES for name in SHRINK}


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale, or a scale with the name of a labelling rule."""
    variant = common.choose(arg, (*common.SCALES, *VARIANTS), "paper")
    scale, rule = VARIANTS.get(variant, (variant, None))
    config = retinanet.get_config(scale)
    config.name = f"semi_anchored_{rule}" if rule else "semi_anchored"
    if scale == "paper":
        config.train = common.schedule_90k()
    model, base = config.detector.model, config.detector.anchors.shapes.base_scale
    common.extra_levels_from_p5(model.neck)
    model.neck.kernel_init = make(fpn.caffe2_xavier)
    model.head = make(
        semi_anchored_head.SemiAnchoredHead,
        num_classes=config.get_ref("num_classes"),
        shapes_per_cell=5 * len(RATIOS),
        depth=model.head.depth,
        width=model.head.width,
        norm=bind(norms.GroupNorm, group_size=None if scale == "paper" else 8),
        dtype=config.get_ref("compute_dtype"),
    )
    config.detector.anchors.shapes = make(
        anchors.octaves, base_scale=base, scales_per_octave=5, ratios=RATIOS
    )
    label = bind(locations.by_anchors, assign=bind(max_iou.assign))
    if rule:
        inside = bind(fcos.assign, shrink=SHRINK[rule], range_in_strides=2 * base)
        label = bind(locations.by_centres, assign=inside)
    config.detector.objective = make(
        semi_anchored.objective,
        label=label,
        **parts(codec=make(codecs.deltas)),
    )
    return config


def parts(*, codec: ConfigDict) -> dict[str, ConfigDict]:
    """The losses of the paper's three outputs, and its choice of anchors at inference."""
    return {
        "classify": make(terms.sigmoid, loss=bind(losses.focal, alpha=0.25, gamma=1.0)),
        "regress": make(terms.on_boxes, codec=codec, loss=bind(losses.iou, form="log"), weight=2.0),
        "anchor_loss": bind(losses.smoothed_focal, alpha=0.25, gamma=2.0),
        "choose": bind(semi_anchored.choose),
    }
