"""Tables of "FreeAnchor: Learning to Match Anchors for Visual Object Detection" (Zhang et al.)."""

from anchors_jax.data import transforms
from anchors_jax.spec import make
from experiments import protocol
from experiments.rows import Row, Table, ap, only

PAPER = "freeanchor"
CONFIG = "configs/freeanchor.py"
ZOO, OFFICIAL = "MMDetection's model zoo", "the authors' README"
OBJECTIVE = "detector.objective"
X101 = {"depth": 101, "groups": 32, "base_width": 4}
X101_64 = {"depth": 101, "groups": 64, "base_width": 4}


def _backbone(**sizes: int) -> dict[str, object]:
    return {f"detector.model.backbone.{name}": size for name, size in sizes.items()}


def _pair(name: str, label: str, baseline: float, value: float, **sizes: int) -> tuple[Row, Row]:
    words = None if name == "r50" else only("paper")
    overrides = _backbone(**sizes)
    return (
        Row(
            key=f"retinanet_{name}",
            label=f"RetinaNet, {label}",
            config="configs/retinanet.py",
            words=words,
            overrides=overrides,
            published=ap(baseline, source=ZOO),
        ),
        Row(
            key=f"freeanchor_{name}",
            label=f"FreeAnchor, {label}",
            config=CONFIG,
            words=words,
            overrides=overrides,
            published=ap(value, source=ZOO),
        ),
    )


MAIN = Table(
    key="zoo",
    title="FreeAnchor and RetinaNet in MMDetection, 1x",
    claim="Learning which anchors match gains about 2 AP over the IoU rule, with the same network "
    "and the same inference.",
    setting="COCO 2017, 800 px, 12 epochs of 16, val2017",
    baseline="retinanet_r50",
    expect=(
        ("freeanchor_r50", "retinanet_r50"),
        ("freeanchor_r101", "retinanet_r101"),
        ("freeanchor_x101", "retinanet_x101"),
    ),
    rows=(
        *_pair("r50", "R-50", 36.5, 38.7),
        *_pair("r101", "R-101", 38.5, 40.3, depth=101),
        *_pair("x101", "X-101-32x4d", 39.9, 41.9, **X101),
    ),
)

THIN = Table(
    key="shapes",
    title="Elongated and crowded objects",
    claim="The gain is largest where the IoU rule fits objects badly: thin and crowded ones. "
    "(The paper shows it by category; here the drawings are chosen.)",
    setting="no published numbers",
    baseline="retinanet",
    overrides={"bench": protocol.ASPECTS},
    expect=(("freeanchor", "retinanet"),),
    rows=(
        Row(
            key="retinanet",
            label="RetinaNet",
            config="configs/retinanet.py",
            words=only("bench", "smoke"),
        ),
        Row(key="freeanchor", label="FreeAnchor", config=CONFIG, words=only("bench", "smoke")),
    ),
)

JITTER = {
    "data.train_transforms": [
        make(transforms.resize, short=(640, 800), long=1333),
        make(transforms.horizontal_flip, p=0.5),
    ]
}
LONG = {"train.steps": 180_000, **JITTER}


def _official(key: str, label: str, value: float, **overrides: object) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        words={"paper": "official"},
        overrides=overrides,
        published=ap(value, source=OFFICIAL),
    )


AUTHORS = Table(
    key="official",
    title="The authors' code",
    claim="The authors' own numbers, in their setting.",
    setting="COCO 2017, 800 px or short side 640-800, 90k or 180k steps of 16, val2017",
    baseline="r50",
    rows=(
        _official("r50", "R-50, 90k, 800 px", 38.7),
        _official("r101", "R-101, 90k, 800 px", 40.5, **_backbone(depth=101)),
        _official("r101_long", "R-101, 180k, 640-800 px", 42.7, **_backbone(depth=101), **LONG),
        _official("x101_long", "X-101-64x4d, 180k, 640-800", 44.5, **_backbone(**X101_64), **LONG),
    ),
)


def _study(name: str, label: str, values: tuple[float, ...], default: float) -> tuple[Row, ...]:
    return tuple(
        Row(
            key=f"{name}_{value:g}".replace(".", ""),
            label=f"{label} {value:g}" + " (chosen)" * (value == default),
            config=CONFIG,
            overrides={} if value == default else {f"{OBJECTIVE}.{name}": value},
        )
        for value in values
    )


PARAMETERS = Table(
    key="parameters",
    title="Size of a bag, threshold, focal weight and exponent",
    claim="50 anchors per bag, t = 0.6, alpha = 0.5 and gamma = 2 are the best of their grids; the "
    "paper gives the winners, not the numbers.",
    setting="COCO 2017, ResNet-50-FPN, 800 px, val2017; no published numbers",
    baseline="bag_size_50",
    rows=(
        *_study("bag_size", "bag", (40, 50, 60, 100), 50),
        *_study("iou_threshold", "t", (0.5, 0.6, 0.7), 0.6),
        *_study("alpha", "alpha", (0.25, 0.5, 0.75), 0.5),
        *_study("gamma", "gamma", (1.5, 2.0, 2.5), 2.0),
    ),
)

TABLES = (MAIN, THIN, AUTHORS, PARAMETERS)
