"""The table of "Anchor pruning for object detection" (Bonnaerens, Freiberger, Dambre).

What can be read is the authors' README; the tables of the paper itself (test-dev, VOC,
overanchorized networks, latency) were not accessible. `macs` are multiply-adds of the head.
"""

from experiments.rows import Published, Row, Table, missing

PAPER = "anchor_pruning"
SSD = "configs/ssd.py"
README = "the authors' README"
PRUNED = "training with a pruned set of SSD's anchors has no config"


def _published(ap_: float, **others: float) -> Published:
    return Published(metrics={"AP": ap_, **others}, source=README)


def _ssd(key: str, label: str, ap_: float, macs: float, boxes: int, **others: float) -> Row:
    return Row(
        key=key,
        label=label,
        published=_published(ap_, macs=macs, boxes=boxes, **others),
        unavailable=missing(SSD) or PRUNED,
    )


RETRAINED = Table(
    key="readme",
    title="SSD300 and RetinaNet with pruned anchors",
    claim="Removing more than 40% of the head's cost leaves AP as it was (B); an anchor is needless "
    "where its neighbours give the same boxes. Costs count the head alone.",
    setting="COCO 2017, SSD300 on VGG16, 120 epochs; RetinaNet R-50 1x; val2017",
    baseline="ssd300",
    rows=(
        _ssd("ssd300", "SSD300", 25.6, 4231.3e6, 8732),
        _ssd("a", "A: 4,4,5,3,2,1", 25.4, 3607.8e6, 7814, AP_not_retrained=25.6),
        _ssd("b", "B: 2,4,5,3,2,1", 25.6, 2476.6e6, 4926, AP_not_retrained=25.2),
        _ssd("c", "C: 1,3,5,3,2,1", 25.2, 1628.2e6, 3121, AP_not_retrained=24.4),
        _ssd("d", "D: 0,2,5,2,2,1", 22.8, 774.9e6, 1291),
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
            unavailable="a head that skips P3 has no config",
        ),
    ),
)

TABLES = (RETRAINED,)
