"""Tables of "Semi-Anchored Detector for One-Stage Object Detection" (Chen, Qian, Li)."""

from configs.semi_anchored import RATIOS
from experiments import protocol
from experiments.rows import Published, Row, Table, ap, suffix
from experiments.semi_anchored.comparison import ON_SSD, OTHERS

PAPER = "semi_anchored"
CONFIG = "configs/semi_anchored.py"
ABLATION = "COCO 2017, ResNet-50-FPN, 800 px, 90k steps of 16, val2017"
SHAPES, OBJECTIVE = "detector.anchors.shapes", "detector.objective"
RATIOS_OF = {1: (1.0,), 3: (0.5, 1.0, 2.0), 5: RATIOS}
VARIED = {"bench": protocol.VARIED}


def _published(table: int, *values: float, **others: float) -> Published:
    return ap(*values, source=f"Semi-Anchored, Table {table}", **others)


# The row that most tables call "ours": 25 anchors, Eqn 4, sigma 0.9, Top-1.
OURS = (39.6, 57.4, 43.1, 22.3, 43.8, 53.0)


def _anchors(scales: int, ratios: int) -> dict[str, object]:
    return {
        f"{SHAPES}.scales_per_octave": scales,
        f"{SHAPES}.ratios": RATIOS_OF[ratios],
        "detector.model.head.shapes_per_cell": scales * ratios,
    }


def _count(scales: int, ratios: int, *values: float, ms: float) -> Row:
    return Row(
        key=f"s{scales}a{ratios}",
        label=f"{scales} x {ratios} anchors",
        config=CONFIG,
        overrides=_anchors(scales, ratios),
        published=_published(1, *values, ms=ms),
    )


NUMBER = Table(
    key="1",
    title="Scales and aspect ratios per location",
    claim="AP grows with the anchors per location where objects vary in shape, at almost no cost "
    "at inference, and passes RetinaNet, which classifies each of its nine anchors.",
    setting=ABLATION,
    baseline="s1a1",
    overrides=VARIED,
    expect=(
        ("s2a1", "s1a1"),
        ("s3a3", "s2a1"),
        ("s5a5", "s3a3"),
        ("s5a5", "s2a1"),
        ("s5a5", "retinanet"),
    ),
    rows=(
        Row(
            key="retinanet",
            label="RetinaNet (9 anchors; more than 98 ms)",
            config="configs/retinanet.py",
            published=_published(1, 35.9, 56.0, 38.2, 20.0, 39.8, 47.4, ms=98),
        ),
        _count(1, 1, 35.8, 55.0, 38.1, 21.2, 38.3, 48.2, ms=95),
        _count(2, 1, 37.4, 55.8, 40.4, 21.0, 41.2, 49.8, ms=96),
        _count(3, 3, 39.0, 57.2, 42.4, 22.7, 43.1, 52.3, ms=97),
        _count(4, 3, 38.8, 56.8, 42.0, 22.3, 42.8, 51.5, ms=98),
        _count(4, 5, 39.4, 57.4, 42.3, 22.2, 43.4, 52.5, ms=97),
        _count(5, 5, *OURS, ms=98),
    ),
)


def _draw(seed: int) -> Row:
    return Row(
        key=f"without_draw{seed}",
        label=f"without, anchors drawn with seed {seed}",
        config=CONFIG,
        overrides={
            **_anchors(2, 1),
            "detector.model.head.classify_anchors": False,
            f"{OBJECTIVE}.choose.key": seed,
        },
        reuse="without",
    )


WITHOUT = Table(
    key="2",
    title="With and without anchor classification",
    claim="The output that chooses among a location's anchors is essential: a random anchor loses "
    "about 7 AP even with two anchors to choose from. The paper reports the best of ten draws.",
    setting=ABLATION,
    baseline="with",
    overrides=VARIED,
    expect=(("with", "without"),),
    rows=(
        Row(
            key="without",
            label="2 x 1 anchors, without",
            config=CONFIG,
            overrides={**_anchors(2, 1), "detector.model.head.classify_anchors": False},
            published=_published(2, 30.6, 49.5, 31.8),
        ),
        *(_draw(seed) for seed in range(1, 10)),
        Row(
            key="with",
            label="2 x 1 anchors, with",
            config=CONFIG,
            overrides=_anchors(2, 1),
            published=_published(2, 37.4, 55.8, 40.4),
        ),
    ),
)

LABELS = Table(
    key="3",
    title="Labels of locations",
    claim="Labelling locations by their anchors beats FCOS's rule, whose positives include "
    "background; shrinking the object helps FCOS's rule only a little.",
    setting=ABLATION,
    baseline="anchors",
    overrides={"bench": protocol.CROWDED},
    expect=(("anchors", "fcos"), ("anchors", "fcos_shrink"), ("fcos_shrink", "fcos")),
    rows=(
        Row(
            key="fcos",
            label="FCOS",
            config=CONFIG,
            words=suffix("fcos"),
            published=_published(3, 37.8, 55.0, 40.7, 21.7, 42.0, 49.9),
        ),
        Row(
            key="fcos_shrink",
            label="FCOS, shrunk to half the side (factor not published)",
            config=CONFIG,
            words=suffix("fcos_shrink"),
            published=_published(3, 38.0, 55.8, 41.0, 21.9, 41.9, 49.9),
        ),
        Row(key="anchors", label="by anchors", config=CONFIG, published=_published(3, *OURS)),
    ),
)


def _gamma(key: str, value: float, *values: float) -> Row:
    return Row(
        key=key,
        label=f"gamma {value:g}",
        config=CONFIG,
        overrides={f"{OBJECTIVE}.label.gamma": value},
        published=_published(4, *values),
    )


GAMMA = Table(
    key="4",
    title="Weight of background in the label of a location",
    claim="Every location with a foreground anchor should be positive: AP falls as gamma grows.",
    setting=ABLATION,
    baseline="eqn4",
    overrides=VARIED,
    expect=(
        ("eqn4", "gamma005"),
        ("eqn4", "gamma01"),
        ("eqn4", "gamma02"),
        ("gamma005", "gamma01"),
        ("gamma01", "gamma02"),
    ),
    rows=(
        Row(
            key="eqn4",
            label="gamma 1/26: Eqn 4, by Proposition 1",
            config=CONFIG,
            published=_published(4, *OURS),
        ),
        _gamma("gamma005", 0.05, 39.1, 56.9, 42.6, 22.1, 43.6, 52.9),
        _gamma("gamma01", 0.1, 38.8, 56.6, 42.2, 22.3, 43.0, 52.3),
        _gamma("gamma02", 0.2, 35.6, 52.6, 38.3, 18.6, 40.2, 47.9),
    ),
)


def _sigma(key: str, label: str, value: float, *values: float) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        overrides={f"{OBJECTIVE}.sigma": value},
        published=_published(5, *values),
    )


SMOOTHED = Table(
    key="5",
    title="Focal and smoothed focal loss for anchors",
    claim="Soft targets from the IoU after regression help a little, more with sigma near 1.",
    setting=ABLATION,
    baseline="sigma09",
    overrides=VARIED,
    expect=(("sigma09", "focal"),),
    rows=(
        _sigma("focal", "focal loss", 0.0, 39.2, 57.5, 42.5, 22.7, 43.4, 51.7),
        _sigma("sigma01", "sigma 0.1", 0.1, 39.2, 57.5, 42.4, 22.6, 43.3, 52.8),
        _sigma("sigma03", "sigma 0.3", 0.3, 39.3, 57.5, 42.5, 22.3, 43.3, 52.9),
        _sigma("sigma05", "sigma 0.5", 0.5, 39.5, 57.5, 42.7, 22.7, 43.7, 53.0),
        _sigma("sigma07", "sigma 0.7", 0.7, 39.5, 57.5, 42.8, 22.4, 43.7, 53.3),
        _sigma("sigma09", "sigma 0.9", 0.9, *OURS),
    ),
)


def _inference(key: str, label: str, top_k: int, tau: float, *values: float) -> Row:
    return Row(
        key=key,
        label=label,
        config=CONFIG,
        overrides={f"{OBJECTIVE}.choose.top_k": top_k, f"{OBJECTIVE}.choose.min_score": tau},
        published=_published(6, *values),
        reuse="top1",
    )


CHOICE = Table(
    key="6",
    title="Which anchors of a location take part in NMS",
    claim="One anchor per location is enough: more of them change AP by 0.1 and cost AP50.",
    setting=ABLATION,
    baseline="top1",
    overrides=VARIED,
    expect=(("top1", "pos05"),),
    rows=(
        Row(key="top1", label="Top-1", config=CONFIG, published=_published(6, *OURS)),
        _inference("top2", "Top-2", 2, 0.0, 39.5, 57.2, 43.2, 22.3, 43.8, 53.0),
        _inference("top5", "Top-5", 5, 0.0, 39.5, 57.1, 43.3, 22.4, 43.9, 53.0),
        _inference("pos01", "Pos, tau 0.1", 25, 0.1, 39.5, 56.8, 43.3, 22.3, 43.9, 53.0),
        _inference("pos02", "Pos, tau 0.2", 25, 0.2, 39.5, 57.0, 43.3, 22.4, 43.9, 53.0),
        _inference("pos05", "Pos, tau 0.5", 25, 0.5, 38.8, 55.9, 42.7, 21.2, 43.4, 52.7),
    ),
)

TABLES = (NUMBER, WITHOUT, LABELS, GAMMA, SMOOTHED, CHOICE, OTHERS, ON_SSD)
