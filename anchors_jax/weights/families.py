"""Which kinds of checkpoints there are, how one is told from another, and what is special in each.

The numbers beside the weights (epsilon of the norms, colours, anchors, thresholds) belong to the
config: `configs/parity.py` has one for each released detector.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from anchors_jax.models import vgg
from anchors_jax.weights import classes, names
from anchors_jax.weights.reading import WeightsError

_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_CONV = {"weight": "kernel", "bias": "bias"}


class Place(NamedTuple):
    """Where a tensor belongs: the path of a parameter, and which element of it (None: all)."""

    path: tuple[str, ...]
    element: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Checkpoints that name and lay out their tensors alike.

    Attributes:
      name: as in `init_from_family`.
      marks: names of tensors; a file with any of them is of this family.
      modules: their module -> ours; see `names`.
      tensors: full name -> full name of ours, for what is no ordinary module.
      dropped: patterns (full match) of tensors that have no place here.
      backbone_only: the file has no neck and no head.
      ours: names and layouts are our own (`export`): nothing is translated.
      columns: number of our classes -> their columns, where those differ.
      prepare: tensors of the file -> tensors to place.
      optional: patterns (full match) of our names that the file may lack; they keep their start.
    """

    name: str
    marks: tuple[str, ...]
    modules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    backbone_only: bool = False
    ours: bool = False
    columns: Callable[[int], list[int]] | None = None
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None
    optional: tuple[str, ...] = ()

    def place(self, name: str) -> Place | None:
        """Where the tensor `name` belongs; None: this family has no such tensor."""
        if self.ours:
            return Place(tuple(name.split(".")))
        found = _translate(name, self.tensors)
        if found is None:
            module, _, leaf = name.rpartition(".")
            found = _translate(module, self.modules)
            known = _NORM if found and "norm" in found.rpartition(".")[2] else _CONV
            if found is None or leaf not in known:
                return None
            found = f"{found}.{known[leaf]}"
        path, _, element = found.removesuffix("]").partition("[")
        return Place(tuple(path.split(".")), int(element) if element else None)

    def drops(self, name: str) -> bool:
        """Whether a tensor is knowingly left out."""
        patterns = (r".*num_batches_tracked", *self.dropped)
        return any(re.fullmatch(pattern, name) for pattern in patterns)


def _translate(name: str, table: Mapping[str, str]) -> str | None:
    if name in table:
        return table[name]
    for theirs, ours in table.items():
        if "{" not in theirs:
            continue
        pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(theirs))
        match = re.fullmatch(pattern, name)
        if match:
            return ours.format(**match.groupdict())
    return None


def _dilated(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """ImageNet's VGG16 with its two wide layers thinned to SSD's fc6 and fc7.

    Files without them (or with NaN in their place, as torchvision's features-only weights) leave
    fc6 and fc7 at their start.
    """
    found = {}
    for theirs, ours in names.VGG16_CLASSIFIER.items():
        if f"{theirs}.weight" in tensors:
            found[ours] = tensors[f"{theirs}.weight"], tensors[f"{theirs}.bias"]
    rest = {
        name: tensors[name]
        for name in tensors
        if not name.startswith(tuple(names.VGG16_CLASSIFIER))
    }
    # Finite at one place, finite everywhere: the weights alone are 0.4 GB.
    if len(found) < 2 or not all(np.isfinite(weight.flat[0]) for weight, _ in found.values()):
        return rest
    (fc6, bias6), (fc7, bias7) = found["fc6"], found["fc7"]
    kernels = vgg.dilated_classifier(fc6.reshape(-1, 512, 7, 7), fc7.reshape(fc7.shape[:2]))
    for name, kernel, bias in zip(("fc6", "fc7"), kernels, (bias6, bias7), strict=True):
        rest |= {f"{name}.weight": kernel.transpose(3, 2, 0, 1), f"{name}.bias": bias[::4]}
    return rest


FAMILIES = (
    Family(
        name="resnet",  # torchvision, timm, MMDetection: ResNet and ResNeXt
        marks=("layer1.0.conv1.weight",),
        modules=names.RESNET,
        dropped=(r"fc\.(weight|bias)",),
        backbone_only=True,
    ),
    Family(
        name="vgg16",  # torchvision, timm
        marks=("features.0.weight",),
        modules={**names.VGG16, "fc6": "fc6", "fc7": "fc7"},
        dropped=(r"classifier\.6\..*", r"head\.fc\..*"),
        backbone_only=True,
        prepare=_dilated,
        optional=(r"fc[67]\..*",),
    ),
    Family(
        name="mmdet_ga_retinanet",
        marks=("bbox_head.conv_loc.weight",),
        modules=names.MMDET_GA_RETINANET,
    ),
    Family(
        name="mmdet_retinanet",  # and FreeAnchor
        marks=("bbox_head.retina_cls.weight",),
        modules=names.MMDET_RETINANET,
    ),
    Family(
        name="mmdet_atss",  # and PAA
        marks=("bbox_head.atss_cls.weight",),
        modules=names.MMDET_ATSS,
        tensors=names.MMDET_SCALES,
    ),
    Family(
        name="mmdet_fcos",
        marks=("bbox_head.conv_centerness.weight", "bbox_head.fcos_centerness.weight"),
        modules=names.MMDET_FCOS,
        tensors=names.MMDET_SCALES,
    ),
    Family(
        name="mmdet_ssd",
        marks=("neck.l2_norm.weight",),
        modules=names.MMDET_SSD,
    ),
    Family(
        name="torchvision_fcos",
        marks=("head.regression_head.bbox_ctrness.weight",),
        modules=names.TORCHVISION_FCOS,
        columns=classes.sigmoid_columns,
    ),
    Family(
        name="torchvision_retinanet",
        marks=("head.classification_head.conv.0.0.weight",),
        modules=names.TORCHVISION_RETINANET,
        columns=classes.sigmoid_columns,
    ),
    Family(
        name="torchvision_retinanet_old",
        marks=("head.classification_head.conv.0.weight",),
        modules=names.TORCHVISION_RETINANET_OLD,
        columns=classes.sigmoid_columns,
    ),
    Family(
        name="torchvision_ssd",
        marks=("backbone.scale_weight",),
        modules=names.TORCHVISION_SSD,
        tensors=names.TORCHVISION_SSD_SCALE,
        columns=classes.softmax_columns,
    ),
    Family(
        name="anchors_jax",  # written by `export`
        marks=("backbone.conv1.kernel", "backbone.conv1_1.kernel"),
        ours=True,
    ),
)


def named(name: str) -> Family:
    """The family of that name; WeightsError, listing those that there are."""
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise WeightsError(f"there is no family of weights {name!r}; known: {known}")


def recognise(found: Iterable[str]) -> Family:
    """The family of a file with tensors of these names.

    Raises:
      WeightsError: it is none of those known.
    """
    present = set(found)
    for family in FAMILIES:
        if present & set(family.marks):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    first = ", ".join(sorted(present)[:3])
    raise WeightsError(f"tensors like {first} are of no family of weights known here ({known})")
