"""Read prepared TFDS data sets (ArrayRecord files), without TensorFlow."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from anchors_jax.data import images
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.coco import from_dict
from anchors_jax.data.prepare import ground_truth_path
from anchors_jax.data.records import DataError


def prepared(
    *,
    directory: str | os.PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    strict: bool = False,
) -> AnnotatedImages:
    """A split of a prepared detection data set.

    Args:
      directory: the folder with `dataset_info.json`, such as `coco/2017/1.1.0`.
      split: train, validation, ... (also TFDS slices, such as "train[:100]").
      classes: names to read, in label order; None: all.
      strict: raise on the first faulty box instead of counting it.

    With `prepare`'s COCO file beside the records nothing is read ahead. Without, all records of the
    split are walked through once for their boxes (images stay encoded); then the features must be
    those of TFDS's `coco` or `voc` (`objects` with `bbox`, `label`, and `is_crowd` or
    `is_difficult`, both taken as crowd regions).

    Raises:
      DataError: the folder, the split or a feature is missing.
    """
    folder = pathlib.Path(directory)
    reader = Records(folder, split)
    where = f"{folder} {split}"
    known = ground_truth_path(folder, split)
    if known.is_file():
        content = json.loads(known.read_text(encoding="utf-8"))
        if len(content["images"]) != len(reader):
            raise DataError(f"{known} has {len(content['images'])} images, not {len(reader)}")
    else:
        content = _scan(reader, where)
    reader.expect = tuple(image["id"] for image in content["images"])
    return from_dict(content, reader, where=where, classes=classes, strict=strict)


class Records:
    """Fetches the i-th encoded image; can be sent to a worker."""

    def __init__(self, folder: pathlib.Path, split: str):
        self.folder, self.split = folder, split
        self.expect: tuple[int, ...] | None = None
        try:
            builder = tfds.builder_from_directory(folder)
        except Exception as error:  # TFDS has no common type for what a folder may lack
            raise DataError(f"{folder}: not a prepared TFDS data set ({error})") from None
        try:
            self.source = builder.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except Exception as error:
            there = sorted(builder.info.splits)
            raise DataError(f"{folder}: cannot read split {split!r} of {there} ({error})") from None
        self.features = builder.info.features

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "split": self.split, "expect": self.expect}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["split"])
        self.expect = state["expect"]

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, index: int) -> bytes:
        record = self.source[index]
        if self.expect is not None and _image_id(record, index) != self.expect[index]:
            raise DataError(
                f"{self.folder} {self.split}: record {index} is image "
                f"{_image_id(record, index)}, not {self.expect[index]}"
            )
        return record["image"]


def _image_id(record: dict[str, Any], index: int) -> int:
    return int(record.get("image/id", index + 1))


def _scan(reader: Records, where: str) -> dict[str, Any]:
    """The COCO dictionary of a data set that comes without one."""
    try:
        names = reader.features["objects"]["label"].names
    except (KeyError, AttributeError, TypeError):
        raise DataError(f"{where}: no feature objects/label with class names") from None
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
    }
    for index in range(len(reader)):
        record = reader.source[index]
        file = record.get("image/filename", f"record {index}")
        file = file.decode() if isinstance(file, bytes) else str(file)
        height, width = images.size_of(record["image"], name=f"{where}: {file}")
        image = {"id": _image_id(record, index), "file_name": file}
        content["images"].append(image | {"height": height, "width": width})
        content["annotations"] += _annotations(
            record["objects"], image["id"], (height, width), len(content["annotations"]), where
        )
    return content


def _annotations(
    objects: dict[str, Any], image_id: int, size: tuple[int, int], before: int, where: str
) -> list[dict[str, Any]]:
    for key in ("bbox", "label"):
        if key not in objects:
            raise DataError(f"{where}: no feature objects/{key}")
    corners = np.asarray(objects["bbox"], np.float64).reshape(-1, 4) * np.tile(size, 2)
    crowd = objects.get("is_crowd", objects.get("is_difficult", [False] * len(corners)))
    return [
        {
            "id": before + i + 1,
            "image_id": image_id,
            "category_id": int(objects["label"][i]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": float(objects["area"][i]) if "area" in objects else (x1 - x0) * (y1 - y0),
            "iscrowd": int(crowd[i]),
        }
        for i, (y0, x0, y1, x1) in enumerate(corners.tolist())
    ]
