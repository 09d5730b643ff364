"""What the commands `coverage` and `cluster` share: flags, the data's boxes, the config's grid."""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from anchors_jax import anchors as grids
from anchors_jax import options, spec
from anchors_jax.data import coco
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.records import DataError
from anchors_jax.search import coverage_boxes
from anchors_jax.types import Anchors


class Flags(argparse.ArgumentParser):
    """Flags of one command beside the common ones; mistakes are UsageErrors."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(
            prog=f"python -m anchors_jax {name}",
            usage=f"python -m anchors_jax {name} --config=FILE.py[:VARIANT] [flags] "
            "[--config.KEY=VALUE ...]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("--workdir", metavar="DIR", help="where to write")
        self.add_argument(
            "--annotations",
            metavar="FILE",
            help="boxes of this COCO JSON file instead of the config's data; no image is needed",
        )
        self.add_argument(
            "--split", choices=("train", "eval"), default="train", help="data (default: train)"
        )
        self.add_argument(
            "--transforms",
            choices=("train", "eval"),
            default="eval",
            help="how boxes are resized: as in evaluation (default), or as in training, with one "
            "random draw per image",
        )

    def error(self, message: str) -> None:
        """Raise instead of leaving the program."""
        raise options.UsageError(message)

    def read(self, words: Sequence[str]) -> tuple[argparse.Namespace, options.Options]:
        """This command's flags and the common ones, the config among them."""
        own, rest = self.parse_known_args(words)
        common = options.parse([*rest, *([f"--workdir={own.workdir}"] if own.workdir else [])])
        if common.arguments:
            raise options.UsageError(f"{common.arguments[0]!r} is not a flag")
        return own, common


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A config's anchors beside the boxes of a data set."""

    config: ConfigDict
    source: AnnotatedImages
    boxes: coverage_boxes.NetworkBoxes
    canvases: tuple[tuple[int, int], ...]
    maps: tuple[tuple[tuple[int, int], ...], ...]  # (rows, columns) of the levels of each canvas

    @property
    def divisor(self) -> int | None:
        """Up to which multiple of pixels cells count as inside an image."""
        return self.config.detector.get("pad_divisor", None)

    @property
    def has_shapes(self) -> bool:
        """False where the config has locations instead of anchors of a chosen shape."""
        return "shapes" in self.config.detector.anchors

    def grid(self, canvas: int, shapes: grids.Shapes | None = None) -> Anchors:
        """The anchors on a canvas, given by its index; with `shapes`, those instead of the own."""
        build = spec.build(self.config.detector.anchors)
        if shapes is not None:
            build = functools.partial(build, shapes=shapes)
        return build(maps=self.maps[canvas], canvas=self.canvases[canvas])

    def points(self, canvas: int) -> Anchors:
        """Bare locations with the same maps, strides and offset."""
        record = self.config.detector.anchors
        return grids.points(
            maps=self.maps[canvas],
            strides=spec.build(record.strides),
            canvas=self.canvases[canvas],
            offset=record.offset,
        )


def load(own: argparse.Namespace, common: options.Options) -> Subject:
    """Read the boxes and lay out the anchors; no image is read, nothing is trained.

    Raises:
      DataError: the data cannot be read without images, or hold no object.
      ValueError: the config has no grid of anchors.
    """
    config = common.config
    detector = config.detector
    if "anchors" not in detector or "model" not in detector:
        raise ValueError(f"{common.config_file}: its detector has no grid of anchors")
    source = read_source(config, own)
    canvases = spec.build(config.data.canvases)
    boxes = coverage_boxes.network_boxes(
        source,
        canvases=canvases,
        transforms=spec.build(config.data[f"{own.transforms}_transforms"]),
        seed=config.seed,
    )
    if not len(boxes.objects().boxes):
        raise DataError(f"{source.where}: no objects, so there is nothing to cover")
    maps = tuple(network_maps(detector, canvas) for canvas in canvases)
    return Subject(config=config, source=source, boxes=boxes, canvases=canvases, maps=maps)


def read_source(config: ConfigDict, own: argparse.Namespace) -> AnnotatedImages:
    """The config's data set of the split, or the annotations that the command line names."""
    if own.annotations is None:
        source = spec.build(config.data[own.split])
    else:
        path = pathlib.Path(own.annotations)
        try:
            source = coco.coco(annotations=path, images=None)
        except DataError as error:
            if "no folder of images" not in str(error):
                raise
            raise DataError(
                f"{path}: an image without width and height ({str(error).partition(':')[0]}); "
                "boxes are placed on the network's input by them, and no image is read"
            ) from None
    if not isinstance(source, AnnotatedImages):
        raise DataError(f"config.data.{own.split} has no table of annotations: use --annotations")
    return source


def network_maps(detector: ConfigDict, canvas: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of the feature maps for which the config's network predicts."""
    model = spec.build(detector["model"])
    image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    predictions, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    return predictions.maps


def find(node: Any, key: str) -> Any:
    """The first value of that name in a config, depth first; None if there is none."""
    if not isinstance(node, ConfigDict):
        return None
    if key in node and node[key] is not None:
        return node[key]
    found = (find(value, key) for value in node.values())
    return next((value for value in found if value is not None), None)
