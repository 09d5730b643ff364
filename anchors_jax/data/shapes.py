"""The built-in data set: five kinds of drawn shapes on noise, made on first use.

Small enough for a laptop, yet with what anchors are about: sizes over all pyramid levels, elongated
boxes, crowding, occlusion, and clutter that looks like objects. Every property is a keyword, so
that a question ("does this assigner need crowds?") can be put to the data.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from anchors_jax.data import images
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.cache import build_folder, default_cache
from anchors_jax.data.drawing import CLASSES
from anchors_jax.data.prepare import features, records, write
from anchors_jax.data.prepared import prepared
from anchors_jax.data.records import Foreseen
from anchors_jax.data.scenes import Style, scene

_SPLITS = ("train", "validation")


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
    """What decides the content: the style of the images, how many, and the seed."""

    style: Style = dataclasses.field(default_factory=Style)
    num_train: int = 2000
    num_validation: int = 500
    seed: int = 0


class Shapes(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder. Image i of a split depends on (seed, split, i) and the style only."""

    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the drawing changes
    url_infos: ClassVar = {}  # nothing to download; spares TFDS a search for checksum files

    def __init__(self, *, config: ShapesConfig, truth: dict[str, dict[str, Any]], **kwargs: Any):
        self._truth = truth  # filled with the COCO dictionary of each split
        super().__init__(config=config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawn shapes with tight boxes on textured noise.",
            features=features(CLASSES),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator:
        config = self.builder_config
        count = config.num_train if split == "train" else config.num_validation
        truth, encoded = _empty_truth(), []
        for i in range(count):
            drawn = scene(
                np.random.default_rng((config.seed, _SPLITS.index(split), i)), config.style
            )
            encoded.append(images.encode_jpeg(drawn.image))
            _add(truth, f"{split}_{i:05d}.jpg", drawn.image.shape[:2], drawn.boxes, drawn.labels)
        self._truth[split] = truth
        yield from records(truth, iter(encoded))


def _empty_truth() -> dict[str, Any]:
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    return {"images": [], "annotations": [], "categories": categories}


def _add(
    truth: dict[str, Any], file: str, size: tuple[int, int], boxes: np.ndarray, labels: np.ndarray
) -> None:
    image_id = len(truth["images"]) + 1
    truth["images"].append({"id": image_id, "file_name": file, "height": size[0], "width": size[1]})
    for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        truth["annotations"].append(
            {
                "id": len(truth["annotations"]) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }
        )


def shapes(
    *,
    split: str = "train",
    classes: Sequence[str] | None = None,
    num_train: int = 2000,
    num_validation: int = 500,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
    image_size: int = 256,
    objects: tuple[int, int] = (1, 10),
    min_size: float = 12.0,
    max_size: float = 0.8,
    max_aspect: float = 3.0,
    crowding: float = 0.3,
    occlusion: float = 0.4,
    min_visible: float = 0.3,
    empty: float = 0.05,
    distractors: tuple[int, int] = (0, 6),
    low_contrast: float = 0.25,
    blur: float = 1.0,
    noise: float = 8.0,
) -> AnnotatedImages:
    """One split ("train" or "validation") of the drawn data; generated if it is not there yet.

    Args:
      split: which of the two; both are generated together.
      classes: names to read out of disk, ring, box, triangle, star, in label order; None: all.
      num_train, num_validation: images. Growing a split keeps the images it had.
      seed: of everything.
      cache_dir: where data sets are kept; None: $ANCHORS_CACHE_DIR, else ~/.cache/anchors_jax.
      image_size .. noise: see `scenes.Style`.

    The folder is named after the parameters and the version of the drawing, so that different data
    never mix; it appears only when complete, also with several processes at once.
    """
    style = Style(
        image_size=image_size,
        objects=tuple(objects),
        min_size=min_size,
        max_size=max_size,
        max_aspect=max_aspect,
        crowding=crowding,
        occlusion=occlusion,
        min_visible=min_visible,
        empty=empty,
        distractors=tuple(distractors),
        low_contrast=low_contrast,
        blur=blur,
        noise=noise,
    )
    if min(num_train, num_validation) < 1 or seed < 0:
        raise ValueError(
            f"shapes: num_train = {num_train}, num_validation = {num_validation}, seed = {seed}"
        )
    content = {"style": style, "num_train": num_train, "num_validation": num_validation}
    key = json.dumps({**content, "style": dataclasses.asdict(style), "seed": seed}, sort_keys=True)
    name = f"{image_size}px_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    config = ShapesConfig(name=name, description=key, seed=seed, **content)
    root = pathlib.Path(cache_dir) if cache_dir is not None else default_cache()

    def build(scratch: pathlib.Path) -> pathlib.Path:
        truth: dict[str, dict[str, Any]] = {}
        return write(lambda: Shapes(config=config, truth=truth, data_dir=scratch), truth)

    folder = build_folder(root / "shapes" / name / str(Shapes.VERSION), build)
    return prepared(directory=folder, split=split, classes=classes)


def _foresee(*, num_train: int, num_validation: int, image_size: int, **_: Any) -> Foreseen:
    """How many drawings training has, and what is drawn."""
    drawings = f"{num_train} + {num_validation} drawings of {image_size} px"
    return Foreseen(images=num_train, origin=f"{drawings}, drawn on first use")


shapes.foresee = _foresee
