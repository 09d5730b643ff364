"""Images without annotations, from files and folders: what `predict` reads."""

import os
import pathlib
from collections.abc import Sequence

from anchors_jax.data import images
from anchors_jax.data.annotated import AnnotatedImages, Files
from anchors_jax.data.records import DataError, Problems
from anchors_jax.data.table import objects_from_rows, tabulate

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def folder(
    paths: Sequence[str | os.PathLike], *, classes: Sequence[str], category_ids: Sequence[int]
) -> AnnotatedImages:
    """The images of files and folders (not of folders within them), sorted within each folder.

    Image ids count from 1; `file` is the path as found.

    Raises:
      DataError: a path that does not exist, a folder without images, a file that is no image.
    """
    found = [file for path in paths for file in _files(pathlib.Path(path))]
    sizes = [images.size_of(file.read_bytes(), name=str(file)) for file in found]
    problems = Problems()
    ids = range(1, len(found) + 1)
    table = tabulate(
        image_ids=list(ids),
        files=[str(file) for file in found],
        sizes=sizes,
        objects=objects_from_rows([]),
        classes=classes,
        category_ids=category_ids,
        where="images to predict",
        problems=problems,
    )
    read = Files(pathlib.Path(), [str(file) for file in found])
    return AnnotatedImages(table, read, where="images to predict", problems=problems)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such image or folder")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise DataError(f"{path}: holds no image ({', '.join(SUFFIXES)})")
    return found
