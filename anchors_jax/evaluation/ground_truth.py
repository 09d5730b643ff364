"""A COCO-format ground truth as checked columns, and the checks that detections must pass."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors_jax.evaluation.detections import DetectionTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """M annotated objects as columns; boxes are COCO's `x, y, width, height`, original pixels.

    `area` is the annotation's own field where it has one (for COCO the area of the mask), which
    decides whether an object is small, medium or large; w * h only where the field is absent.
    """

    images: list[dict[str, Any]]
    image_ids: Int[np.ndarray, "I"]  # sorted
    category_ids: Int[np.ndarray, "K"]  # sorted
    class_names: list[str]  # in the order of category_ids
    image_id: Int[np.ndarray, "M"]
    category_id: Int[np.ndarray, "M"]
    box: Float[np.ndarray, "M 4"]
    area: Float[np.ndarray, "M"]
    crowd: Bool[np.ndarray, "M"]


def read_ground_truth(ground_truth: dict[str, Any]) -> GroundTruth:
    """Columns of a COCO-format dictionary: images, categories, annotations (may be empty).

    Raises ValueError naming the key or the annotation, image or category that does not fit.
    """
    for key in ("images", "categories", "annotations"):
        if not isinstance(ground_truth.get(key), list):
            raise ValueError(f"ground truth has no list {key!r}")
    image_ids = _ids(ground_truth["images"], "image")
    category_ids = _ids(ground_truth["categories"], "category")
    names = {entry["id"]: entry.get("name", "") for entry in ground_truth["categories"]}
    class_names = [str(names[int(k)] or int(k)) for k in category_ids]
    repeated = {name for name in class_names if class_names.count(name) > 1}
    if repeated:
        raise ValueError(f"categories share a name: {', '.join(sorted(repeated))}")
    columns = _columns(ground_truth["annotations"])
    result = GroundTruth(
        images=[{"id": int(i)} for i in image_ids],
        image_ids=image_ids,
        category_ids=category_ids,
        class_names=class_names,
        **columns,
    )
    numbers = [a.get("id", n) for n, a in enumerate(ground_truth["annotations"])]
    for column, known in (("image_id", image_ids), ("category_id", category_ids)):
        wrong = ~np.isin(columns[column], known)
        if wrong.any():
            n = int(np.argmax(wrong))
            raise ValueError(
                f"annotation {numbers[n]}: {column} {columns[column][n]} is not in the ground truth"
            )
    return result


def check_detections(table: DetectionTable, truth: GroundTruth) -> None:
    """Raise ValueError, naming the image id, for what an evaluator would take without a word.

    NaN scores would rank anywhere and unknown ids would never match: both give wrong numbers
    rather than errors. Boxes without area are allowed; they match nothing.
    """
    for values, known, what in (
        (table.image_id, truth.image_ids, "image id"),
        (table.category_id, truth.category_ids, "category id"),
    ):
        wrong = ~np.isin(values, known)
        if wrong.any():
            n = int(np.argmax(wrong))
            where = "" if what == "image id" else f" (image id {table.image_id[n]})"
            raise ValueError(
                f"detection {n}: {what} {values[n]}{where} is not in the ground truth;"
                f" {int(wrong.sum())} of {len(table)} detections are affected"
            )
    for ok, problem in (
        (np.isfinite(table.score), "score {score} is not finite"),
        (np.isfinite(table.box).all(1), "box {box} is not finite"),
        ((table.box[:, 2:] >= table.box[:, :2]).all(1), "box {box} has a negative side"),
    ):
        if not ok.all():
            n = int(np.argmin(ok))
            text = problem.format(score=table.score[n], box=table.box[n].tolist())
            raise ValueError(f"detection {n} of image id {table.image_id[n]}: {text}")


def truth_as_detections(ground_truth: dict[str, Any]) -> DetectionTable:
    """Every object that is not a crowd region, as a detection with score 1: a perfect detector."""
    truth = read_ground_truth(ground_truth)
    keep = ~truth.crowd
    box = truth.box[keep]
    return DetectionTable(
        image_id=truth.image_id[keep],
        category_id=truth.category_id[keep],
        box=np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1),
        score=np.ones(len(box)),
    )


def _ids(entries: list[dict[str, Any]], what: str) -> Int[np.ndarray, "I"]:
    try:
        ids = np.array([entry["id"] for entry in entries], np.int64)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"every {what} of the ground truth needs an integer 'id'") from None
    unique, count = np.unique(ids, return_counts=True)
    if unique.size < ids.size:
        raise ValueError(f"{what} id {unique[count > 1][0]} occurs twice in the ground truth")
    return unique


def _columns(annotations: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    ids = np.zeros((len(annotations), 2), np.int64)
    box = np.zeros((len(annotations), 4))
    area = np.zeros(len(annotations))
    crowd = np.zeros(len(annotations), bool)
    for n, entry in enumerate(annotations):
        name = f"annotation {entry.get('id', n)}"
        try:
            ids[n] = entry["image_id"], entry["category_id"]
            box[n] = entry["bbox"]
            area[n] = entry.get("area", box[n, 2] * box[n, 3])
            crowd[n] = bool(entry.get("iscrowd", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: {type(error).__name__} {error}") from None
        if not (np.isfinite(box[n]).all() and np.isfinite(area[n])):
            raise ValueError(f"{name} of image id {ids[n, 0]}: box or area is not finite")
    columns = {"image_id": ids[:, 0], "category_id": ids[:, 1]}
    return columns | {"box": box, "area": area, "crowd": crowd}
