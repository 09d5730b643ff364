"""SSD: default boxes on six or seven maps, softmax with hard negatives, one convolution per head.

Paper: W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325.
Read: assign/bipartite.py, selection.py (hard_negatives), models/vgg.py, ssd_neck.py, ssd_head.py.
Against RetinaNet: images warped to a square; VGG16 and strided layers instead of an FPN; absolute
box sizes, 4 or 6 per cell; greedy matching without ignored anchors; softmax with background over
the 3 hardest negatives per positive instead of the focal loss. The schedule, the sizes and the
inference are MMDetection's; its matching is bind(max_iou.assign, negative_iou=0.5,
assign_all_ties=False), its divisor objective.select.floor=1 and train.normaliser_group=8.
Published: COCO val2017: SSD300 AP 25.5, SSD512 29.5 (MMDetection, 120 epochs); paper, test-dev2015:
25.1 and 28.8; VOC 2007 test, trained on 07+12: mAP 77.2 and 79.8.
Run: python -m anchors_jax train --config=configs/ssd.py:paper --workdir=runs/ssd
Variants: paper (default; SSD300), paper512, voc300, voc512 (data.train.root: one folder with the
files of VOC2007 and VOC2012, whose names do not collide), bench, smoke.
"""

from ml_collections import ConfigDict

from anchors_jax import anchors, codecs, images, losses, nms, optim, selection
from anchors_jax.assign import bipartite
from anchors_jax.data import augment, transforms, voc
from anchors_jax.detectors import one_stage
from anchors_jax.models import norms, resnet, ssd_head, ssd_neck, vgg
from anchors_jax.models.one_stage import OneStageNetwork
from anchors_jax.objectives import dense, terms
from anchors_jax.spec import bind, make
from configs import common

# Variant: side; percents of it: (min, max) of the first level, min of the second and the last.
SIZES = {
    "paper": (300, (7, 15), (15, 90)),
    "voc300": (300, (10, 20), (20, 90)),
    "paper512": (512, (4, 10), (10, 90)),
    "voc512": (512, (7, 15), (15, 90)),
    "bench": (128, (15, 25), (25, 90)),
    "smoke": (64, (15, 25), (25, 90)),
}
# Side: strides of the maps. At small scales they are those of RetinaNet's pyramid.
STRIDES = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}
SMALL_STRIDES = (8, 16, 32, 64, 128)


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a scale, or one of the other variants at paper scale."""
    variant = common.choose(arg, tuple(SIZES), "paper")
    scale = variant if variant in common.SCALES else "paper"
    config = common.base(scale)
    config.name = "ssd" if variant in common.SCALES else f"ssd_{variant}"
    side, lowest, percents = SIZES[variant]
    strides = STRIDES.get(side, SMALL_STRIDES)
    if scale == "paper":
        at_paper_scale(config, side=side, on_voc=variant.startswith("voc"))
    config.detector = make(
        one_stage.detector,
        model=network(config, side=side),
        anchors=make(
            anchors.Grid,
            shapes=default_boxes(side=side, levels=len(strides), lowest=lowest, percents=percents),
            strides=strides,
        ),
        objective=make(
            dense.objective,
            assign=bind(bipartite.assign, positive_iou=0.5),
            classify=make(terms.softmax, loss=bind(losses.cross_entropy)),
            regress=make(
                terms.on_codes,
                codec=make(codecs.deltas, stds=(0.1, 0.1, 0.2, 0.2)),
                loss=bind(losses.smooth_l1, beta=1.0),
            ),
            select=bind(selection.hard_negatives, per_positive=3),
            ignore_iof=None,  # crowd regions say nothing, as in all references
        ),
        preprocess=bind(images.normalize),
        detect=make(
            nms.Rule,
            score_threshold=0.02,
            top_k=1000 if scale == "paper" else 200,
            iou_threshold=0.45,
            max_detections=200 if scale == "paper" else 100,
        ),
        pad_divisor=None,
    )
    if scale == "paper":
        config.detector.preprocess.std = (1.0, 1.0, 1.0)  # as VGG's weights expect
    return config


def ratios(levels: int) -> tuple[tuple[int, ...], ...]:
    """Aspect ratios of each level beside 1: 4 boxes on the first and the last two, 6 elsewhere."""
    return ((2,), *((2, 3),) * (levels - 3), (2,), (2,))


def default_boxes(
    *, side: int, levels: int, lowest: tuple[int, int], percents: tuple[int, int]
) -> ConfigDict:
    """SSD's default boxes for square images of `side` pixels; see `anchors.ssd_ladder`."""
    low, high = anchors.ssd_ladder(side=side, levels=levels, lowest=lowest, ratio_range=percents)
    return make(anchors.ssd, min_sizes=low, max_sizes=high, ratios=ratios(levels))


def network(config: ConfigDict, *, side: int) -> ConfigDict:
    """paper: VGG16. bench: the ResNet-18 of the other methods, and two more strided layers."""
    dtype = config.get_ref("compute_dtype")
    if config.scale == "paper":
        backbone = make(vgg.VGG16, dtype=dtype)
        extras = {300: ssd_neck.SSD300, 512: ssd_neck.SSD512}[side]
        neck = make(ssd_neck.SSDNeck, extras=extras, dtype=dtype)
        levels = 2 + len(extras)
    else:
        norm = bind(norms.GroupNorm, group_size=8)
        width = 8 if config.scale == "smoke" else 32
        backbone = make(resnet.ResNet, depth=18, width=width, norm=norm, dtype=dtype)
        extras = ((4 * width, 3, 2, 1),) * 2
        neck = make(ssd_neck.SSDNeck, extras=extras, l2_scale=None, norm=norm, dtype=dtype)
        levels = 3 + len(extras)
    head = make(
        ssd_head.SSDHead,
        num_classes=config.get_ref("num_classes"),
        shapes_per_cell=tuple(2 + 2 * len(level) for level in ratios(levels)),
        dtype=dtype,
    )
    return make(OneStageNetwork, backbone=backbone, neck=neck, head=head)


def at_paper_scale(config: ConfigDict, *, side: int, on_voc: bool) -> None:
    """Data and schedule: images warped to a square; 120 epochs of 64 images (VOC: 240)."""
    data = config.data
    warp = make(transforms.fit, keep_ratio=False)
    data.canvases = ((side, side),)
    data.train_transforms = [
        make(augment.expand),
        make(augment.min_iou_crop),
        warp,
        make(transforms.horizontal_flip, p=0.5),
        make(augment.photometric_distortion),
    ]
    data.eval_transforms = [warp]
    data.batch_size, data.eval_batch_size = 64, 64
    if on_voc:
        config.num_classes = 20
        data.train = make(voc.voc, root="data/voc0712", split="trainval")
        data.eval = make(voc.voc, root="data/VOC2007", split="test")
        config.evaluation.voc = True
    train, epochs = config.train, 240 if on_voc else 120
    train.epochs = float(epochs)
    train.learning_rate = 1e-3 if on_voc else 2e-3
    train.reference_batch = 64
    decays = (160, 200) if on_voc else (80, 110)
    train.schedule = bind(optim.step_decay, milestones=tuple(n / epochs for n in decays))
    train.optimizer = bind(optim.sgd, weight_decay=5e-4)
    train.clip_norm = None
    train.checkpoint_every_epochs = 1.0
    train.eval_every_epochs = 5.0


def for_photographs(config: ConfigDict, *, side: int) -> None:
    """Default boxes of a small-scale config for images of about `side` pixels, as on VOC."""
    levels = len(config.detector.anchors.strides)
    config.detector.anchors.shapes = default_boxes(
        side=side, levels=levels, lowest=(10, 20), percents=(20, 90)
    )
