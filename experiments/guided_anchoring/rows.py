"""Tables of "Region Proposal by Guided Anchoring" (Wang, Chen, Yang, Loy, Lin)."""

from typing import Any

from experiments import protocol
from experiments.rows import Published, Row, Table, ap, only, suffix

PAPER = "guided_anchoring"
CONFIG = "configs/guided_anchoring.py"
RPN = "configs/rpn.py"
GUIDED = suffix("guided", paper="guided")
TWO_STAGE = "two-stage detectors are not built"
ITERATIVE = "proposals that are refined step by step are not built"
OBJECTIVE, ADAPT = "detector.objective", "detector.model.head.adapt"
RETOLD = "Guided Anchoring, as retold in public notes"


def _detection(key: str, label: str, config: str, *values: float, **backbone: int) -> Row:
    return Row(
        key=key,
        label=label,
        config=config,
        overrides={f"detector.model.backbone.{name}": size for name, size in backbone.items()},
        words=only("paper") if backbone else None,
        published=ap(*values, source=f"{RETOLD}, Table 2", verified=False),
    )


def _two_stage(key: str, label: str, *values: float) -> Row:
    published = ap(*values, source=f"{RETOLD}, Table 2", verified=False)
    return Row(key=key, label=label, published=published, unavailable=TWO_STAGE)


DETECTION = Table(
    key="2",
    title="Detection with guided anchors",
    claim="Predicting where objects may be and of what shape replaces nine fixed anchors, and "
    "gains 1.2 AP for RetinaNet and 2.7 for Faster R-CNN.",
    setting="COCO 2017, ResNet-50-FPN, 800 px, 1x, test-dev (ours: val2017)",
    baseline="retinanet",
    overrides={"bench": protocol.VARIED},
    expect=(("ga_retinanet", "retinanet"),),
    rows=(
        _detection(
            *("retinanet", "RetinaNet", "configs/retinanet.py"),
            *(35.9, 55.4, 38.8, 19.4, 38.9, 46.5),
        ),
        _detection(
            *("ga_retinanet", "GA-RetinaNet", CONFIG, 37.1, 56.9, 40.0, 20.1, 40.1, 48.0),
        ),
        _two_stage("fast_rcnn", "Fast R-CNN", 37.1, 59.6, 39.7, 20.7, 39.5, 47.1),
        _two_stage("ga_fast_rcnn", "GA-Fast R-CNN", 39.4, 59.4, 42.8, 21.6, 41.9, 50.4),
        _two_stage("faster_rcnn", "Faster R-CNN", 37.1, 59.1, 40.1, 21.3, 39.8, 46.5),
        _two_stage("ga_faster_rcnn", "GA-Faster R-CNN", 39.8, 59.2, 43.5, 21.8, 42.6, 50.7),
    ),
)


def _recall(table: int, **values: float) -> Published:
    return Published(metrics=values, source=f"{RETOLD}, Table {table}", verified=False)


def _proposals(key: str, label: str, table: int, *values: float, **others: Any) -> Row:
    # What claims are about comes first: tables compare rows by it.
    names = ("AR1000", "AR100", "AR300", "ARs", "ARm", "ARl")
    return Row(
        key=key,
        label=label,
        published=_recall(table, **dict(zip(names, values, strict=True))),
        **others,
    )


def _guided(key: str, label: str, table: int, *values: float, **overrides: object) -> Row:
    return _proposals(key, label, table, *values, config=RPN, words=GUIDED, overrides=overrides)


PROPOSALS = Table(
    key="1",
    title="Proposals",
    claim="Guided anchors find 9 points more of the objects with 1000 proposals than RPN.",
    setting="COCO 2017, ResNet-50-FPN, 800 px, 1x; the split is not given",
    baseline="rpn",
    overrides={"bench": protocol.VARIED},
    expect=(("ga_rpn", "rpn"), ("ga_rpn", "rpn9")),
    rows=(
        _proposals("rpn", "RPN", 1, 59.4, 47.5, 54.7, 31.7, 55.1, 64.6, config=RPN),
        _proposals(
            *("rpn9", "RPN, 9 anchors", 1, 60.3, 46.8, 54.6, 29.5, 54.9, 65.6),
            config=RPN,
            overrides={
                "detector.anchors.shapes.scales_per_octave": 3,
                "detector.model.head.shapes_per_cell": 9,
            },
        ),
        _proposals(
            *("iterative", "RPN, iterative", 1, 60.0, 49.7, 56.0, 34.7, 58.2, 64.0),
            unavailable=ITERATIVE,
        ),
        _proposals(
            *("refine", "RefineRPN", 1, 60.6, 50.2, 56.3, 33.5, 59.1, 66.9),
            unavailable=ITERATIVE,
        ),
        _guided("ga_rpn", "GA-RPN", 1, 68.5, 59.2, 65.2, 40.9, 67.8, 79.0),
    ),
)

MODULES = Table(
    key="4",
    title="Location, shape, feature adaptation",
    claim="Learned shapes matter most, and features adapted to them nearly as much; predicting "
    "locations prunes anchors at no loss.",
    setting="COCO 2017, ResNet-50-FPN, 800 px, 1x; proposals. Ours without shape: one square per "
    "location, under an ordinary convolution",
    baseline="none",
    overrides={"bench": protocol.VARIED},
    expect=(("shape", "none"), ("all", "both")),
    rows=(
        _proposals("none", "none (RPN)", 4, 59.4, 47.5, 54.7, 31.7, 55.1, 64.6, config=RPN),
        _guided(
            *("location", "location", 4, 59.5, 48.0, 54.8, 32.3, 55.6, 64.8),
            **{f"{OBJECTIVE}.shapes": None, ADAPT: False},
        ),
        _guided(
            *("shape", "shape", 4, 63.6, 53.8, 59.9, 36.4, 62.9, 71.7),
            **{f"{OBJECTIVE}.locations": None, ADAPT: False},
        ),
        _guided(
            *("both", "location, shape", 4, 63.8, 54.0, 60.1, 36.7, 63.1, 71.5),
            **{ADAPT: False},
        ),
        _guided("all", "and adaptation", 4, 68.5, 59.2, 65.2, 40.9, 67.8, 79.0),
    ),
)


def _part(key: str, label: str, **others: Any) -> Row:
    return Row(key=key, label=label, config=CONFIG, **others)


def _gate(key: str, value: float) -> Row:
    overrides = {f"{OBJECTIVE}.locations.gate": value}
    return _part(key, f"locations above {value:g}", overrides=overrides, reuse="all")


def _tried(key: str, scales: int, ratios: tuple[float, ...]) -> Row:
    where = f"{OBJECTIVE}.shapes.assign"
    overrides = {f"{where}.scales_per_octave": scales, f"{where}.ratios": ratios}
    return _part(key, f"{scales * len(ratios)} shapes tried", overrides=overrides)


PARTS = Table(
    key="4_retinanet",
    title="The same parts in GA-RetinaNet",
    claim="As in Table 4: shapes and adaptation matter, locations only save work; how many shapes "
    "are tried to find the best one, and the threshold of locations, hardly matter.",
    setting="the paper shows it for proposals (its Table 4); no published numbers for detection",
    baseline="all",
    overrides={"bench": protocol.ASPECTS},
    expect=(("all", "no_shape"), ("all", "no_adaptation")),
    rows=(
        _part("all", "location, shape, adaptation; 9 shapes tried; locations above 0.01"),
        _part("no_location", "without location", overrides={f"{OBJECTIVE}.locations": None}),
        _part("no_shape", "without shape", overrides={f"{OBJECTIVE}.shapes": None}),
        _part(
            *("no_adaptation", "without adaptation"),
            overrides={ADAPT: False},
        ),
        _gate("gate0", 0.0),
        _gate("gate005", 0.05),
        _gate("gate01", 0.1),
        _tried("tried3", 1, (0.5, 1.0, 2.0)),
        _tried("tried15", 3, (1 / 3, 0.5, 1.0, 2.0, 3.0)),
    ),
)


def _zoo(key: str, label: str, config: str, value: float, **backbone: int) -> Row:
    return Row(
        key=key,
        label=label,
        config=config,
        words=only("paper") if backbone else None,
        overrides={f"detector.model.backbone.{name}": size for name, size in backbone.items()},
        published=ap(value, source="MMDetection's model zoo"),
    )


X101 = {"depth": 101, "groups": 32, "base_width": 4}
RETINANET = "configs/retinanet.py"
ZOO = Table(
    key="zoo",
    title="GA-RetinaNet in MMDetection, 1x",
    claim="In MMDetection the gain of guided anchors for RetinaNet is 0.4 to 0.6 AP.",
    setting="COCO 2017, 800 px, 12 epochs of 16, val2017; ResNets in Caffe's style there",
    baseline="retinanet_r50",
    expect=(
        ("ga_r50", "retinanet_r50"),
        ("ga_r101", "retinanet_r101"),
        ("ga_x101", "retinanet_x101"),
    ),
    rows=(
        _zoo("retinanet_r50", "RetinaNet, R-50", RETINANET, 36.3),
        _zoo("ga_r50", "GA-RetinaNet, R-50", CONFIG, 36.9),
        _zoo("retinanet_r101", "RetinaNet, R-101", RETINANET, 38.5, depth=101),
        _zoo("ga_r101", "GA-RetinaNet, R-101", CONFIG, 39.0, depth=101),
        _zoo(
            *("retinanet_x101", "RetinaNet, X-101-32x4d", RETINANET, 39.9),
            **X101,
        ),
        _zoo(
            *("ga_x101", "GA-RetinaNet, X-101-32x4d", CONFIG, 40.5),
            **X101,
        ),
    ),
)

TABLES = (PROPOSALS, DETECTION, MODULES, PARTS, ZOO)
