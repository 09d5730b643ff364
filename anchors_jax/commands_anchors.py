"""What the commands `coverage` and `cluster` share: flags, the data's boxes, the config's grid."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

from anchors_jax import anchors as grids
from anchors_jax import experiment, options
from anchors_jax.data import coco
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.records import DataError
from anchors_jax.search import coverage_boxes
from anchors_jax.types import Parts


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

    run: experiment.Experiment
    source: AnnotatedImages
    boxes: coverage_boxes.NetworkBoxes

    @property
    def name(self) -> str:
        return self.run.config.name

    @property
    def parts(self) -> Parts:
        return self.run.detector.parts


def load(own: argparse.Namespace, common: options.Options) -> Subject:
    """Read the boxes and lay out the anchors; no image is read, nothing is trained.

    Raises:
      DataError: the data cannot be read without images, or hold no object.
      ValueError: the config has no grid of anchors.
    """
    run = experiment.load(common.config)
    parts = run.detector.parts
    if parts is None or not isinstance(parts.anchors, grids.Grid):
        raise ValueError(f"{common.config_file}: its detector has no grid of anchors")
    source = read_source(run, own)
    boxes = coverage_boxes.network_boxes(
        source,
        canvases=run.canvases,
        transforms=run.transforms[own.transforms],
        seed=run.seed,
    )
    if not len(boxes.objects().boxes):
        raise DataError(f"{source.where}: no objects, so there is nothing to cover")
    return Subject(run=run, source=source, boxes=boxes)


def read_source(run: experiment.Experiment, own: argparse.Namespace) -> AnnotatedImages:
    """The config's data set of the split, or the annotations that the command line names."""
    if own.annotations is None:
        source = run.data(own.split)
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
