"""Released detectors as they are: load their weights, get their AP, without training.

Preprocessing, anchors, codec, thresholds and NMS equal those of the checkpoint, not of this
project's other configs; sources differ in all of them. Papers: CITATIONS.md.
Read: weights/names.py (what every tensor is called here), weights/families.py.
Published on COCO val2017: see EXPECTED below, and docs/parity.md for what has been compared.
Run: python -m anchors_jax eval --config=configs/parity.py:mmdet_retinanet_r50 --weights=FILE
  --config.data.eval.annotations=... --config.data.eval.images=... --out=DIR
Variants: the keys of EXPECTED (mmdet_retinanet_r50 is the default).
"""

from ml_collections import ConfigDict

from anchors_jax import anchors
from anchors_jax.models import norms
from anchors_jax.spec import bind, make
from configs import atss, common, fcos, freeanchor, guided_anchoring, paa, retinanet, ssd

# Config: AP on COCO val2017 as its source publishes it (MMDetection's model zoo; torchvision's
# table of weights).
EXPECTED = {
    "mmdet_retinanet_r50": 36.5,
    "mmdet_retinanet_r101": 38.5,
    "mmdet_retinanet_x101_32x4d": 39.9,
    "mmdet_retinanet_x101_64x4d": 41.0,
    "mmdet_freeanchor_r50": 38.7,
    "mmdet_freeanchor_r101": 40.3,
    "mmdet_freeanchor_x101_32x4d": 41.9,
    "mmdet_atss_r50": 39.4,
    "mmdet_atss_r101": 41.5,
    "mmdet_paa_r50": 40.4,
    "mmdet_paa_r101": 42.6,
    "mmdet_fcos_r50_caffe": 36.6,
    "mmdet_fcos_r101_caffe": 39.1,
    "mmdet_ga_retinanet_r50_caffe": 36.9,
    "mmdet_ssd300": 25.5,
    "mmdet_ssd512": 29.5,
    "torchvision_retinanet": 36.4,
    "torchvision_retinanet_v2": 41.5,
    "torchvision_fcos": 39.2,
    "torchvision_ssd300": 25.1,
}
BACKBONES = {
    "r50": {"depth": 50},
    "r101": {"depth": 101},
    "x101_32x4d": {"depth": 101, "groups": 32, "base_width": 4},
    "x101_64x4d": {"depth": 101, "groups": 64, "base_width": 4},
}
# Channel means in 0..255 of networks that Caffe trained: blue, green, red.
DETECTRON_MEAN = (103.530, 116.280, 123.675)
MSRA_MEAN = (102.9801, 115.9465, 122.7717)
# torchvision's SSD: (0.48235, 0.45882, 0.40784) with a deviation of 1 / 255, times 255.
TORCHVISION_SSD_MEAN = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: the name of a released detector, one of EXPECTED."""
    name = common.choose(arg, tuple(EXPECTED), "mmdet_retinanet_r50")
    source, _, rest = name.partition("_")
    config = (mmdet if source == "mmdet" else torchvision)(rest)
    config.name = f"parity_{name}"
    return config


def mmdet(name: str) -> ConfigDict:
    """MMDetection's METHOD_BACKBONE[_caffe], or SSD."""
    if name.startswith("ssd"):
        return ssd.get_config("paper" if name == "ssd300" else "paper512")
    caffe = name.endswith("_caffe")
    name = name.removesuffix("_caffe")
    backbone = next(key for key in BACKBONES if name.endswith(key))
    method = {
        "retinanet": mmdet_retinanet,
        "freeanchor": mmdet_freeanchor,
        "atss": mmdet_atss,
        "paa": mmdet_paa,
        "fcos": mmdet_fcos,
        "ga_retinanet": mmdet_ga_retinanet,
    }[name.removesuffix(f"_{backbone}")]
    config = method()
    config.detector.model.backbone.update(BACKBONES[backbone])
    if caffe:
        from_caffe(config, mean=MSRA_MEAN if method is mmdet_fcos else DETECTRON_MEAN)
    return config


def mmdet_retinanet() -> ConfigDict:
    """As `configs/retinanet.py`, but anchors stand on the corners of cells."""
    config = retinanet.get_config("paper")
    config.detector.anchors.offset = 0.0
    return config


def mmdet_freeanchor() -> ConfigDict:
    """RetinaNet's inference; codes in units of 0.1 and 0.2."""
    config = freeanchor.get_config("paper")
    config.detector.anchors.offset = 0.0
    return config


def mmdet_atss() -> ConfigDict:
    """Class score times centerness, candidates by the class score; no ReLU before P7."""
    config = atss.get_config("paper")
    _mmdet_single_shape(config, relu_before_p7=False)
    config.detector.anchors.offset = 0.0
    config.detector.objective.regress.codec.limit_both_sides = True
    config.detector.detect.rank_by = "class"
    config.detector.detect.score = "product"
    return config


def mmdet_paa() -> ConfigDict:
    """Root of class score times IoU, every class of the best anchors, then voting."""
    config = paa.get_config("paper")
    _mmdet_single_shape(config, relu_before_p7=False)
    config.detector.anchors.offset = 0.0
    config.detector.objective.regress.codec.limit_both_sides = True
    config.detector.detect.threshold_on = "score"
    config.detector.detect.top_k_of = "anchors"
    return config


def mmdet_fcos() -> ConfigDict:
    """Centerness from the class tower; NMS at 0.5."""
    config = fcos.get_config("paper")
    _mmdet_single_shape(config, relu_before_p7=True)
    config.detector.detect.rank_by = "class"
    config.detector.detect.score = "product"
    config.detector.detect.iou_threshold = 0.5
    return config


def mmdet_ga_retinanet() -> ConfigDict:
    """The best anchors of a level with all their classes; squares on the corners of cells.

    The location branch is loaded as MMDetection trains it, whose later versions fire on background:
    the gate at 0.01 then leaves nearly every location in, here as there. To train on, or to look at
    the locations, negate `head.location_output`.
    """
    config = guided_anchoring.get_config("paper")
    config.detector.anchors.offset = 0.0
    config.detector.detect.top_k_of = "anchors"
    return config


def _mmdet_single_shape(config: ConfigDict, *, relu_before_p7: bool) -> None:
    config.detector.model.neck.relu_before_p7 = relu_before_p7
    config.detector.model.head.tower_bias = False
    config.detector.pad_divisor = 32


def from_caffe(config: ConfigDict, *, mean: tuple[float, float, float]) -> None:
    """Blue first, no deviation, strides on the 1x1 convolutions, norms frozen as a whole."""
    preprocess, backbone = config.detector.preprocess, config.detector.model.backbone
    preprocess.bgr, preprocess.mean, preprocess.std = True, mean, (1.0, 1.0, 1.0)
    backbone.style = "caffe"
    backbone.norm = bind(norms.FrozenBatchNorm, trainable=False)


def torchvision(name: str) -> ConfigDict:
    """torchvision's detectors, with its 91 columns reduced to COCO's 80 categories."""
    if name == "ssd300":
        return torchvision_ssd300()
    config = torchvision_fcos() if name == "fcos" else torchvision_retinanet()
    if name == "retinanet_v2":
        config.detector.model.neck.extra_source = "C5"
        config.detector.model.head.norm = bind(norms.GroupNorm)
        config.detector.model.backbone.norm.eps = 1e-5
    return config


def torchvision_retinanet() -> ConfigDict:
    """Rounded anchors at canvas-dependent steps, 300 boxes; the norms' epsilon is 0.

    Version 1 was trained before torchvision's frozen norms had an epsilon.
    """
    config = retinanet.get_config("paper")
    _torchvision_frame(config)
    config.detector.anchors.shapes.rounding = "torchvision"
    config.detector.objective.regress.codec.limit_both_sides = False
    config.detector.detect.max_detections = 300
    config.detector.model.backbone.norm = bind(norms.FrozenBatchNorm, eps=0.0, trainable=False)
    return config


def torchvision_fcos() -> ConfigDict:
    """Distances in strides after a ReLU, from corners of cells; the threshold is on the root."""
    config = fcos.get_config("improved")
    _torchvision_frame(config)
    config.detector.anchors = make(
        anchors.Grid,
        shapes=make(anchors.relative, scales=(1.0,), ratios=(1.0,)),
        strides=(8, 16, 32, 64, 128),
        offset=0.0,
        steps_from_canvas=True,
    )
    config.detector.model.head.level_scale = False
    config.detector.detect.threshold_on = "score"
    config.detector.detect.score_threshold = 0.2
    config.detector.model.backbone.norm = bind(norms.FrozenBatchNorm, trainable=False)
    return config


def torchvision_ssd300() -> ConfigDict:
    """Default boxes by scales, clipped to the image; the best 400 of each class."""
    config = ssd.get_config("paper")
    config.detector.preprocess.mean = TORCHVISION_SSD_MEAN
    config.detector.anchors.shapes = make(
        anchors.ssd_scales,
        scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ratios=ssd.ratios(6),
        image_size=(300, 300),
    )
    config.detector.objective.regress.codec.limit_both_sides = False
    detect = config.detector.detect
    detect.score_threshold, detect.top_k, detect.top_k_of = 0.01, 400, "class"
    detect.min_size = -1.0  # boxes without area stay
    return config


def _torchvision_frame(config: ConfigDict) -> None:
    """Sizes are truncated and padded to 32; P6 from P5 with a ReLU after it.

    The steps of its anchors depend on the padded size, so each size is a canvas of its own (a
    network is compiled for each that occurs). Images flatter than 5:3 are padded to 800 rows here,
    and to less there.
    """
    config.data.eval_transforms[0].truncate = True
    sides = range(800, 1345, 32)
    config.data.canvases = tuple((800, side) for side in sides) + tuple(
        (side, 800) for side in sides[1:]
    )
    common.extra_levels_from_p5(config.detector.model.neck)
    config.detector.pad_divisor = None
    config.detector.detect.min_size = -1.0
    if "steps_from_canvas" in config.detector.anchors:
        config.detector.anchors.offset = 0.0
        config.detector.anchors.steps_from_canvas = True
