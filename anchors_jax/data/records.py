"""The nouns of the data package: one image with its objects, and a list of such images.

Nothing in `anchors_jax.data` imports JAX: readers and transforms run in worker processes and
threads, on numpy arrays. Boxes are `x0, y0, x1, y1` in float32 pixels, width = x1 - x0, of the
image they belong to: original pixels as a source returns them, network pixels after the transforms.
"""

import dataclasses
import difflib
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

_LOG = logging.getLogger(__name__)
_LOCK = threading.Lock()  # one for all: a lock inside Problems could not be sent to a worker


class DataError(ValueError):
    """The data are wrong; the message names the file, and the key or id in it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One image and its n objects.

    `scale` is (x, y) present pixels per original pixel: 1 until a transform resizes. `canvas` is
    the (height, width) the loader chose for this image, None outside a loader.
    """

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    image_id: int
    file: str
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, " n"]  # 0..K-1, contiguous
    crowd: Bool[np.ndarray, " n"]
    area: Float32[np.ndarray, " n"]  # as annotated: of the mask where there is one
    annotation_ids: Int64[np.ndarray, " n"]
    scale: Float32[np.ndarray, "2"] = dataclasses.field(
        default_factory=lambda: np.ones(2, np.float32)
    )
    canvas: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image as it is now."""
        return self.image.shape[0], self.image.shape[1]

    def replace(self, **changes: Any) -> "Example":
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def keep(self, chosen: np.ndarray) -> "Example":
        """The same image with the chosen objects (mask or indices [m]) only."""
        return self.replace(
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            crowd=self.crowd[chosen],
            area=self.area[chosen],
            annotation_ids=self.annotation_ids[chosen],
        )


class Problems(Counter):
    """How often each kind of fault was met in the data, with the first case of each kind.

    Many faults give one line of log per kind, never one per box.
    """

    def __init__(self, counts: Any = (), first: dict[str, str] | None = None):
        super().__init__(dict(counts))
        self.first: dict[str, str] = dict(first or {})

    def __reduce__(self):
        return (type(self), (dict(self), self.first))

    def note(self, kind: str, case: str) -> bool:
        """Count one case of a kind; True if it was the first of its kind."""
        with _LOCK:
            self[kind] += 1
            new = kind not in self.first
            if new:
                self.first[kind] = case
        return new

    def report(self, where: str) -> None:
        """Log one line per kind."""
        for kind, count in self.items():
            _LOG.warning("%s: %d x %s; first: %s", where, count, kind, self.first[kind])


@runtime_checkable
class Source(Protocol):
    """A list of images with objects. Reading is by index, in any order, from any thread."""

    classes: tuple[str, ...]  # names; the position is the label
    category_ids: tuple[int, ...]  # the data set's own id of each class
    problems: Problems

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    @property
    def sizes(self) -> Int32[np.ndarray, "N 2"]:
        """Annotated (height, width) of every image."""
        ...

    @property
    def image_ids(self) -> Int64[np.ndarray, " N"]:
        """Id of every image, in order."""
        ...

    @property
    def counts(self) -> Int32[np.ndarray, "N 2"]:
        """Objects and crowd regions of every image."""
        ...

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """Everything but the pixels, as a COCO dictionary with the data set's own category ids."""
        ...


class Foreseen(NamedTuple):
    """What a data set will be, known before it is read or drawn.

    `with_objects`: how many of its images hold any; None: not known. `origin`: where the images
    come from, where that is no file.
    """

    images: int
    with_objects: int | None = None
    origin: str = ""


def foreseen(reader: partial) -> Foreseen | None:
    """What a reader with its keywords bound knows before it reads; None: nothing.

    Readers that know something have a function `foresee` of the same keywords.
    """
    foresee = getattr(reader.func, "foresee", None)
    return None if foresee is None else foresee(**reader.keywords)


def choose_classes(
    wanted: Sequence[str] | None, known: Iterable[str], where: str
) -> tuple[str, ...]:
    """The classes to read, by name: `wanted` in its order, or all the known ones in theirs.

    Raises:
      DataError: a wanted name is unknown or given twice; the message has the nearest known name.
    """
    known = tuple(known)
    if not known:
        raise DataError(f"{where}: no classes")
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise DataError(f"{where}: unknown class {name!r}; the nearest known name is {near!r}")
    if len(set(wanted)) != len(wanted):
        twice = next(name for name, count in Counter(wanted).items() if count > 1)
        raise DataError(f"{where}: class {twice!r} is asked for twice")
    if not wanted:
        raise DataError(f"{where}: the list of classes is empty")
    return tuple(wanted)
