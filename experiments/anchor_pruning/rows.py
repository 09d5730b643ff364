"""The table of "Anchor pruning for object detection" (Bonnaerens, Freiberger, Dambre).

What can be read is the authors' README; the tables of the paper itself (test-dev, VOC,
overanchorized networks, latency) were not accessible. `macs` are multiply-adds of the head.
"""

import importlib
from collections.abc import Iterable, Mapping, Set
from typing import Any

from ml_collections import ConfigDict

from anchors_jax import anchors, experiment
from anchors_jax.search import surgery
from anchors_jax.search.layout import Layout
from anchors_jax.spec import make
from anchors_jax.types import Parts
from configs import retinanet, ssd
from experiments import protocol
from experiments.rows import Published, Row, Table, only

PAPER = "anchor_pruning"
SSD = "configs/ssd.py"
README = "the authors' README"

# Ids of the removed shapes, level by level in the order of `ssd300_shapes`.
A = frozenset({5, 7, 13, 16, 17, 19, 22, 25, 26, 27, 28})
B = (A | {1, 2, 24}) - {22}
C = A | {1, 2, 3, 8}
D = A | {0, 1, 2, 3, 6, 8, 20}
# RetinaNet: all nine shapes of P3, and the largest square of the other levels.
RETINANET = (*range(9), *(9 * level + 5 for level in range(1, 5)))


# Places of our default boxes (those of MMDetection: both squares, then wide and tall of each ratio)
# in the order of the published ids: the square min; tall 2 (and 3), wide 2 (and 3); the other one.
ORDER = {4: (0, 3, 2, 1), 6: (0, 3, 5, 2, 4, 1)}


def ssd300_shapes() -> list[list[tuple[float, float]]]:
    """(width, height) of SSD300's default boxes in the order of the published ids."""
    levels = experiment.load(ssd.get_config("paper")).detector.parts.anchors.prototypes
    return [[tuple(level[place].tolist()) for place in ORDER[len(level)]] for level in levels]


def kept(removed: frozenset[int]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The shapes of each level without those that are removed."""
    numbers = iter(range(30))
    return tuple(
        tuple(box for box in level if next(numbers) not in removed) for level in ssd300_shapes()
    )


def _published(ap_: float, **others: float) -> Published:
    return Published(metrics={"AP": ap_, **others}, source=README)


def _pruned(name: str, removed: frozenset[int], published: Published) -> Row:
    shapes = kept(removed)
    counts = tuple(len(level) for level in shapes)
    return Row(
        key=name.lower(),
        label=f"{name}: {','.join(map(str, counts))} shapes, retrained",
        config=SSD,
        words=only("paper"),
        overrides={
            "detector.anchors.shapes": make(anchors.explicit, sizes=shapes),
            "detector.model.head.shapes_per_cell": counts,
        },
        published=published,
    )


def _searched(label: str, reuse: str, kept_ids: Set[int], **row: Any) -> tuple[Row, Row]:
    """The outcome of a search at bench scale: evaluated as it was found, and trained from scratch.

    Args:
      label: the shapes that remain on each level.
      reuse: the row whose network was searched.
      kept_ids: ids of the shapes that remain, as `prune` numbers them.
      row: `config` and `words` of that row.
    """
    before = _config(row, "bench")
    parts = experiment.load(before).detector.parts
    removed = tuple(n for n in range(_layout(parts).size) if n not in kept_ids)
    return (
        Row(
            key=f"{reuse}_pruned",
            label=f"{label}, not retrained",
            overrides={"detector.anchors.hidden": removed},
            reuse=reuse,
            **row,
        ),
        Row(
            key=f"{reuse}_retrained",
            label=f"{label}, retrained",
            overrides=_sliced(before, removed),
            **row,
        ),
    )


def _sliced(config: ConfigDict, removed: Iterable[int]) -> dict[str, Any]:
    """The overrides that make a config's network the one without some shapes."""
    parts = experiment.load(config).detector.parts
    return surgery.changes(parts, _layout(parts), removed)


def _layout(parts: Parts) -> Layout:
    """The shapes of each level; how many cells it has makes no difference to what a network is."""
    counts = tuple(map(len, parts.anchors.prototypes))
    return Layout((1,) * len(counts), counts)


def _config(row: Mapping[str, Any], scale: str) -> ConfigDict:
    module = row["config"].removesuffix(".py").replace("/", ".")
    return importlib.import_module(module).get_config(row["words"][scale])


RETRAINED = Table(
    key="readme",
    title="SSD300 and RetinaNet with pruned anchors",
    claim="Removing over 40% of the head's cost leaves AP as it was (B). An anchor is needless "
    "where its neighbours give the same boxes. Costs count the head alone.",
    setting="COCO 2017, SSD300 on VGG16, 120 epochs; RetinaNet R-50 1x; val2017",
    baseline="ssd300",
    expect=(("b", "d"),),
    rows=(
        Row(
            key="ssd300",
            label="SSD300: 4,6,6,6,4,4 shapes",
            config=SSD,
            published=_published(25.6, macs=4231.3e6, boxes=8732),
        ),
        _pruned("A", A, _published(25.4, macs=3607.8e6, boxes=7814, AP_not_retrained=25.6)),
        _pruned("B", B, _published(25.6, macs=2476.6e6, boxes=4926, AP_not_retrained=25.2)),
        _pruned("C", C, _published(25.2, macs=1628.2e6, boxes=3121, AP_not_retrained=24.4)),
        _pruned("D", D, _published(22.8, macs=774.9e6, boxes=1291)),
        Row(
            key="retinanet",
            label="RetinaNet, 9 anchors on 5 levels",
            config="configs/retinanet.py",
            published=_published(36.5, macs=129e9),
        ),
        Row(
            key="retinanet_pruned",
            label="RetinaNet, 8 anchors on P4-P7",
            published=_published(34.8, macs=31e9),
            config="configs/retinanet.py",
            words=only("paper"),
            overrides=_sliced(retinanet.get_config("paper"), RETINANET),
        ),
    ),
)

# What `python -m anchors_jax prune` left of the trained networks of seed 0: the cheapest head whose
# AP on the evaluation set, without retraining, is not below that of all shapes. Ids that are kept.
WIDE_KEPT = {15 * level + slot for level in range(3) for slot in (1, 3, 5, 8, 9, 10, 11)}
SSD_KEPT = {1, 5, 11}  # one square on each of three levels of five
CELLS_KEPT = {6, 21, 36}  # squares again: 20, 40 and 80 px
WIDE_CONFIG = {"config": "configs/overanchorized.py", "words": only("bench")}
SSD_CONFIG = {"config": SSD, "words": only("bench")}
CELLS_CONFIG = {"config": "configs/bccd.py", "words": {"bench": "bench_overanchorized"}}

WIDE = Table(
    key="overanchorized",
    title="More shapes than needed: RetinaNet on objects of many sizes and ratios",
    claim="A base with a wide menu of shapes on every level can be pruned instead of designed; "
    "pruned and retrained it is more accurate.",
    setting="drawn shapes, 128 px, 1250 steps of 8; no accessible numbers",
    baseline="wide",
    overrides={"bench": protocol.VARIED},
    expect=(("wide_retrained", "wide"), ("wide_retrained", "retinanet")),
    rows=(
        Row(key="retinanet", label="RetinaNet, 9 shapes", config="configs/retinanet.py"),
        Row(key="wide", label="RetinaNet, 15 shapes", config=WIDE_CONFIG["config"]),
        *_searched("7,7,7,0,0 shapes", "wide", WIDE_KEPT, **WIDE_CONFIG),
    ),
)

SMALL_SSD = Table(
    key="ssd",
    title="SSD with pruned anchors",
    claim="Most shapes of SSD can go without retraining, for a head at a fraction of the cost; "
    "retrained, AP even rises.",
    setting="drawn shapes, 128 px, 1250 steps of 8; the published numbers are of SSD300 on COCO",
    baseline="ssd",
    overrides={"bench": protocol.EASY},
    expect=(("ssd_retrained", "ssd"),),
    rows=(
        Row(key="ssd", label="SSD, 4,6,6,4,4 shapes", **SSD_CONFIG),
        *_searched("1,1,1,0,0 shapes", "ssd", SSD_KEPT, **SSD_CONFIG),
    ),
)

CELLS = Table(
    key="bccd",
    title="More shapes than needed, on photographs of blood cells",
    claim="As on drawings: most of a wide menu of shapes can go, and AP rises.",
    setting="BCCD, trainval -> test, 240 x 320, 15 epochs; no published numbers",
    baseline="wide",
    overrides={"bench": {"train.epochs": 15.0}},
    expect=(("wide_retrained", "wide"),),
    rows=(
        Row(key="wide", label="RetinaNet, 15 shapes", **CELLS_CONFIG),
        *_searched("1,1,1,0,0 shapes", "wide", CELLS_KEPT, **CELLS_CONFIG),
    ),
)

TABLES = (RETRAINED, WIDE, SMALL_SSD, CELLS)
