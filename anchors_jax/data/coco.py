"""Data sets in COCO's JSON layout (Lin et al., "Microsoft COCO", ECCV 2014; cocodataset.org)."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anchors_jax.data import images as image_files
from anchors_jax.data.annotated import AnnotatedImages, Files
from anchors_jax.data.records import DataError, Foreseen, Problems, choose_classes
from anchors_jax.data.table import (
    Objects,
    check_image_ids,
    first_images,
    objects_from_rows,
    tabulate,
)

# Images of train2017, and those with objects: too many to be read for their number.
TRAIN, TRAIN_USED = 118_287, 117_266
_COUNTS = {1: "a number", 4: "four numbers"}


def coco(
    *,
    annotations: str | os.PathLike,
    images: str | os.PathLike | None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> AnnotatedImages:
    """Read an `instances_*.json` file.

    Args:
      annotations: the JSON file.
      images: the folder its `file_name`s are relative to. None: only the annotations are of use
        (`ground_truth`, `sizes`), reading an image raises.
      classes: names to read, in label order; objects of other classes are left out, their images
        stay. None: all, in the order of their category ids, which may have holes.
      limit: take the first so many images only; None: all.
      strict: raise on the first faulty box, instead of dropping or clipping and counting it.

    Objects with `iscrowd` or `ignore` are crowd regions. Images without objects are kept.

    Raises:
      DataError: broken JSON (with its line), a missing key, an id that occurs twice, an annotation
        of an unknown image or category (with its id), a missing image (with its id).
    """
    path = pathlib.Path(annotations)
    content = _load(path)
    files = [
        str(_field(record, "file_name", f"{path}: image number {i}"))
        for i, record in enumerate(content["images"])
    ]
    reader = Files(pathlib.Path(images) if images is not None else None, files)
    return from_dict(content, reader, where=str(path), classes=classes, limit=limit, strict=strict)


def _foresee(
    *, annotations: str | os.PathLike, limit: int | None = None, **_: Any
) -> Foreseen | None:
    """The size of COCO 2017's training set."""
    if limit is None and "train2017" in str(annotations):
        return Foreseen(images=TRAIN, with_objects=TRAIN_USED)
    return None


coco.foresee = _foresee


def from_dict(
    content: dict[str, Any],
    read: Callable[[int], bytes],
    *,
    where: str,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> AnnotatedImages:
    """A source from a COCO dictionary and a function that fetches the i-th encoded image."""
    categories = _categories(content["categories"], where)
    names = choose_classes(classes, categories, where)
    records = content["images"]
    ids = [_id(record, "id", f"{where}: image number {i}") for i, record in enumerate(records)]
    files = [str(record["file_name"]) for record in records]
    check_image_ids(ids, files, where)
    if isinstance(read, Files):
        read.check(ids)
    problems = Problems()
    table = tabulate(
        image_ids=ids,
        files=files,
        sizes=[_size(record, read, i, where) for i, record in enumerate(records)],
        objects=_objects(content, where, ids, categories, names),
        classes=names,
        category_ids=[categories[name] for name in names],
        where=where,
        problems=problems,
        strict=strict,
    )
    problems.report(where)
    table = first_images(table, limit)
    return AnnotatedImages(table, read, where=where, problems=problems, strict=strict)


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: not a COCO file: no list {key!r}")
    return content


def _field(record: Any, key: str, where: str) -> Any:
    if not isinstance(record, Mapping) or record.get(key) is None:
        raise DataError(f"{where}: no {key!r}")
    return record[key]


def _id(record: Any, key: str, where: str) -> int:
    value = _field(record, key, where)
    if not isinstance(value, int):
        raise DataError(f"{where}: {key!r} must be an integer, not {value!r}")
    return value


def _categories(records: list, path: str) -> dict[str, int]:
    """Category id of each name, in the order of the ids."""
    found: dict[str, int] = {}
    for number, record in enumerate(records):
        category = _id(record, "id", f"{path}: category number {number}")
        name = str(_field(record, "name", f"{path}: category {category}"))
        if name in found:
            raise DataError(f"{path}: categories {found[name]} and {category} are both {name!r}")
        if category in found.values():
            raise DataError(f"{path}: category id {category} occurs twice")
        found[name] = category
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _size(record: Mapping, read: Callable[[int], bytes], index: int, where: str) -> tuple[int, int]:
    size = record.get("height") or 0, record.get("width") or 0
    if not all(isinstance(side, int | float) for side in size):
        raise DataError(f"{where}: image {record['id']}: height and width are {size}, not numbers")
    if min(size) > 0:
        return int(size[0]), int(size[1])
    return image_files.size_of(read(index), name=record["file_name"])


def _objects(
    content: dict, path: str, ids: list, categories: dict[str, int], names: Sequence[str]
) -> Objects:
    position = {image_id: i for i, image_id in enumerate(ids)}
    label = {categories[name]: k for k, name in enumerate(names)}
    known = set(categories.values())
    rows = []
    for number, record in enumerate(content["annotations"]):
        identity = _id(record, "id", f"{path}: annotation number {number}")
        where = f"{path}: annotation {identity}"
        image, category = _id(record, "image_id", where), _id(record, "category_id", where)
        if image not in position:
            raise DataError(f"{where}: unknown image id {image}")
        if category not in known:
            raise DataError(f"{where}: unknown category id {category}")
        if category in label:
            crowd = bool(record.get("iscrowd") or record.get("ignore"))
            area = math.nan if record.get("area") is None else record["area"]
            area = _numbers([area], 1, f"{where}: 'area'")[0]
            box = _numbers(_field(record, "bbox", where), 4, f"{where}: 'bbox'")
            rows.append((position[image], box, label[category], crowd, area, identity))
    return objects_from_rows(rows)


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count:
        raise DataError(f"{what} must be {_COUNTS[count]}, not {value!r}")
    return numbers
