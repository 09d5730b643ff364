"""Tables of "Bridging the Gap Between Anchor-based and Anchor-free Detection via ATSS" (Zhang).

The steps of Table 1 are taken back from ATSS's own config, so that each row differs from the next
in what it names and in nothing else.
"""

from typing import Any

from anchors_jax import anchors, codecs, losses
from anchors_jax.assign import atss, max_iou
from anchors_jax.objectives import terms
from anchors_jax.spec import bind, make
from experiments import protocol
from experiments.rows import Published, Row, Table, ap, only, suffix

PAPER = "atss"
CONFIG = "configs/atss.py"
ABLATION = "COCO 2017, ResNet-50-FPN, 800 px, 90k steps of 16, val2017 (minival)"
HEAD, OBJECTIVE = "detector.model.head", "detector.objective"
SHAPES = "detector.anchors.shapes"
# The IoU rule of the authors' RetinaNet with one anchor per location.
BY_IOU = {
    f"{OBJECTIVE}.assign": bind(
        max_iou.assign, positive_iou=0.5, negative_iou=0.4, low_quality_owner="own"
    )
}
BY_IOU_INSIDE = {**BY_IOU, f"{OBJECTIVE}.assign.centre_margin": 0.01}
NO_SCALE = {f"{HEAD}.level_scale": False}
SMOOTH_L1 = {
    f"{OBJECTIVE}.regress": make(
        terms.on_codes,
        codec=make(codecs.deltas, stds=(0.1, 0.1, 0.2, 0.2), limit_both_sides=False),
        loss=bind(losses.smooth_l1),
    )
}
NO_NORM = {f"{HEAD}.norm": None}
TO_GIOU = {**BY_IOU, **NO_SCALE, **protocol.NO_QUALITY}
TO_NORM = {**TO_GIOU, **SMOOTH_L1}


def _squares(side: float) -> dict[str, Any]:
    """Squares for ATSS in place of FCOS's bare locations; the codes still count in strides."""
    return {
        "detector.anchors": make(
            anchors.Grid,
            shapes=make(anchors.relative, scales=(side,), ratios=(1.0,)),
            strides=(8, 16, 32, 64, 128),
        ),
        f"{OBJECTIVE}.regress.codec": make(
            codecs.distances, relative=True, unit=1 / side, activation="relu"
        ),
    }


def _published(table: int, *values: float) -> Published:
    return ap(*values, source=f"ATSS, Table {table}")


def _row(key: str, label: str, table: int, *values: float, **others: Any) -> Row:
    return Row(
        key=key,
        label=label,
        config=others.pop("config", CONFIG),
        published=_published(table, *values),
        **others,
    )


GAP = Table(
    key="1",
    title="From RetinaNet with one anchor to FCOS",
    claim="Most of the gap between RetinaNet and FCOS is made of details that either can have; 0.8 "
    "AP remain, and they come from the choice of positives.",
    setting=ABLATION,
    baseline="retinanet",
    expect=(("gn", "retinanet"), ("giou", "gn"), ("centerness", "inside"), ("fcos", "scale")),
    rows=(
        _row("retinanet", "RetinaNet, 1 anchor", 1, 32.5, overrides={**TO_NORM, **NO_NORM}),
        _row("gn", "+ group norm", 1, 33.4, overrides=TO_NORM),
        _row("giou", "+ GIoU", 1, 34.9, overrides=TO_GIOU),
        _row(
            *("inside", "+ positives only inside objects", 1, 35.3),
            overrides={**BY_IOU_INSIDE, **NO_SCALE, **protocol.NO_QUALITY},
        ),
        _row(
            *("centerness", "+ centerness", 1, 36.8),
            overrides={**BY_IOU_INSIDE, **NO_SCALE},
        ),
        _row("scale", "+ scale per level", 1, 37.0, overrides=BY_IOU_INSIDE),
        _row(
            *("fcos", "FCOS with its improvements but centre sampling", 1, 37.8),
            config="configs/fcos.py",
            words=suffix("improved", paper="improved"),
            overrides={f"{OBJECTIVE}.assign.centre_radius": None},
        ),
    ),
)

SELECTION = Table(
    key="3",
    title="ATSS on RetinaNet and on FCOS",
    claim="With the same positives RetinaNet (one anchor) and FCOS are equally good: how positives "
    "are chosen is the difference, not anchors.",
    setting=ABLATION,
    baseline="retinanet",
    overrides={"bench": protocol.CROWDED},
    expect=(("atss", "retinanet"), ("fcos", "retinanet"), ("fcos_centre", "fcos")),
    rows=(
        _row(
            *("retinanet", "RetinaNet, 1 anchor, all details", 3),
            *(37.0, 55.1, 39.9, 21.4, 41.2, 48.6),
            overrides=BY_IOU_INSIDE,
        ),
        _row("atss", "+ ATSS", 3, 39.3, 57.5, 42.8, 24.3, 43.3, 51.3),
        _row(
            *("fcos", "FCOS", 3, 37.8, 55.6, 40.7, 22.1, 41.8, 48.8),
            config="configs/fcos.py",
            words=suffix("improved", paper="improved"),
            overrides={f"{OBJECTIVE}.assign.centre_radius": None},
        ),
        _row(
            *("fcos_centre", "+ centre sampling", 3, 38.6, 57.4, 41.4, 22.3, 42.5, 49.8),
            config="configs/fcos.py",
            words=suffix("improved", paper="improved"),
        ),
        _row(
            *("fcos_atss", "FCOS + ATSS", 3),
            *(39.2, 57.3, 42.4, 22.7, 43.1, 51.5),
            config="configs/fcos.py",
            words=suffix("improved", paper="improved"),
            overrides={f"{OBJECTIVE}.assign": bind(atss.assign, topk=9)},
            at={
                scale: _squares(side)
                for scale, side in (("paper", 8.0), ("bench", 5.0), ("smoke", 5.0))
            },
        ),
    ),
)


def _topk(k: int, value: float) -> Row:
    overrides = {} if k == 9 else {f"{OBJECTIVE}.assign.topk": k}
    return _row(f"k{k}", f"k = {k}", 4, value, overrides=overrides)


CANDIDATES = Table(
    key="4",
    title="Candidates per level",
    claim="AP hardly depends on k, the only hyper-parameter, from 7 to 17.",
    setting=ABLATION,
    baseline="k9",
    expect=(("k9", "k3"),),
    rows=tuple(
        _topk(k, value)
        for k, value in (
            *((3, 38.0), (5, 38.8), (7, 39.1), (9, 39.3), (11, 39.1)),
            *((13, 39.0), (15, 39.1), (17, 39.2), (19, 38.9)),
        )
    ),
)


def _side(side: int, value: float) -> Row:
    # Bench anchors are 5/8 of the paper's, as in configs/atss.py.
    scales = {"paper": float(side), "bench": 5 / 8 * side, "smoke": 5 / 8 * side}
    return _row(
        *(f"side{side}", f"{side} strides", 5, value),
        at={scale: {f"{SHAPES}.scales": (size,)} for scale, size in scales.items()},
    )


SIDES = Table(
    key="5",
    title="Side of the anchor",
    claim="AP hardly depends on the size of the only anchor.",
    setting=ABLATION,
    baseline="side8",
    rows=tuple(
        _side(side, value)
        for side, value in ((5, 39.0), (6, 39.2), (7, 39.3), (8, 39.3), (9, 38.9))
    ),
)

RATIOS = Table(
    key="6",
    title="Aspect ratio of the anchor",
    claim="AP hardly depends on the shape of the only anchor.",
    setting=f"{ABLATION}; ratios taken as height : width",
    baseline="r1",
    overrides={"bench": protocol.ASPECTS},
    rows=tuple(
        _row(key, label, 6, value, overrides={} if key == "r1" else {f"{SHAPES}.ratios": (ratio,)})
        for key, label, ratio, value in (
            ("r025", "1:4", 0.25, 39.1),
            ("r05", "1:2", 0.5, 39.0),
            ("r1", "1:1", 1.0, 39.3),
            ("r2", "2:1", 2.0, 39.3),
            ("r4", "4:1", 4.0, 39.1),
        )
    ),
)


def _several(scales: int, ratios: int, value: float) -> Row:
    three = (0.5, 1.0, 2.0) if ratios == 3 else (1.0,)

    def shapes(side: float) -> dict[str, Any]:
        sides = tuple(side * 2 ** (i / scales) for i in range(scales))
        if scales == ratios == 1:
            return {}
        return {SHAPES: make(anchors.relative, scales=sides, ratios=three)}

    return _row(
        *(f"s{scales}a{ratios}", f"ATSS, {scales} scales, {ratios} ratios", 7, value),
        overrides={f"{HEAD}.shapes_per_cell": scales * ratios},
        at={"paper": shapes(8.0), "bench": shapes(5.0), "smoke": shapes(5.0)},
    )


SEVERAL = Table(
    key="7",
    title="Several anchors per location",
    claim="Several anchors per location help RetinaNet's rule, and are useless once positives are "
    "chosen well. Semi-Anchored says otherwise (its Table 1).",
    setting=f"{ABLATION}; the sides of several scales are not given: 8 strides and its octave",
    baseline="s1a1",
    overrides={"bench": protocol.VARIED},
    expect=(("retinanet_details", "retinanet"), ("s1a1", "retinanet_details")),
    rows=(
        _row("retinanet", "RetinaNet, 3 x 3", 7, 36.3, config="configs/retinanet.py"),
        _row(
            *("retinanet_details", "RetinaNet, 3 x 3, all details", 7, 38.4),
            overrides={**BY_IOU, f"{HEAD}.shapes_per_cell": 9},
            at={
                scale: {SHAPES: make(anchors.octaves, base_scale=side)}
                for scale, side in (("paper", 4.0), ("bench", 2.5), ("smoke", 2.5))
            },
        ),
        _several(3, 3, 39.2),
        _several(3, 1, 39.3),
        _several(1, 3, 39.2),
        _several(1, 1, 39.3),
    ),
)

ZOO = Table(
    key="zoo",
    title="ATSS in MMDetection, 1x",
    claim="ResNet-101 gains 2 AP over ResNet-50.",
    setting="COCO 2017, 800 px, 12 epochs of 16, val2017 (ours: 90k steps)",
    baseline="r50",
    expect=(("r101", "r50"),),
    rows=(
        Row(key="r50", label="R-50", config=CONFIG, published=ap(39.4, source="MMDetection")),
        Row(
            key="r101",
            label="R-101",
            config=CONFIG,
            words=only("paper"),
            overrides={"detector.model.backbone.depth": 101},
            published=ap(41.5, source="MMDetection"),
        ),
    ),
)

TABLES = (GAP, SELECTION, CANDIDATES, SIDES, RATIOS, SEVERAL, ZOO)
