"""The table of "Anchor pruning for object detection" (Bonnaerens, Freiberger, Dambre).

What can be read is the authors' README; the tables of the paper itself (test-dev, VOC,
overanchorized networks, latency) were not accessible. `macs` are multiply-adds of the head.
"""

from anchors_jax import anchors, spec
from anchors_jax.spec import make
from configs import ssd
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


# Places of our default boxes (those of MMDetection: both squares, then wide and tall of each ratio)
# in the order of the published ids: the square min; tall 2 (and 3), wide 2 (and 3); the other one.
ORDER = {4: (0, 3, 2, 1), 6: (0, 3, 5, 2, 4, 1)}


def ssd300_shapes() -> list[list[tuple[float, float]]]:
    """(width, height) of SSD300's default boxes in the order of the published ids."""
    grid = ssd.get_config("paper").detector.anchors
    levels = spec.build(grid.shapes)(tuple((stride, stride) for stride in grid.strides))
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
            unavailable="a shared head that skips P3 has no config",
        ),
    ),
)

WIDE = Table(
    key="overanchorized",
    title="More shapes than needed",
    claim="A base with a wide menu of shapes on every level can be pruned instead of designed. "
    "What remains of it is the outcome of `python -m anchors_jax prune`, no row of a table.",
    setting="no accessible numbers",
    baseline="retinanet",
    overrides={"bench": protocol.VARIED},
    rows=(
        Row(key="retinanet", label="RetinaNet, 9 shapes", config="configs/retinanet.py"),
        Row(key="wide", label="RetinaNet, 15 shapes", config="configs/overanchorized.py"),
    ),
)

CELLS = Table(
    key="bccd",
    title="More shapes than needed, on photographs of blood cells",
    claim="As on drawings: most of a wide menu of shapes can go.",
    setting="BCCD, trainval -> test, 240 x 320, 15 epochs; no published numbers",
    baseline="wide",
    overrides={"bench": {"train.epochs": 15.0}},
    rows=(
        Row(
            key="wide",
            label="RetinaNet, 15 shapes",
            config="configs/bccd.py",
            words={scale: f"{scale}_overanchorized" for scale in ("bench", "smoke")},
        ),
    ),
)

TABLES = (RETRAINED, WIDE, CELLS)
