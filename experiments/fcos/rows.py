"""Tables of "FCOS: Fully Convolutional One-Stage Object Detection" (Tian, Shen, Chen, He)."""

from typing import Any

from anchors_jax import losses, quality
from anchors_jax.spec import bind
from experiments import protocol
from experiments.rows import Published, Row, Table, ap, suffix

PAPER = "fcos"
CONFIG = "configs/fcos.py"
ABLATION = "COCO 2017, ResNet-50-FPN, 800 px, 90k steps of 16, val2017 (minival)"
HEAD, NECK, OBJECTIVE = "detector.model.head", "detector.model.neck", "detector.objective"
NO_NORM, NMS_05 = {f"{HEAD}.norm": None}, {"detector.detect.iou_threshold": 0.5}
FROM_C5 = {f"{NECK}.extra_source": "C5"}
# The improvements, in the order in which they were added.
ON_BOX_TOWER = {f"{HEAD}.quality": "box"}
CENTRE = {**ON_BOX_TOWER, f"{OBJECTIVE}.assign.centre_radius": 1.5}
GIOU = {**CENTRE, f"{OBJECTIVE}.regress.loss": bind(losses.giou)}


def _published(where: str, *values: float, verified: bool = True) -> Published:
    return ap(*values, source=f"FCOS, {where}", verified=verified)


def _row(
    key: str, label: str, overrides: dict[str, Any], value: float, table: str, **others: Any
) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        overrides=overrides,
        published=_published(table, value),
        **others,
    )


AGAINST = Table(
    key="3",
    title="From RetinaNet's settings to FCOS's",
    claim="Without anchors it is better than RetinaNet even in RetinaNet's settings; P6 from P5, "
    "NMS at 0.6 and group norm add 0.8 AP.",
    setting=ABLATION,
    baseline="gn",
    expect=(("c5", "retinanet"), ("gn", "retinanet"), ("gn", "nms06")),
    rows=(
        Row(
            key="retinanet",
            label="RetinaNet (9 anchors)",
            config="configs/retinanet.py",
            published=_published("Table 3", 35.9),
        ),
        _row("c5", "FCOS, P6 from C5", {**FROM_C5, **NO_NORM, **NMS_05}, 36.3, "Table 3"),
        _row("p5", "+ P6 from P5", {**NO_NORM, **NMS_05}, 36.4, "Table 3"),
        _row("nms06", "+ NMS at 0.6", NO_NORM, 36.5, "Table 3", reuse="p5"),
        _row("gn", "+ group norm", {}, 37.1, "Table 3"),
    ),
)

IMPROVEMENTS = Table(
    key="improvements",
    title="The improvements, one after the other",
    claim="Centre sampling is worth most (0.7 AP): boxes hold background, and they overlap.",
    setting=ABLATION,
    baseline="base",
    overrides={"bench": protocol.CROWDED},
    expect=(
        ("box_tower", "base"),
        ("centre", "box_tower"),
        ("giou", "centre"),
        ("improved", "giou"),
    ),
    rows=(
        _row("base", "FCOS", {}, 37.1, "README and TPAMI version"),
        _row("box_tower", "+ centerness on box tower", ON_BOX_TOWER, 37.4, "TPAMI version"),
        _row("centre", "+ centre sampling", CENTRE, 38.1, "TPAMI version"),
        _row("giou", "+ GIoU", GIOU, 38.3, "TPAMI version"),
        Row(
            key="improved",
            label="+ normalised targets",
            config=CONFIG,
            words=suffix("improved", paper="improved"),
            published=_published("TPAMI version", 38.6, 57.4, 41.4, 22.3, 42.5, 49.8),
        ),
    ),
)

CENTERNESS = Table(
    key="centerness",
    title="With and without centerness",
    claim="Low-quality boxes from far off an object's centre cost 3.6 AP unless a branch marks "
    "them.",
    setting=ABLATION,
    baseline="branch",
    expect=(("branch", "none"), ("branch", "from_boxes")),
    rows=(
        _row("none", "none", protocol.NO_QUALITY, 33.5, "centerness table"),
        _row(
            *("from_boxes", "computed from the predicted box"),
            {**protocol.NO_QUALITY, f"{OBJECTIVE}.box_quality": bind(quality.centerness)},
            *(33.5, "centerness table"),
            reuse="none",
        ),
        _row("branch", "its own branch", {}, 37.1, "centerness table"),
    ),
)

TABLES = (AGAINST, IMPROVEMENTS, CENTERNESS)
