"""Pascal VOC average precision, in numpy.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2: the
detections of a class are ranked over all images; each claims the object of its image and class
that it overlaps most, and is right if the IoU reaches the threshold and nobody ranked higher has
claimed that object. Detections whose object is "difficult" are left out, neither right nor wrong;
COCO's crowd regions play that role here.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors_jax.evaluation.detections import DetectionTable
from anchors_jax.evaluation.ground_truth import GroundTruth, check_detections, read_ground_truth

RULES = ("11points", "area")


def voc_metrics(
    ground_truth: dict[str, Any],
    detections: DetectionTable,
    *,
    iou: float = 0.5,
    rule: str = "11points",
    legacy: bool = False,
) -> dict[str, Any]:
    """VOC AP in 0..1 per class and its mean over the classes that have objects.

    `rule` is "11points" (VOC 2007: mean of the best precision at recall >= 0, .1, ..., 1) or
    "area" (VOC 2010 and later: area under the envelope). `legacy` counts widths as x1 - x0 + 1,
    as the development kit does for inclusive pixel ranges.

    Returns plain values: {"AP": mean, "per_class": {name: AP}, "iou", "rule", "legacy"}; -1 marks
    a class without objects. Raises ValueError as `coco_metrics` does.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}")
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be in (0, 1], got {iou}")
    truth = read_ground_truth(ground_truth)
    check_detections(detections, truth)
    average = _eleven_points if rule == "11points" else _area
    per_class = {}
    for category, name in zip(truth.category_ids, truth.class_names, strict=True):
        objects = int((~truth.crowd & (truth.category_id == category)).sum())
        right, wrong = _ranked(truth, detections, category, iou, float(legacy))
        per_class[name] = average(right, wrong, objects) if objects else -1.0
    defined = [ap for ap in per_class.values() if ap >= 0]
    mean = float(np.mean(defined)) if defined else -1.0
    return {
        "AP": mean, "per_class": per_class, "iou": float(iou), "rule": rule, "legacy": legacy,
    }  # fmt: skip


def _ranked(
    truth: GroundTruth, detections: DetectionTable, category: int, threshold: float, extra: float
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Cumulative counts of right and wrong detections of one class, best score first.

    Equal scores: image id order, then the order of the table, as in COCO.
    """
    mine = detections[detections.category_id == category]
    mine = mine[np.lexsort((mine.image_id, -mine.score))]
    objects = np.nonzero(truth.category_id == category)[0]
    objects = objects[np.argsort(truth.image_id[objects], kind="stable")]
    box = np.concatenate([truth.box[:, :2], truth.box[:, :2] + truth.box[:, 2:]], axis=1)[objects]
    overlap, nearest = _nearest(
        mine.box.astype(np.float64), mine.image_id, box, truth.image_id[objects], extra
    )
    found = overlap >= threshold
    difficult = found & truth.crowd[objects][nearest] if objects.size else found
    claims = np.nonzero(found & ~difficult)[0]
    _, first = np.unique(nearest[claims], return_index=True)
    right = np.zeros(len(mine), bool)
    right[claims[first]] = True
    wrong = ~right & ~difficult
    return np.cumsum(right), np.cumsum(wrong)


def _nearest(
    boxes: Float[np.ndarray, "N 4"],
    image: Int[np.ndarray, "N"],
    objects: Float[np.ndarray, "M 4"],
    object_image: Int[np.ndarray, "M"],
    extra: float,
) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """Largest IoU of each box with an object of its image, and that object; -1, 0 without any.

    Objects are sorted by image, so those of one image are a range and all (box, object) pairs of
    all images are one flat list. Among equals the first object wins.
    """
    start = np.searchsorted(object_image, image, "left")
    count = np.searchsorted(object_image, image, "right") - start
    overlap, nearest = np.full(len(boxes), -1.0), np.zeros(len(boxes), np.int64)
    some = np.nonzero(count)[0]
    if not some.size:
        return overlap, nearest
    first = np.concatenate([[0], np.cumsum(count[some])[:-1]])  # of each box in the pair list
    row = np.repeat(np.arange(some.size), count[some])
    column = start[some][row] + np.arange(row.size) - first[row]
    pair = _iou(boxes[some][row], objects[column], extra)
    best = np.maximum.reduceat(pair, first)
    winners = np.nonzero(pair == best[row])[0]
    _, chosen = np.unique(row[winners], return_index=True)
    overlap[some], nearest[some] = best, column[winners[chosen]]
    return overlap, nearest


def _iou(
    a: Float[np.ndarray, "P 4"], b: Float[np.ndarray, "P 4"], extra: float
) -> Float[np.ndarray, "P"]:
    side = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + extra
    intersection = np.maximum(side, 0).prod(1)
    areas = (a[:, 2:] - a[:, :2] + extra).prod(1) + (b[:, 2:] - b[:, :2] + extra).prod(1)
    return intersection / np.maximum(areas - intersection, np.finfo(np.float64).tiny)


def _eleven_points(right: Int[np.ndarray, "N"], wrong: Int[np.ndarray, "N"], objects: int) -> float:
    precision = right / np.maximum(right + wrong, 1)
    # recall >= k / 10 in integers, where 3 of 10 objects are exactly 0.3.
    reached: list[Bool[np.ndarray, N]] = [10 * right >= k * objects for k in range(11)]
    return float(np.mean([precision[at].max(initial=0.0) for at in reached]))


def _area(right: Int[np.ndarray, "N"], wrong: Int[np.ndarray, "N"], objects: int) -> float:
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    gain = np.diff(right, prepend=0) / objects
    return float((gain * envelope).sum())
