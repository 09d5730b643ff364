"""COCO box metrics: one definition of the numbers, two programs that match the boxes.

Protocol: Lin et al., "Microsoft COCO: Common Objects in Context" and the evaluation page
cocodataset.org/#detection-eval. AP is the mean of the precision over 101 recall points, ten IoU
thresholds (.50:.05:.95) and the classes that have ground truth.

Three things that people get wrong:
- `area` of the annotation decides whether an object is small (< 32^2), medium or large (> 96^2).
  For COCO it is the area of the mask, smaller than w * h. Detections use w * h.
- Crowd regions are neither found nor missed; detections that lie in them are left out.
- A class, or a size, without ground truth has no AP: -1 here, and left out of every mean. With
  ground truth but without a detection the AP is 0.
"""

import contextlib
import dataclasses
import importlib.util
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from anchors_jax.evaluation.detections import DetectionTable, xywh
from anchors_jax.evaluation.ground_truth import GroundTruth, check_detections, read_ground_truth

AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
BACKENDS = ("hotcoco", "pycocotools")
IOU_50, IOU_75 = 0, 5  # rows of the ten thresholds .50:.05:.95
RECALL_POINTS = np.linspace(0.0, 1.0, 101)

_log = logging.getLogger(__name__)


def coco_metrics(
    ground_truth: dict[str, Any],
    detections: DetectionTable,
    *,
    backend: str = "hotcoco",
    max_detections: Sequence[int] = (1, 10, 100),
    class_agnostic: bool = False,
    curves: bool = True,
) -> dict[str, Any]:
    """COCO box metrics in 0..1 (-1: no ground truth) of detections in original pixels.

    `ground_truth` has COCO's format; `max_detections` are per image and class, ascending, and the
    last is the one that AP and the ARs by size are computed with. `class_agnostic` ignores the
    class, for region proposals. `hotcoco` and `pycocotools` give the same numbers; the first is
    much faster, and where it cannot be imported the second takes over with a logged warning.

    Returns plain Python values, fit for JSON: AP, AP50, AP75, APs, APm, APl, AR<n> for each n of
    `max_detections`, ARs, ARm, ARl, per_class {name: AP}, per_class_AP50 {name: AP50}, the counts
    images, objects and detections, backend, and, unless switched off, curves {"recall": [101],
    "AP50" and "AP75": {"mean": [101], "per_class": {name: [101]}}}: precision at each recall.

    Raises ValueError naming the image for a score or box that is not finite and for unknown ids.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    limits = [int(n) for n in max_detections]
    if not limits or limits != sorted(set(limits)) or limits[0] < 1:
        raise ValueError(f"max_detections must be ascending and positive, got {limits}")
    truth = read_ground_truth(ground_truth)
    check_detections(detections, truth)
    if class_agnostic:
        truth, detections = _one_class(truth, detections)
    backend = _available(backend)
    match = _hotcoco if backend == "hotcoco" else _pycocotools
    if truth.image_ids.size and truth.category_ids.size:
        precision, recall = match(truth, detections, limits)
    else:
        precision = np.full((10, 101, truth.category_ids.size, len(AREAS), len(limits)), -1.0)
        recall = np.full((10, truth.category_ids.size, len(AREAS), len(limits)), -1.0)
    metrics = _summary(precision, recall, truth.class_names, limits)
    metrics |= {
        "images": int(truth.image_ids.size),
        "objects": int((~truth.crowd).sum()),
        "detections": len(detections),
        "backend": backend,
    }
    if curves:
        metrics["curves"] = _curves(precision[:, :, :, 0, -1], truth.class_names)
    return metrics


def _summary(
    precision: Float[np.ndarray, "10 101 K 4 M"],
    recall: Float[np.ndarray, "10 K 4 M"],
    class_names: list[str],
    limits: list[int],
) -> dict[str, Any]:
    overall = precision[:, :, :, 0, -1]
    metrics: dict[str, Any] = {
        "AP": _mean(overall),
        "AP50": _mean(overall[IOU_50]),
        "AP75": _mean(overall[IOU_75]),
    }
    for letter, area in zip("sml", range(1, 4), strict=True):
        metrics[f"AP{letter}"] = _mean(precision[:, :, :, area, -1])
    for m, limit in enumerate(limits):
        metrics[f"AR{limit}"] = _mean(recall[:, :, 0, m])
    for letter, area in zip("sml", range(1, 4), strict=True):
        metrics[f"AR{letter}"] = _mean(recall[:, :, area, -1])
    metrics["per_class"] = {name: _mean(overall[:, :, k]) for k, name in enumerate(class_names)}
    metrics["per_class_AP50"] = {
        name: _mean(overall[IOU_50, :, k]) for k, name in enumerate(class_names)
    }
    return metrics


def _curves(overall: Float[np.ndarray, "10 101 K"], class_names: list[str]) -> dict[str, Any]:
    curves: dict[str, Any] = {"recall": RECALL_POINTS.tolist()}
    for key, row in (("AP50", IOU_50), ("AP75", IOU_75)):
        known = {
            name: overall[row, :, k]
            for k, name in enumerate(class_names)
            if (overall[row, :, k] > -1).all()
        }
        mean = np.mean(list(known.values()), axis=0).tolist() if known else []
        per_class = {name: precision.tolist() for name, precision in known.items()}
        curves[key] = {"mean": mean, "per_class": per_class}
    return curves


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; -1, COCO's mark for undefined, when nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _one_class(
    truth: GroundTruth, detections: DetectionTable
) -> tuple[GroundTruth, DetectionTable]:
    """The same problem with every class replaced by one, id 1."""
    return (
        dataclasses.replace(
            truth,
            category_ids=np.ones(1, np.int64),
            class_names=["object"],
            category_id=np.ones_like(truth.category_id),
        ),
        dataclasses.replace(detections, category_id=np.ones_like(detections.category_id)),
    )


def _available(backend: str) -> str:
    """The backend asked for, or the other one where that cannot be imported."""
    if backend == "hotcoco":
        try:
            import hotcoco  # noqa: F401
        except ImportError as error:
            _log.warning("hotcoco cannot be imported (%s): using pycocotools, slower", error)
            backend = "pycocotools"
    if backend == "pycocotools" and importlib.util.find_spec("pycocotools") is None:
        raise ImportError("COCO metrics need hotcoco or pycocotools: pip install hotcoco")
    return backend


def _hotcoco(
    truth: GroundTruth, detections: DetectionTable, limits: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10, 101, K, 4, M] and recall [10, K, 4, M]; columns go in without a dict each."""
    import hotcoco

    categories = [{"id": int(k), "name": str(k)} for k in truth.category_ids]
    reference = hotcoco.COCO.from_arrays(
        truth.images,
        categories,
        truth.image_id,
        truth.category_id,
        truth.box,
        area=truth.area,
        iscrowd=truth.crowd,
    )
    columns = (
        detections.image_id[:, None],
        xywh(detections.box),
        detections.score[:, None],
        detections.category_id[:, None],
    )
    results = reference.load_res(np.concatenate(columns, axis=1, dtype=np.float64))
    evaluator = hotcoco.COCOeval(reference, results, "bbox")
    evaluator.params.max_dets = limits
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _pycocotools(
    truth: GroundTruth, detections: DetectionTable, limits: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the original program; its progress messages are kept off the console."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    box = xywh(detections.box)
    sides = {
        "truth": (truth.image_id, truth.category_id, truth.box, truth.area, truth.crowd),
        "score": (
            detections.image_id,
            detections.category_id,
            box,
            box[:, 2] * box[:, 3],
            detections.score.astype(np.float64),
        ),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data = []
        for side, columns in sides.items():
            last = "iscrowd" if side == "truth" else "score"
            names = ("image_id", "category_id", "bbox", "area", last)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            coco = COCO()
            coco.dataset = {
                "images": truth.images,
                "categories": [{"id": int(k)} for k in truth.category_ids],
                # Ids start at 1: the program marks "not matched" by 0.
                "annotations": [
                    dict(zip(names, row, strict=True), id=n) for n, row in enumerate(rows, 1)
                ],
            }
            coco.createIndex()
            data.append(coco)
        evaluator = COCOeval(*data, "bbox")
        evaluator.params.maxDets = limits
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]
