"""Data sets in Pascal VOC's XML layout (Everingham et al., IJCV 2010; VOC2012 development kit)."""

import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from anchors_jax.data import images as image_files
from anchors_jax.data.annotated import AnnotatedImages, Files
from anchors_jax.data.records import DataError, Problems, choose_classes
from anchors_jax.data.table import objects_from_rows, tabulate

OTHER_NAME = "XML whose <filename> is not that of its image (the split's name is used)"
NO_BOX = "object without a box (dropped)"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def voc(
    *,
    root: str | os.PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    use_difficult: bool = False,
    one_based: bool = True,
    limit: int | None = None,
    strict: bool = False,
) -> AnnotatedImages:
    """Read `Annotations/*.xml` and `JPEGImages/*` of the stems in `ImageSets/Main/<split>.txt`.

    Args:
      root: the folder that holds these three (VOCdevkit/VOC2007, say).
      split: name of the list of images: train, val, trainval, test, ...
      classes: names to read, in label order; other objects are left out. None: every name found in
        the folder (not only in this split, so that splits agree), sorted.
      use_difficult: take `difficult` objects for ordinary ones. By default they are crowd regions:
        neither objects to find nor background, in training and in evaluation (VOC's rule).
      one_based: coordinates are 1-based and inclusive, as VOC's: the pixels xmin..xmax become
        x0 = xmin - 1, x1 = xmax, so that width is the number of pixels. False: x0 = xmin,
        x1 = xmax.
      limit: take the first so many images only; None: all.
      strict: raise on the first faulty box or file name instead of counting it.

    A box with xmax <= xmin or ymax <= ymin as written is a slip of the annotator and dropped under
    both conventions. Image ids count from 1 in the order of the split, annotation ids from 1 in the
    order of reading (faulty objects included); category ids are label + 1.

    Raises:
      DataError: missing or broken files (XML with its line), a stem that occurs twice, an unknown
        class, a missing image (with its id).
    """
    folder = pathlib.Path(root)
    stems = _stems(folder, split, limit)
    trees = [_parse(folder / "Annotations" / f"{stem}.xml") for stem in stems]
    names = choose_classes(classes, _names(folder), str(folder))
    where = f"{folder} {split}"
    problems = Problems()
    reader = Files(folder / "JPEGImages", _files(folder / "JPEGImages", stems))
    ids = list(range(1, len(stems) + 1))
    reader.check(ids)
    label = {name: k for k, name in enumerate(names)}
    rows = []
    for i, tree in enumerate(trees):
        xml = f"{folder}/Annotations/{stems[i]}.xml"
        _check_name(tree, reader.files[i], problems, xml, strict)
        for name, box, difficult in _objects(tree, one_based, problems, xml, strict):
            if name in label:
                crowd = difficult and not use_difficult
                rows.append((i, box, label[name], crowd, math.nan, len(rows) + 1))
    table = tabulate(
        image_ids=ids,
        files=reader.files,
        sizes=[_size(tree, reader, i) for i, tree in enumerate(trees)],
        objects=objects_from_rows(rows),
        classes=names,
        category_ids=range(1, len(names) + 1),
        where=where,
        problems=problems,
        strict=strict,
    )
    problems.report(where)
    return AnnotatedImages(table, reader, where=where, problems=problems, strict=strict)


def _objects(
    tree: ElementTree.Element, one_based: bool, problems: Problems, xml: str, strict: bool
) -> Iterator[tuple[str, tuple[float, ...], bool]]:
    """Name, box (x0, y0, width, height) and difficulty of every object that has a box."""
    for item in tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        if item.find("bndbox") is not None:
            difficult = (item.findtext("difficult") or "0").strip() == "1"
            yield name, _box(item, one_based, f"{xml}, {name!r}"), difficult
        elif strict:
            raise DataError(f"{xml}: object {name!r} has no box")
        else:
            problems.note(NO_BOX, f"{name!r} in {xml}")


def _stems(folder: pathlib.Path, split: str, limit: int | None) -> list[str]:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        there = sorted(p.stem for p in path.parent.glob("*.txt"))
        raise DataError(f"{path}: no such split; there are {there}") from None
    stems = [line.split()[0] for line in lines if line.strip()]  # class lists have a second column
    seen: set[str] = set()
    for stem in stems:
        if stem in seen:
            raise DataError(f"{path}: {stem} occurs twice")
        seen.add(stem)
    return stems[:limit]


def _parse(path: pathlib.Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: line {error.position[0]}: not XML ({error})") from None


def _names(folder: pathlib.Path) -> list[str]:
    """Every class name in the folder, sorted. Broken files of other splits are passed over."""

    def found() -> Iterator[str]:
        for path in (folder / "Annotations").glob("*.xml"):
            try:
                root = ElementTree.parse(path).getroot()
            except (OSError, ElementTree.ParseError):
                continue
            yield from ((item.findtext("name") or "").strip() for item in root.findall("object"))

    return sorted(set(found()) - {""})


def _files(folder: pathlib.Path, stems: list[str]) -> list[str]:
    """Image file of each stem. The stem rules, not <filename>, which is often wrong."""
    there: dict[str, str] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in _SUFFIXES:
                there.setdefault(path.stem, path.name)
    return [there.get(stem, f"{stem}.jpg") for stem in stems]


def _check_name(
    tree: ElementTree.Element, file: str, problems: Problems, xml: str, strict: bool
) -> None:
    written = (tree.findtext("filename") or "").strip()
    if written and written not in (file, pathlib.PurePath(file).stem):
        case = f"{xml} names {written!r}, its image is {file!r}"
        if strict:
            raise DataError(case)
        problems.note(OTHER_NAME, case)


def _size(tree: ElementTree.Element, reader: Files, index: int) -> tuple[int, int]:
    try:
        height = int(float(tree.findtext("size/height") or 0))
        width = int(float(tree.findtext("size/width") or 0))
    except ValueError:
        height = width = 0
    if height > 0 and width > 0:
        return height, width
    return image_files.size_of(reader(index), name=reader.files[index])


def _box(item: ElementTree.Element, one_based: bool, where: str) -> tuple[float, ...]:
    """x0, y0, width, height; a width of 0 where the corners as written enclose nothing."""
    values = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = item.findtext(f"bndbox/{key}")
        try:
            values.append(float(text))
        except (TypeError, ValueError):
            raise DataError(f"{where}: <{key}> is {text!r}, not a number") from None
    x0, y0, x1, y1 = values
    if x1 <= x0 or y1 <= y0:
        return x0, y0, 0.0, 0.0
    shift = 1.0 if one_based else 0.0
    return x0 - shift, y0 - shift, x1 - x0 + shift, y1 - y0 + shift
