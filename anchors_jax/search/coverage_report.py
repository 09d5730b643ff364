"""The coverage of a data set in numbers: groups of objects, recall, and what bare anchors reach."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from anchors_jax.search import coverage, coverage_positives
from anchors_jax.search.coverage_boxes import NetworkBoxes
from anchors_jax.types import Anchors

# COCO's ranges of the annotated area, in original pixels: those of APs, APm and APl.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
# height / width in network pixels; symmetric: a box and its transpose mirror each other.
ASPECTS = {
    "h/w < 1/3": (0.0, 1 / 3),
    "1/3 to 2/3": (1 / 3, 2 / 3),
    "2/3 to 3/2": (2 / 3, 3 / 2),
    "3/2 to 3": (3 / 2, 3.0),
    "h/w > 3": (3.0, np.inf),
}
Groups = dict[str, dict[str, Bool[np.ndarray, "n"]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """n objects (no crowd regions), and the best anchor of each."""

    boxes: NetworkBoxes
    best: coverage.Best
    levels: tuple[coverage.Level, ...]  # of the first canvas; shapes are the same on all

    @property
    def shapes(self) -> list[Float[np.ndarray, "_ 2"]]:
        """(width, height) of the prototypes of each level."""
        return [level.shapes for level in self.levels]


def cover(
    boxes: NetworkBoxes,
    grids: Callable[[int], Anchors],
    *,
    divisor: int | None = 32,
) -> Coverage:
    """The best anchor of every object of a data set.

    Args:
      boxes: of the data set; crowd regions are left out.
      grids: from the index of a canvas to its anchors.
      divisor: as `anchors.inside`.
    """
    objects = boxes.objects()
    canvas = objects.canvas[objects.image]
    n = len(canvas)
    best = coverage.Best(np.zeros(n, np.float32), *(np.zeros(n, np.int64) for _ in range(3)))
    present = np.unique(canvas)
    first = None
    for index in present if len(present) else [0]:
        levels = coverage.levels_of(grids(int(index)))
        first = first or levels
        mine = canvas == index
        cells = coverage.usable_cells(levels, objects.sizes, divisor=divisor)[objects.image[mine]]
        part = coverage.best_anchors(objects.boxes[mine], levels, cells)
        for whole, values in zip(best, part, strict=True):
            whole[mine] = values
    return Coverage(boxes=objects, best=best, levels=first)


def groups(found: Coverage, classes: Sequence[str]) -> Groups:
    """Masks over the objects by class, COCO's size, aspect ratio and level of the best anchor."""
    boxes = found.boxes
    wide, high = boxes.wh.T
    aspect = high / np.maximum(wide, 1e-6)
    strides = [max(level.stride) for level in found.levels]
    return {
        "size": {name: (boxes.area >= a) & (boxes.area < b) for name, (a, b) in SIZES.items()},
        "aspect": {name: (aspect >= a) & (aspect < b) for name, (a, b) in ASPECTS.items()},
        "level": {
            f"stride {stride:g}": found.best.level == number
            for number, stride in enumerate(strides)
        },
        "class": {name: boxes.labels == label for label, name in enumerate(classes)},
    }


def row(iou: Float[np.ndarray, "n"]) -> dict[str, Any]:
    """Objects, mean best IoU (None without objects) and recall at `coverage.IOUS`."""
    mean = float(iou.mean(dtype=np.float64)) if len(iou) else None
    return {"objects": len(iou), "mean_iou": mean, "recall": coverage.recall(iou)}


def bare_anchors(found: Coverage, classes: int) -> dict[str, Any]:
    """COCO's AP if anchors were the detections: perfect classification, no regression at all.

    Every object's best anchor is a detection of its class; the scores rank the detections by their
    IoU. An anchor is one detection per class, so of objects of a class that share their best anchor
    only the one with the largest IoU is found. Then no false positive ranks above a true one, and

        AP = mean over classes and over t in 0.5, 0.55 .. 0.95 of
             (objects with an anchor of their own and IoU >= t) / objects,

    which is what COCO's program computes from these detections, up to its 101 recall points and its
    limit of 100 detections per image. It says how far the anchors are from the boxes *before*
    regression: low values are work for the box branch, not a limit on a trained detector. Objects
    that lost their anchor are not given their second best, so that it is not quite a maximum.

    Returns AP, AP50, AP75 (None without objects) and `shared`, the objects without an anchor of
    their own.
    """
    boxes, best = found.boxes, found.best
    own = coverage.served(best.iou, best.anchor, boxes.image * max(classes, 1) + boxes.labels)
    own &= best.iou > 0
    per_class = []
    for label in np.unique(boxes.labels):
        mine = boxes.labels == label
        share = own[mine].mean()
        reached = np.asarray(coverage.recall(best.iou[mine & own], coverage.COCO_IOUS))
        per_class.append(share * reached)
    if not per_class:
        return {"AP": None, "AP50": None, "AP75": None, "shared": 0}
    mean = np.mean(per_class, axis=0)
    return {
        "AP": float(mean.mean()),
        "AP50": float(mean[0]),
        "AP75": float(mean[5]),
        "shared": int((~own & (best.iou > 0)).sum()),
    }


def unreached(
    found: Coverage, source: Any, *, threshold: float, limit: int = 1000
) -> dict[str, Any]:
    """Objects whose best IoU is below the threshold, the worst first, at most `limit` of them."""
    boxes, best = found.boxes, found.best
    below = np.flatnonzero(best.iou < threshold)
    worst = below[np.argsort(best.iou[below], kind="stable")][:limit]
    table, wh = source.table, boxes.wh
    listed = [
        {
            "file": table.files[boxes.image[n]],
            "image_id": int(table.image_ids[boxes.image[n]]),
            "annotation_id": int(table.objects.ids[boxes.row[n]]),
            "class": source.classes[boxes.labels[n]],
            "bbox": [round(float(v), 2) for v in table.objects.xywh[boxes.row[n]]],
            "network_wh": [round(float(v), 2) for v in wh[n]],
            "best_iou": round(float(best.iou[n]), 4),
        }
        for n in worst
    ]
    share = len(below) / max(len(best.iou), 1)
    return {"threshold": threshold, "count": len(below), "share": share, "listed": listed}


def anchor_table(found: Coverage) -> list[dict[str, Any]]:
    """Stride, cells and shapes (width, height) of every level of the first canvas."""
    return [
        {
            "stride": max(level.stride),
            "rows": level.cells[0],
            "columns": level.cells[1],
            "shapes": np.round(level.shapes, 3).tolist(),
        }
        for level in found.levels
    ]


def report(
    found: Coverage,
    source: Any,
    *,
    threshold: float,
    given: coverage_positives.Positives | None = None,
    limit: int = 1000,
) -> dict[str, Any]:
    """Everything that coverage.json holds about the data; plain Python values."""
    grouped = groups(found, source.classes)
    iou = found.best.iou
    content = {
        "images": len(source),
        "objects": len(iou),
        "anchors": anchor_table(found),
        "iou": list(coverage.IOUS),
        "all": row(iou),
        **{
            f"by_{kind}": {name: row(iou[mask]) for name, mask in masks.items()}
            for kind, masks in grouped.items()
        },
        "bare_anchors": bare_anchors(found, len(source.classes)),
        "unreached": unreached(found, source, threshold=threshold, limit=limit),
    }
    if given is not None:
        content["positives"] = _positives(found, given)
    return content


def _positives(found: Coverage, given: coverage_positives.Positives) -> dict[str, Any]:
    area = found.boxes.area[np.searchsorted(found.boxes.row, given.rows)]
    sizes = {name: (area >= low) & (area < high) for name, (low, high) in SIZES.items()}
    return {
        "images": len(given.images),
        "objects": len(given.rows),
        "assigners": {
            name: {
                **coverage_positives.summary(counts),
                "mean_by_size": {
                    size: float(counts[mask].mean()) if mask.any() else None
                    for size, mask in sizes.items()
                },
            }
            for name, counts in given.counts.items()
        },
    }
