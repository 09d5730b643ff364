"""Tables 7 and 8 of the Semi-Anchored paper: against other detectors, and on SSD."""

from anchors_jax.data import transforms
from anchors_jax.spec import make
from experiments.rows import Row, Table, ap, only

CONFIG = "configs/semi_anchored.py"

# 180k steps, short side drawn from 640, 672, ..., 800: here from all integers between.
LONG = {
    "train.steps": 180_000,
    "data.train_transforms": [
        make(transforms.resize, short=(640, 800), long=1333),
        make(transforms.horizontal_flip, p=0.5),
    ],
}


def _backbone(key: str, label: str, *values: float, **backbone: int) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        words=only("paper"),
        overrides={f"detector.model.backbone.{name}": value for name, value in backbone.items()},
        published=ap(*values, source="Semi-Anchored, Table 7"),
    )


def _quoted(key: str, label: str, *values: float) -> Row:
    published = ap(*values, source="quoted in Semi-Anchored, Table 7", verified=False)
    return Row(key=key, label=label, published=published)


OTHERS = Table(
    key="7",
    title="Other detectors",
    claim="With larger backbones and a longer schedule it beats the one-stage detectors of its "
    "time: those with anchors, and those without.",
    setting="COCO 2017, 180k steps of 16, short side 640-800, test-dev (ours: val2017)",
    baseline="r101",
    overrides={"paper": LONG},
    rows=(
        _quoted("yolov2", "YOLOv2, DarkNet-19", 21.6, 44.0, 19.2, 5.0, 22.4, 35.5),
        _quoted("ssd513", "SSD513, R-101", 31.2, 50.4, 33.3, 10.2, 34.5, 49.8),
        _quoted("dssd513", "DSSD513, R-101", 33.2, 53.3, 35.2, 13.0, 35.4, 51.1),
        _quoted("faster_rcnn", "Faster R-CNN, R-101-FPN", 36.2, 59.1, 39.0, 18.2, 39.0, 48.2),
        _quoted("cascade_rcnn", "Cascade R-CNN, R-101-FPN", 42.8, 62.1, 46.3, 23.7, 45.5, 55.2),
        _quoted("ga_retinanet", "GA-RetinaNet, R-50", 37.1, 56.9, 40.0, 20.1, 40.1, 48.0),
        _quoted("retinanet", "RetinaNet, R-101", 39.1, 59.1, 42.3, 21.8, 42.7, 50.2),
        _quoted("retinanet_x101", "RetinaNet, X-101-32x8d", 40.8, 61.1, 44.1, 24.1, 44.2, 51.2),
        _quoted("cornernet", "CornerNet, Hourglass-104", 40.5, 56.5, 43.1, 19.4, 42.7, 53.9),
        _quoted("centernet", "CenterNet, Hourglass-104", 44.9, 62.4, 48.1, 25.6, 47.4, 57.4),
        _quoted("fsaf", "FSAF, R-101", 40.9, 61.5, 44.0, 24.0, 44.2, 51.3),
        _quoted("fsaf_x101", "FSAF, X-101-64x4d", 42.9, 63.8, 46.3, 27.0, 47.9, 52.7),
        _quoted("fcos", "FCOS, R-101", 41.0, 60.7, 44.1, 24.0, 44.1, 51.0),
        _quoted("fcos_x101", "FCOS, X-101-64x4d", 43.2, 62.8, 46.6, 26.5, 46.2, 53.3),
        _quoted("freeanchor", "FreeAnchor, X-101-64x4d", 44.8, 64.3, 48.4, 27.6, 47.5, 56.0),
        _backbone("r101", "R-101", 43.6, 62.1, 47.5, 25.7, 47.1, 55.3, depth=101),
        _backbone(
            "x101_32x8d",
            "X-101-32x8d",
            *(45.0, 63.9, 49.0, 27.7, 48.7, 55.8),
            depth=101,
            groups=32,
            base_width=8,
        ),
        _backbone(
            "x101_64x4d",
            "X-101-64x4d",
            *(45.4, 64.3, 49.4, 27.8, 49.0, 56.7),
            depth=101,
            groups=64,
            base_width=4,
        ),
    ),
)


SSD, ON = "configs/ssd.py", "configs/semi_anchored_ssd.py"
LARGE = {"paper": "paper512"}


def _ssd(key: str, label: str, config: str, words: dict[str, str] | None, *values: float) -> Row:
    published = ap(*values, source="Semi-Anchored, Table 8")
    return Row(key=key, label=label, config=config, words=words, published=published)


ON_SSD = Table(
    key="8",
    title="On SSD",
    claim="The same three outputs help SSD by 2 AP, with lower AP50 and higher AP75.",
    setting="COCO 2017, VGG16, 120 epochs, val2017",
    baseline="ssd300",
    expect=(("ssd300_sa", "ssd300"), ("ssd512_sa", "ssd512")),
    rows=(
        _ssd("ssd300", "SSD300", SSD, None, 25.5, 45.0, 25.9, 8.4, 26.9, 41.4),
        _ssd("ssd300_sa", "SSD300, semi-anchored", ON, None, 27.5, 43.1, 29.0, 11.2, 31.2, 43.4),
        _ssd("ssd512", "SSD512", SSD, LARGE, 30.1, 51.3, 31.3, 12.9, 34.2, 43.6),
        _ssd("ssd512_sa", "SSD512, semi-anchored", ON, LARGE, 32.0, 48.8, 34.3, 15.9, 37.9, 46.5),
    ),
)
