"""Tables of "Focal Loss for Dense Object Detection" (Lin, Goyal, Girshick, He, Dollar)."""

import math
from typing import Any

from ml_collections import ConfigDict

from anchors_jax import losses, selection
from anchors_jax.data import transforms
from anchors_jax.spec import bind, make
from configs import common
from experiments import protocol
from experiments.rows import Published, Row, Table, ap, only

PAPER = "retinanet"
CONFIG = "configs/retinanet.py"
ABLATION = "COCO 2017, ResNet-50-FPN, 600 px, 90k steps of 16, val2017 (minival)"
ZOO = "MMDetection's model zoo"


def sized(short: int) -> dict[str, Any]:
    """Overrides for images with this short side; the long one in proportion to 1333 by 800."""
    long = round(short * 1333 / 800)
    low, high = (32 * math.ceil(side / 32) for side in (short, long))
    resize = make(transforms.resize, short=short, long=long)
    return {
        "data.canvases": ((low, high), (high, low)),
        "data.train_transforms": [resize, make(transforms.horizontal_flip, p=0.5)],
        "data.eval_transforms": [resize],
    }


# The paper's own training, as far as its text and its authors' code say it.
DETECTRON = {
    "train": common.schedule_90k(),
    "detector.objective.regress.loss": bind(losses.smooth_l1, beta=0.11),
    "detector.model.neck.relu_before_p7": True,
}
AT_600 = {**DETECTRON, **sized(600)}


def _published(table: str, *values: float) -> Published:
    return ap(*values, source=f"Focal Loss, Table {table}")


def _loss(key: str, label: str, loss: ConfigDict, table: str, *values: float) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        overrides={"detector.objective.classify.loss": loss},
        published=_published(table, *values),
    )


def _focal(key: str, label: str, alpha: float, gamma: float, table: str, *values: float) -> Row:
    return _loss(key, label, bind(losses.focal, alpha=alpha, gamma=gamma), table, *values)


def _alpha(key: str, alpha: float, *values: float) -> Row:
    return _focal(key, f"alpha {alpha:g}", alpha, 0.0, "1a", *values)


def _gamma(key: str, gamma: float, alpha: float, *values: float) -> Row:
    return _focal(key, f"gamma {gamma:g}, alpha {alpha:g}", alpha, gamma, "1b", *values)


ALPHA = Table(
    key="1a",
    title="Cross entropy weighted by alpha",
    claim="Weighing the classes helps plain cross entropy by a little under 1 AP at best.",
    setting=ABLATION,
    baseline="alpha50",
    overrides={"paper": AT_600},
    expect=(("alpha75", "alpha50"), ("alpha50", "alpha25")),
    rows=(
        _alpha("alpha10", 0.10, 0.0),
        _alpha("alpha25", 0.25, 10.8, 16.0, 11.7),
        _alpha("alpha50", 0.50, 30.2, 46.7, 32.8),
        _alpha("alpha75", 0.75, 31.1, 49.4, 33.0),
        _alpha("alpha90", 0.90, 30.8, 49.7, 32.3),
        _alpha("alpha99", 0.99, 28.7, 47.4, 29.9),
        _alpha("alpha999", 0.999, 25.1, 41.7, 26.1),
    ),
)

GAMMA = Table(
    key="1b",
    title="Focal loss, each gamma with its best alpha",
    claim="Focusing on hard anchors gains about 3 AP over weighted cross entropy; gamma 2 is best.",
    setting=ABLATION,
    baseline="gamma2",
    overrides={"paper": AT_600},
    expect=(("gamma2", "gamma0"), ("gamma2", "gamma5")),
    rows=(
        _gamma("gamma0", 0.0, 0.75, 31.1, 49.4, 33.0),
        _gamma("gamma01", 0.1, 0.75, 31.4, 49.9, 33.1),
        _gamma("gamma02", 0.2, 0.75, 31.9, 50.7, 33.4),
        _gamma("gamma05", 0.5, 0.50, 32.9, 51.7, 35.2),
        _gamma("gamma1", 1.0, 0.25, 33.7, 52.0, 36.2),
        _gamma("gamma2", 2.0, 0.25, 34.0, 52.5, 36.5),
        _gamma("gamma5", 5.0, 0.25, 32.2, 49.6, 34.8),
    ),
)


def _anchors(scales: int, ratios: int, *values: float) -> Row:
    shapes = "detector.anchors.shapes"
    return Row(
        key=f"s{scales}a{ratios}",
        label=f"{scales} scales, {ratios} ratios",
        config=CONFIG,
        overrides={
            f"{shapes}.scales_per_octave": scales,
            f"{shapes}.ratios": (1.0,) if ratios == 1 else (0.5, 1.0, 2.0),
            "detector.model.head.shapes_per_cell": scales * ratios,
        },
        published=_published("1c", *values),
    )


ANCHORS = Table(
    key="1c",
    title="Scales and aspect ratios of anchors",
    claim="Several shapes per location gain almost 4 AP over one; beyond 2 x 3 nothing is gained.",
    setting=ABLATION,
    baseline="s1a1",
    overrides={"paper": AT_600, "bench": protocol.VARIED},
    expect=(("s3a1", "s1a1"), ("s1a3", "s1a1"), ("s2a3", "s1a3"), ("s3a3", "s1a1")),
    rows=(
        _anchors(1, 1, 30.3, 49.0, 31.8),
        _anchors(2, 1, 31.9, 50.0, 34.0),
        _anchors(3, 1, 31.8, 49.4, 33.7),
        _anchors(1, 3, 32.4, 52.3, 33.9),
        _anchors(2, 3, 34.2, 53.1, 36.5),
        _anchors(3, 3, 34.0, 52.5, 36.5),
        _anchors(4, 3, 33.8, 52.1, 36.2),
    ),
)


def _ohem(number: int, nms: float, value: float, negatives: int | None = None) -> Row:
    proportion = "" if negatives is None else f", 1 : {negatives}"
    return Row(
        key=f"ohem{number}_{round(10 * nms)}" + ("" if negatives is None else f"_{negatives}"),
        label=f"OHEM, {number} anchors, NMS {nms}{proportion}",
        config=CONFIG,
        overrides={
            "detector.objective.classify.loss": bind(losses.class_bce),
            "detector.objective.select": bind(
                selection.online, number=number, iou_threshold=nms, negatives_per_positive=negatives
            ),
        },
        published=_published("1d", value),
    )


MINING = Table(
    key="1d",
    title="Focal loss and hard example mining",
    claim="Focal loss, which samples nothing, beats the best mining by more than 3 AP.",
    setting="COCO 2017, ResNet-101-FPN, 600 px, 90k steps of 16, val2017 (minival)",
    baseline="focal",
    overrides={"paper": {**AT_600, "detector.model.backbone.depth": 101}},
    expect=(("focal", "ohem128_5"), ("ohem128_5", "ohem512_5")),
    rows=(
        _ohem(128, 0.7, 31.1),
        _ohem(256, 0.7, 31.8),
        _ohem(512, 0.7, 30.6),
        _ohem(128, 0.5, 32.8),
        _ohem(256, 0.5, 31.0),
        _ohem(512, 0.5, 27.6),
        _ohem(128, 0.5, 31.1, 3),
        _ohem(256, 0.5, 28.3, 3),
        _ohem(512, 0.5, 24.0, 3),
        Row(
            key="focal",
            label="focal loss",
            config=CONFIG,
            published=_published("1d", 36.0, 54.9, 38.7),
        ),
    ),
)


def _star(gamma: float, beta: float, value: float) -> Row:
    loss = bind(losses.focal_star, alpha=0.25, gamma=gamma, beta=beta)
    label = f"FL*, gamma {gamma:g}, beta {beta:g}"
    return _loss(f"star{gamma:g}_{beta:g}", label, loss, "3", value)


STAR = Table(
    key="3",
    title="The other form of the focal loss",
    claim="The exact form does not matter: any loss that is low for well-classified anchors works.",
    setting=ABLATION,
    baseline="focal",
    overrides={"paper": AT_600},
    expect=(("star2_1", "ce"), ("star4_0", "ce")),
    rows=(
        _focal("ce", "cross entropy, alpha 0.75", 0.75, 0.0, "3", 31.1),
        _focal("focal", "focal loss", 0.25, 2.0, "3", 34.0),
        _star(2.0, 1.0, 33.8),
        _star(4.0, 0.0, 33.9),
    ),
)


def _size(depth: int, short: int, *values: float) -> Row:
    return Row(
        key=f"r{depth}_{short}",
        label=f"R-{depth}, {short} px",
        config=CONFIG,
        words=only("paper"),
        overrides={"detector.model.backbone.depth": depth, **sized(short)},
        published=_published("1e", *values),
    )


SIZES = Table(
    key="1e",
    title="Depth of the backbone and size of the images",
    claim="Accuracy is bought by depth and resolution: from 30.5 to 37.8 AP.",
    setting="COCO 2017, 90k steps of 16, test-dev (ours: val2017)",
    baseline="r50_600",
    overrides={"paper": DETECTRON},
    expect=(("r50_800", "r50_400"), ("r101_800", "r50_800")),
    rows=(
        _size(50, 400, 30.5, 47.8, 32.7, 11.2, 33.8, 46.1),
        _size(50, 500, 32.5, 50.9, 34.8, 13.9, 35.8, 46.7),
        _size(50, 600, 34.3, 53.2, 36.9, 16.2, 37.4, 47.4),
        _size(50, 700, 35.1, 54.2, 37.7, 18.0, 39.3, 46.4),
        _size(50, 800, 35.7, 55.0, 38.5, 18.9, 38.9, 46.3),
        _size(101, 400, 31.9, 49.5, 34.1, 11.6, 35.8, 48.5),
        _size(101, 500, 34.4, 53.1, 36.8, 14.7, 38.5, 49.1),
        _size(101, 600, 36.0, 55.2, 38.7, 17.4, 39.6, 49.7),
        _size(101, 700, 37.1, 56.6, 39.8, 19.1, 40.6, 49.4),
        _size(101, 800, 37.8, 57.5, 40.8, 20.2, 41.1, 49.2),
    ),
)


def _zoo(key: str, label: str, value: float, **backbone: int) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        words=None if key == "r50" else only("paper"),
        overrides={f"detector.model.backbone.{name}": size for name, size in backbone.items()},
        published=ap(value, source=ZOO),
    )


BACKBONES = Table(
    key="zoo",
    title="RetinaNet in MMDetection, 1x",
    claim="The baseline of the methods that were compared in MMDetection.",
    setting="COCO 2017, 800 px, 12 epochs of 16, val2017",
    baseline="r50",
    rows=(
        Row(
            key="r18",
            label="R-18",
            config=CONFIG,
            words=only("paper"),
            overrides={"detector.model.backbone.depth": 18},
            published=ap(31.7, source=ZOO),
        ),
        _zoo("r50", "R-50", 36.5),
        _zoo("r101", "R-101", 38.5, depth=101),
        _zoo("x101_32x4d", "X-101-32x4d", 39.9, depth=101, groups=32, base_width=4),
        _zoo("x101_64x4d", "X-101-64x4d", 41.0, depth=101, groups=64, base_width=4),
    ),
)

TABLES = (ALPHA, GAMMA, ANCHORS, MINING, STAR, SIZES, BACKBONES)
