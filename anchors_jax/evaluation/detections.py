"""Detections of many images as columns, in original pixels, and their COCO results file."""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from anchors_jax import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionTable:
    """N detections of any number of images, one per row, in any order.

    Boxes are `x0, y0, x1, y1` in pixels of the original image, width = x1 - x0. `category_id` is
    the data set's own id (COCO's have holes), not the network's label.
    """

    image_id: Int[np.ndarray, "N"]
    category_id: Int[np.ndarray, "N"]
    box: Float[np.ndarray, "N 4"]
    score: Float[np.ndarray, "N"]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in _FIELDS}
        if len(set(lengths.values())) > 1 or self.box.shape[1:] != (4,):
            raise ValueError(f"columns of a DetectionTable disagree: {lengths}, box [N, 4]")

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: slice | Bool[np.ndarray, "N"] | Int[np.ndarray, "M"]):
        """The rows of a slice, a mask or an index array, as a table."""
        return DetectionTable(**{field.name: getattr(self, field.name)[rows] for field in _FIELDS})


_FIELDS = dataclasses.fields(DetectionTable)


def empty_table() -> DetectionTable:
    """A table without rows."""
    return DetectionTable(
        image_id=np.zeros(0, np.int64),
        category_id=np.zeros(0, np.int64),
        box=np.zeros((0, 4), np.float32),
        score=np.zeros(0, np.float32),
    )


def concatenate(tables: Sequence[DetectionTable]) -> DetectionTable:
    """All rows of all tables, in order."""
    if not tables:
        return empty_table()
    return DetectionTable(
        **{
            field.name: np.concatenate([getattr(table, field.name) for table in tables])
            for field in _FIELDS
        }
    )


def to_original(
    boxes: Float[np.ndarray, "*N 4"],
    scale: Float[np.ndarray, "2"] | tuple[float, float],
    size: tuple[int, int] | Int[np.ndarray, "2"] | None = None,
) -> Float[np.ndarray, "*N 4"]:
    """Boxes of the resized network input, in pixels of the original image.

    `scale` is (x, y), network pixels per original pixel: the two differ, because the resized
    height and width are rounded. With `size`, the original (height, width), boxes are clipped.
    """
    factor = np.asarray(scale, np.float32)
    if not (np.isfinite(factor).all() and (factor > 0).all()):
        raise ValueError(f"scale must be two positive numbers, got {factor.tolist()}")
    original = np.asarray(boxes, np.float32) / np.tile(factor, 2)
    if size is None:
        return original
    height, width = size
    return np.clip(original, np.float32(0), np.array([width, height, width, height], np.float32))


def from_batch(
    *,
    boxes: Float[np.ndarray, "B D 4"],
    scores: Float[np.ndarray, "B D"],
    labels: Int[np.ndarray, "B D"],
    valid: Bool[np.ndarray, "B D"],
    image_id: Int[np.ndarray, "B"],
    scale: Float[np.ndarray, "B 2"],
    category_ids: Sequence[int],
    original_size: Shaped[np.ndarray, "B 2"] | None = None,
) -> DetectionTable:
    """The valid detections of a batch. Rows whose image_id is negative pad the batch: dropped.

    `category_ids[label]` is the data set's id of a label 0..K-1. With `original_size`, (height,
    width) per image, boxes are clipped to their images.
    """
    keep = valid & (image_id >= 0)[:, None]
    row = np.nonzero(keep)[0]
    box = boxes[keep].astype(np.float32) / np.tile(scale, 2)[row].astype(np.float32)
    if original_size is not None:
        limit = np.tile(original_size[:, ::-1], 2)[row].astype(np.float32)
        box = np.clip(box, np.float32(0), limit)
    label = labels[keep]
    ids = np.asarray(category_ids, np.int64)
    if label.size and not (label.min() >= 0 and label.max() < ids.size):
        raise ValueError(
            f"labels {label.min()}..{label.max()} do not fit the {ids.size} categories given"
        )
    return DetectionTable(
        image_id=image_id[row].astype(np.int64),
        category_id=ids[label],
        box=box,
        score=scores[keep].astype(np.float32),
    )


def xywh(box: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """COCO's `x, y, width, height` in float64.

    Rounded to a millionth of a pixel: (x + w) - x then gives w back for boxes that were read from
    a file, so that an area of exactly 32 * 32 stays on the border between small and medium.
    """
    box = box.astype(np.float64)
    return np.round(np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1), 6)


def coco_results(table: DetectionTable) -> list[dict]:
    """The table as COCO results: dicts of image_id, category_id, bbox (x, y, w, h) and score."""
    columns = (table.image_id, table.category_id, xywh(table.box), table.score.astype(np.float64))
    names = ("image_id", "category_id", "bbox", "score")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def write_coco_results(path: str | os.PathLike[str], table: DetectionTable) -> None:
    """Write the table as a COCO results file."""
    files.write_json(path, coco_results(table), indent=None)


def read_coco_results(path: str | os.PathLike[str]) -> DetectionTable:
    """The table of a COCO results file. Raises ValueError naming the file and the entry."""
    with open(path, encoding="utf-8") as file:
        try:
            rows = json.load(file)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: not JSON: {error}") from None
    try:
        return from_coco_results(rows)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def from_coco_results(rows: list[dict]) -> DetectionTable:
    """The table of COCO results: dicts with image_id, category_id, bbox (x, y, w, h) and score."""
    if not isinstance(rows, list):
        raise ValueError(f"COCO results are a list of detections, not a {type(rows).__name__}")
    box = np.zeros((len(rows), 4))
    score = np.zeros(len(rows))
    ids = np.zeros((len(rows), 2), np.int64)
    for n, row in enumerate(rows):
        try:
            ids[n] = row["image_id"], row["category_id"]
            box[n] = row["bbox"]
            score[n] = row["score"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"detection {n}: needs image_id, category_id, bbox [x, y, width, height] and score"
                f" ({type(error).__name__}: {error})"
            ) from None
    box[:, 2:] += box[:, :2]
    return DetectionTable(image_id=ids[:, 0], category_id=ids[:, 1], box=box, score=score)
