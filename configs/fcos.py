"""FCOS: no anchor shapes; locations inside an object regress the distances to its sides.

Paper: Z. Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019,
arXiv:1904.01355; the improved variant: TPAMI 2020, arXiv:2006.09214.
Read: assign/fcos.py, codecs.py (distances), quality.py (centerness), objectives/dense.py.
Against RetinaNet: assign/fcos.py on bare locations; distances under an IoU loss weighted by
centerness, a centerness branch; group norm and a scale per level in the head; P6 from P5; NMS 0.6.
Improved: centre sampling, GIoU, distances in strides after a ReLU, centerness on the box tower.
Published: ResNet-50, 800 px, 90k steps on COCO val2017: AP 37.1; improved 38.6.
At the small scales distances count in strides: in pixels, as published, every box starts with sides
of 2 and 1250 steps are not enough (AP 49.9 instead of 62.0; experiments/assignment, table easy).
Run: python -m anchors_jax train --config=configs/fcos.py:improved --workdir=runs/fcos
Variants: paper (default), bench, smoke; improved, bench_improved, smoke_improved.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, losses, selection
from anchors_jax.assign import fcos
from anchors_jax.objectives import dense, terms
from anchors_jax.spec import bind, make
from configs import common, retinanet

IMPROVED = {"improved": "paper", "bench_improved": "bench", "smoke_improved": "smoke"}


def get_config(arg: str = "") -> ConfigDict:
    """`arg` is the scale, or the improved variant at a scale."""
    variant = common.choose(arg, (*common.SCALES, *IMPROVED), "paper")
    improved = variant in IMPROVED
    config = retinanet.get_config(IMPROVED.get(variant, variant))
    config.name = "fcos_improved" if improved else "fcos"
    common.single_shape(config, quality_tower="box" if improved else "class")
    config.detector.anchors = make(
        anchors.Grid, shapes=make(anchors.locations), strides=(8, 16, 32, 64, 128)
    )
    config.detector.objective = make(
        dense.objective,
        assign=bind(
            fcos.assign,
            centre_radius=1.5 if improved else None,
            # RetinaNet's proportion at the small scales.
            range_in_strides=8.0 if config.scale == "paper" else 5.0,
        ),
        classify=make(terms.sigmoid, loss=bind(losses.focal, alpha=0.25, gamma=2.0)),
        regress=make(
            terms.on_boxes,
            codec=make(
                codecs.distances,
                relative=improved or config.scale != "paper",
                activation="relu" if improved else "exp",
            ),
            loss=bind(losses.giou) if improved else bind(losses.iou, form="log"),
        ),
        select=bind(selection.everything, floor=0.0),
        quality=common.quality_branch(),
    )
    return config
