"""Cleaned annotations as flat arrays, and the source that joins them with encoded images.

What every reader does with faulty boxes is decided here, once: a box with a NaN or infinite
coordinate, without area, or wholly outside its image is dropped; a box across the border is
clipped. Each kind is counted in `problems`; with `strict` the first case raises instead.
"""

import dataclasses
import logging
import operator
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from anchors_jax.data import images
from anchors_jax.data.records import DataError, Example, Problems

_LOG = logging.getLogger(__name__)
_ROUNDING = 0.05  # pixels; COCO boxes are written with two decimals and may overhang by one unit

NON_FINITE = "box with a NaN or infinite coordinate (dropped)"
NO_AREA = "box without area (dropped)"
OUTSIDE = "box outside its image (dropped)"
ACROSS = "box across the border of its image (clipped)"
SIZE = "image whose size disagrees with its annotation (pixels trusted)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects:
    """Annotations as read, in any order: M rows, `image` is the position of the image."""

    image: Int64[np.ndarray, " M"]
    xywh: Float64[np.ndarray, "M 4"]  # x0, y0, width, height in original pixels
    labels: Int32[np.ndarray, " M"]
    crowd: Bool[np.ndarray, " M"]
    area: Float64[np.ndarray, " M"]  # NaN where the annotation has none: then width * height
    ids: Int64[np.ndarray, " M"]

    def take(self, rows: np.ndarray) -> "Objects":
        """The chosen rows (mask or indices)."""
        return Objects(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


def objects_from_rows(rows: Sequence[tuple]) -> Objects:
    """Objects from tuples (image, (x0, y0, width, height), label, crowd, area, id)."""
    image, xywh, labels, crowd, area, ids = zip(*rows, strict=True) if rows else ([],) * 6
    return Objects(
        image=np.asarray(image, np.int64),
        xywh=np.asarray(xywh, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int32),
        crowd=np.asarray(crowd, bool),
        area=np.asarray(area, np.float64),
        ids=np.asarray(ids, np.int64),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """All annotations of a data set: objects of image i are the rows starts[i]:starts[i + 1]."""

    image_ids: Int64[np.ndarray, " N"]
    files: tuple[str, ...]
    sizes: Int32[np.ndarray, "N 2"]  # height, width as annotated
    objects: Objects
    starts: Int64[np.ndarray, " N+1"]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]


def tabulate(
    *,
    image_ids: Sequence[int],
    files: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    objects: Objects,
    classes: Sequence[str],
    category_ids: Sequence[int],
    where: str,
    problems: Problems,
    strict: bool = False,
) -> Table:
    """Clean the boxes, sort them by image and check that ids are unique.

    Raises:
      DataError: an image or annotation id occurs twice; with `strict`, any faulty box.
    """
    _unique(image_ids, f"{where}: image id", files)
    _unique(objects.ids.tolist(), f"{where}: annotation id")
    heights_widths = np.asarray(sizes, np.int32).reshape(-1, 2)
    table = Table(
        image_ids=np.asarray(image_ids, np.int64),
        files=tuple(files),
        sizes=heights_widths,
        objects=objects,
        starts=np.zeros(len(files) + 1, np.int64),
        classes=tuple(classes),
        category_ids=tuple(category_ids),
    )
    clean = _clean(table, where, problems, strict)
    clean = clean.take(np.argsort(clean.image, kind="stable"))
    counts = np.bincount(clean.image, minlength=len(files))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return dataclasses.replace(table, objects=clean, starts=starts)


def _unique(ids: Sequence[int], what: str, names: Sequence[str] | None = None) -> None:
    values, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
    if values.size and counts.max() > 1:
        twice = int(values[counts.argmax()])
        which = [name for i, name in zip(ids, names, strict=True) if i == twice] if names else []
        raise DataError(
            f"{what} {twice} occurs twice" + (f" ({', '.join(which)})" if which else "")
        )


def _clean(table: Table, where: str, problems: Problems, strict: bool) -> Objects:
    objects = table.objects
    limit = table.sizes[objects.image][:, [1, 0]].astype(np.float64)  # width, height per object
    finite = np.isfinite(objects.xywh).all(1)
    xywh = np.where(finite[:, None], objects.xywh, 0.0)
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    area = (xywh[:, 2:] > 0).all(1)
    clipped_low, clipped_high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    inside = (clipped_high > clipped_low).all(1)
    moved = np.maximum(np.abs(clipped_low - low), np.abs(clipped_high - high)).max(1, initial=0)
    for kind, rows in (
        (NON_FINITE, ~finite),
        (NO_AREA, finite & ~area),
        (OUTSIDE, finite & area & ~inside),
        (ACROSS, finite & area & inside & (moved > _ROUNDING)),
    ):
        for row in np.flatnonzero(rows):
            case = _describe(table, row)
            if strict:
                raise DataError(f"{where}: {case}: {kind.partition(' (')[0]}")
            problems.note(kind, case)
    clipped = np.concatenate([clipped_low, clipped_high - clipped_low], 1)
    # Untouched boxes keep their written numbers to the last bit: evaluation compares them.
    xywh = np.where((moved > 0)[:, None], clipped, xywh)
    size = xywh[:, 2] * xywh[:, 3]
    areas = np.where(np.isfinite(objects.area), objects.area, size)
    cleaned = dataclasses.replace(objects, xywh=xywh, area=areas)
    return cleaned.take(finite & area & inside)


def _describe(table: Table, row: int) -> str:
    objects = table.objects
    image = objects.image[row]
    box = ", ".join(f"{value:g}" for value in objects.xywh[row])
    return (
        f"annotation {objects.ids[row]} of {table.files[image]} "
        f"(image {table.image_ids[image]}): x, y, width, height = [{box}]"
    )


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
    """Fetches the i-th image from a folder."""

    def __init__(self, folder: pathlib.Path, files: Sequence[str]):
        self.folder = folder
        self.files = tuple(files)

    def __call__(self, index: int) -> bytes:
        path = self.folder / self.files[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None

    def check(self, image_ids: Sequence[int]) -> None:
        """Raise if a file is missing, with its name and image id."""
        for file, image_id in zip(self.files, image_ids, strict=True):
            if not (self.folder / file).is_file():
                raise DataError(f"{self.folder / file}: missing; image id {image_id} needs it")
