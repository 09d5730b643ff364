"""Annotations as flat arrays, cleaned.

What every reader does with faulty boxes is decided here, once: a box with a NaN or infinite
coordinate, without area, or wholly outside its image is dropped; a box across the border is
clipped. Each kind is counted in `problems`; with `strict` the first case raises instead.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from anchors_jax.data.records import DataError, Problems

_ROUNDING = 0.05  # pixels; COCO boxes are written with two decimals and may overhang by one unit

NON_FINITE = "box with a NaN or infinite coordinate (dropped)"
NO_AREA = "box without area (dropped)"
OUTSIDE = "box outside its image (dropped)"
ACROSS = "box across the border of its image (clipped)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objects:
    """Annotations as read, in any order: M rows, `image` is the position of the image."""

    image: Int64[np.ndarray, " M"]
    xywh: Float64[np.ndarray, "M 4"]  # x0, y0, width, height in original pixels
    labels: Int32[np.ndarray, " M"]
    crowd: Bool[np.ndarray, " M"]
    area: Float64[np.ndarray, " M"]  # NaN where the annotation has none: then width * height
    ids: Int64[np.ndarray, " M"]

    def take(self, rows: np.ndarray | slice) -> "Objects":
        """The chosen rows (mask, indices or slice)."""
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
    """Clean the boxes, sort them by image and check that annotation ids are unique.

    Image ids have been checked by `check_image_ids`, or are made up.

    Raises:
      DataError: an annotation id occurs twice; with `strict`, any faulty box.
    """
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


def check_image_ids(image_ids: Sequence[int], files: Sequence[str], where: str) -> None:
    """Raise a DataError if an image id occurs twice or does not fit a batch."""
    for image_id in image_ids:
        if not 0 <= image_id < 2**31:  # batches hold int32, and -1 for rows without an image
            raise DataError(f"{where}: image id {image_id} is not in 0..2**31-1")
    _unique(image_ids, f"{where}: image id", files)


def first_images(table: Table, count: int | None) -> Table:
    """The table of the first `count` images; None: of all."""
    if count is None:
        return table
    if count < 1:
        raise ValueError(f"limit must be at least 1, not {count}")
    starts = table.starts[: count + 1]
    return dataclasses.replace(
        table,
        image_ids=table.image_ids[:count],
        files=table.files[:count],
        sizes=table.sizes[:count],
        objects=table.objects.take(slice(starts[-1])),
        starts=starts,
    )


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
        for row in np.flatnonzero(rows).tolist():
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
