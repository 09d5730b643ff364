"""The source behind every reader: a table of annotations joined with encoded images."""

import logging
import operator
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from anchors_jax.data import images
from anchors_jax.data.records import DataError, Example, Problems
from anchors_jax.data.table import OUTSIDE, Table

_LOG = logging.getLogger(__name__)

SIZE = "image whose size disagrees with its annotation (pixels trusted)"


class AnnotatedImages:
    """A `Source`: a table of annotations and a function that fetches the i-th encoded image.

    Boxes belong to the decoded pixels. Where an image has another size than its annotation says,
    the image is trusted: its boxes are clipped to it and the case is counted (`strict`: raises).
    """

    def __init__(
        self,
        table: Table,
        read: Callable[[int], bytes],
        *,
        where: str,
        problems: Problems,
        strict: bool = False,
    ):
        self.table = table
        self.problems = problems
        self.where = where
        self._read = read
        self._strict = strict

    def __repr__(self) -> str:
        return f"<{self.where}: {len(self)} images, {len(self.classes)} classes>"

    def __len__(self) -> int:
        return len(self.table.files)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.table.classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        return self.table.category_ids

    @property
    def sizes(self) -> Int32[np.ndarray, "N 2"]:
        return self.table.sizes

    @property
    def image_ids(self) -> Int64[np.ndarray, " N"]:
        return self.table.image_ids

    @property
    def counts(self) -> Int32[np.ndarray, "N 2"]:
        counts = np.zeros((len(self), 2), np.int32)
        objects = self.table.objects
        np.add.at(counts, (objects.image, objects.crowd.astype(int)), 1)
        return counts

    def encoded(self, index: int) -> bytes:
        """The bytes of the image file."""
        return self._read(index)

    def __getitem__(self, index: int) -> Example:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.where}: image {index} of {len(self)}")
        index %= len(self)
        file, size = self.table.files[index], tuple(self.table.sizes[index].tolist())
        pixels = images.decode(self._read(index), name=file, size=size)
        rows = slice(*self.table.starts[index : index + 2])
        objects = self.table.objects.take(rows)
        x0y0, wh = objects.xywh[:, :2], objects.xywh[:, 2:]
        example = Example(
            image=pixels,
            image_id=int(self.table.image_ids[index]),
            file=file,
            boxes=np.concatenate([x0y0, x0y0 + wh], 1).astype(np.float32),
            labels=objects.labels,
            crowd=objects.crowd,
            area=objects.area.astype(np.float32),
            annotation_ids=objects.ids,
        )
        return example if example.size == size else self._other_size(example, size)

    def _other_size(self, example: Example, size: tuple[int, int]) -> Example:
        height, width = example.size
        ids = example.annotation_ids.tolist()
        case = (
            f"{example.file} (image {example.image_id}) has {width}x{height} pixels, its "
            f"annotation says {size[1]}x{size[0]}" + (f" (annotation {ids[0]})" if ids else "")
        )
        if self._strict:
            raise DataError(f"{self.where}: {case}")
        if self.problems.note(SIZE, case):  # met while reading: the total is not known yet
            _LOG.warning("%s: %s; first: %s", self.where, SIZE, case)
        boxes = np.clip(example.boxes, 0, np.float32([width, height, width, height]))
        left = (boxes[:, 2:] > boxes[:, :2]).all(1)
        for annotation in example.annotation_ids[~left].tolist():
            self.problems.note(OUTSIDE, f"annotation {annotation} of {example.file}")
        return example.replace(boxes=boxes).keep(left)

    def ground_truth(self) -> dict[str, Any]:
        """A COCO dictionary (`images`, `annotations`, `categories`), built without any pixel.

        Boxes are the cleaned ones in float64, unclipped boxes exactly as written. `ignore` repeats
        `iscrowd`. Annotation ids are the original ones, all raised by one where id 0 occurs, since
        pycocotools takes a match with id 0 for no match.
        """
        table, objects = self.table, self.table.objects
        ids = objects.ids + int(bool((objects.ids == 0).any()))
        columns = zip(
            ids.tolist(),
            table.image_ids[objects.image].tolist(),
            np.asarray(table.category_ids, np.int64)[objects.labels].tolist(),
            objects.xywh.tolist(),
            objects.area.tolist(),
            objects.crowd.astype(int).tolist(),
            strict=True,
        )
        names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        annotations = [dict(zip(names, row, strict=True)) for row in columns]
        for annotation in annotations:
            annotation["ignore"] = annotation["iscrowd"]
        sized = zip(table.image_ids.tolist(), table.files, table.sizes.tolist(), strict=True)
        return {
            "info": {"description": self.where},
            "images": [
                {"id": i, "file_name": file, "height": height, "width": width}
                for i, file, (height, width) in sized
            ],
            "annotations": annotations,
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(table.category_ids, table.classes, strict=True)
            ],
        }


class Files:
    """Fetches the i-th image from a folder; without a folder, every image is missing."""

    def __init__(self, folder: pathlib.Path | None, files: Sequence[str]):
        self.folder = folder
        self.files = tuple(files)

    def __call__(self, index: int) -> bytes:
        if self.folder is None:
            raise DataError(f"{self.files[index]}: no folder of images was given")
        path = self.folder / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None

    def check(self, image_ids: Sequence[int]) -> None:
        """Raise if a file is missing, with its name and image id."""
        if self.folder is None:
            return
        for file, image_id in zip(self.files, image_ids, strict=True):
            if not (self.folder / file).is_file():
                raise DataError(f"{self.folder / file}: missing; image id {image_id} needs it")
