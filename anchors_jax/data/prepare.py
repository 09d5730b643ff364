"""Write data sets as ArrayRecord files that any TensorFlow Datasets reader understands.

One folder holds all images of a data set in a few files: quicker to copy and to read than a
hundred thousand small ones. The images stay encoded, byte for byte. Beside the records lies
`instances_<split>.json` in COCO's layout, which holds the boxes exactly and spares a reader the
walk over all records.
"""

import contextlib
import io
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.cache import build_folder
from anchors_jax.data.records import DataError


def features(classes: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """The features of TFDS's own `coco` data set (boxes are normalised y0, x0, y1, x1)."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.float32,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=list(classes)),
                    "is_crowd": np.bool_,
                }
            ),
        }
    )


def records(
    ground_truth: Mapping[str, Any], encoded: Iterator[bytes]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Key and features of each image of a COCO dictionary, in its order."""
    label = {category["id"]: k for k, category in enumerate(ground_truth["categories"])}
    of_image: dict[int, list] = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for key, (image, data) in enumerate(zip(ground_truth["images"], encoded, strict=True)):
        objects = []
        for annotation in of_image[image["id"]]:
            x, y, w, h = annotation["bbox"]
            norm = np.array([y, x, y + h, x + w]) / np.tile([image["height"], image["width"]], 2)
            objects.append(
                {
                    "id": annotation["id"],
                    "area": annotation["area"],
                    "bbox": tfds.features.BBox(*np.clip(norm, 0, 1).tolist()),
                    "label": label[annotation["category_id"]],
                    "is_crowd": bool(annotation["iscrowd"]),
                }
            )
        yield (
            key,
            {
                "image": data,
                "image/filename": image["file_name"],
                "image/id": image["id"],
                "objects": objects,
            },
        )


def ground_truth_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    """The COCO file of one split beside its records."""
    return folder / f"instances_{split}.json"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's announcements on stdout and its notes on custom configurations."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def write(
    make_builder: Callable[[], tfds.core.DatasetBuilder], truth: Mapping[str, dict[str, Any]]
) -> pathlib.Path:
    """Run a builder and add the COCO files; return the folder. `truth` may fill meanwhile."""
    with _quiet():
        builder = make_builder()
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    folder = pathlib.Path(os.fspath(builder.data_dir))
    for split, content in truth.items():
        ground_truth_path(folder, split).write_text(json.dumps(content), encoding="utf-8")
    return folder


def prepare(
    source: AnnotatedImages | Mapping[str, AnnotatedImages],
    out_dir: str | os.PathLike,
    *,
    name: str,
    version: str = "1.0.0",
    description: str = "",
) -> pathlib.Path:
    """Copy a source, or one per split, into `out_dir/name/version`; return that folder.

    The folder appears only when it is complete. Read it with `prepared`, or with
    `tfds.builder_from_directory(folder).as_data_source(split)`. Faulty boxes have been dropped by
    the source; the order of the images is kept.

    Args:
      source: from `coco` or `voc`; a single one becomes the split "train".
      out_dir: where data sets are kept.
      name: letters, digits and underscores.
      version: major.minor.patch.
      description: free text for the data set's information file.

    Raises:
      DataError: the folder is there already, an image cannot be read, or splits have other classes.
    """
    splits = dict(source) if isinstance(source, Mapping) else {"train": source}
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name must be lower-case letters, digits, underscores, not {name!r}")
    if not splits:
        raise ValueError("prepare needs at least one split")
    classes = {split: one.classes for split, one in splits.items()}
    if len(set(classes.values())) > 1:
        raise DataError(f"{name}: the splits do not have the same classes: {classes}")
    target = pathlib.Path(out_dir) / name / version
    if target.exists():
        raise DataError(f"{target} exists; remove it or choose another name or version")
    truth = {split: one.ground_truth() for split, one in splits.items()}

    def build(scratch: pathlib.Path) -> pathlib.Path:
        builder = _builder(name, version, description, next(iter(classes.values())))
        return write(lambda: builder(splits, truth, data_dir=scratch), truth)

    return build_folder(target, build)


def _builder(name: str, version: str, description: str, classes: tuple[str, ...]) -> type:
    """A TFDS builder class for these sources. TFDS takes the data set's name from the class."""
    with tfds.core.registered.skip_registration():

        class Copy(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)
            url_infos: ClassVar = {}  # nothing to download; spares TFDS a search for checksum files

            def __init__(self, splits, truth, **kwargs):
                self._splits, self._truth = splits, truth
                super().__init__(**kwargs)

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=description or f"{name}, as read by anchors_jax",
                    features=features(classes),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in self._splits}

            def _generate_examples(self, split):
                one = self._splits[split]
                return records(self._truth[split], map(one.encoded, range(len(one))))

        Copy.name = name
    return Copy
