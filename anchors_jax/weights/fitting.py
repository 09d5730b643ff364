"""Put the tensors of a checkpoint into a network's variables, or say everything that does not fit.

Layouts: a convolution OIHW -> HWIO (grouped ones alike: I counts one group), anchors before
classes or coordinates in the channels of every head's output (here as there), vectors as they are.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from anchors_jax.weights import classes
from anchors_jax.weights.families import Family, Place
from anchors_jax.weights.reading import WeightsError

SHOWN = 3  # names in a message, of each kind of fault
_CLASS_OUTPUT = re.compile(r"class(_output|\d+)")

Path = tuple[str, ...]


def fit(
    tensors: Mapping[str, np.ndarray],
    family: Family,
    variables: Any,
    *,
    parts: tuple[str, ...] | None = None,
) -> tuple[Any, tuple[str, ...]]:
    """The variables with every array of `parts` taken from the tensors.

    Args:
      tensors: of a file, by name.
      family: what the names mean.
      variables: collections of arrays or of their shapes (jax.ShapeDtypeStruct); what lies outside
        `parts`, and what the family calls optional, stays as it is.
      parts: top-level modules; None: all that there are. A backbone's file has but one.

    Returns:
      New variables with the same structure, and the names of the file's tensors that were dropped.

    Raises:
      WeightsError: listing what is missing, left over, of another shape, or not finite.
    """
    flat = traverse_util.flatten_dict(variables)
    # A path is unique over collections, and in which of them a value lies is the model's affair.
    places = {path[1:]: path for path in flat}
    known = {path[0] for path in places}
    parts = ("backbone",) if family.backbone_only else parts or tuple(known)
    prepared = family.prepare(tensors) if family.prepare else tensors
    found, dropped = _Found({path: flat[place] for path, place in places.items()}), []
    for name in prepared:
        if family.drops(name):
            dropped.append(name)
            continue
        place = family.place(name)
        if place is not None and family.backbone_only:
            place = place._replace(path=("backbone", *place.path))
        if place is not None and place.path[0] in known - set(parts):
            dropped.append(name)
        elif place is None or place.path not in places:
            found.left_over.append(name)
        else:
            value = np.asarray(prepared[name])
            found.put(name, place, _arranged(value, place, flat[places[place.path]].shape, family))
    wanted = [path for path in places if path[0] in parts and not _optional(path, family)]
    if sentence := found.faults(wanted):
        raise WeightsError(sentence)
    flat |= {places[path]: value for path, value in found.values.items()}
    return traverse_util.unflatten_dict(flat), tuple(dropped)


class _Found:
    """Values that have found their place, and everything that has not."""

    def __init__(self, targets: Mapping[Path, Any]) -> None:
        self._targets = targets
        self.values: dict[Path, np.ndarray] = {}
        self._elements: dict[Path, set[int]] = {}  # of vectors that come in pieces
        self.left_over: list[str] = []
        self._misshaped: dict[Path, str] = {}
        self._not_finite: dict[Path, str] = {}

    def put(self, name: str, place: Place, value: np.ndarray) -> None:
        """Copy a value to its place (what stays is no view of the file), or note the fault."""
        path, element = place
        target = self._targets[path]
        wanted = tuple(target.shape)
        if element is not None:
            value, wanted = (value.reshape(()) if value.size == 1 else value), ()
        taken = path in self.values if element is None else element in self._elements.get(path, ())
        if taken or (element is not None and element >= target.shape[0]):
            self.left_over.append(name)
        elif value.shape != wanted:
            self._misshaped[path] = f"{name} {value.shape} instead of {wanted}"
        elif not np.isfinite(value).all():
            self._not_finite[path] = name
        elif element is None:
            self.values[path] = np.array(value, dtype=target.dtype, order="C")
        else:
            self.values.setdefault(path, np.zeros(target.shape, target.dtype))[element] = value
            self._elements.setdefault(path, set()).add(element)

    def faults(self, wanted: list[Path]) -> str:
        """All faults by kind, with their counts and first names; empty if all fits."""
        spoilt = self._misshaped.keys() | self._not_finite.keys()
        missing = [
            ".".join(path) for path in wanted if path not in spoilt and not self._complete(path)
        ]
        kinds = {
            "missing": missing,
            "left over": self.left_over,
            "of another shape (as HWIO)": list(self._misshaped.values()),
            "not finite": list(self._not_finite.values()),
        }
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}"
            for kind, names in kinds.items()
            if names
        )

    def _complete(self, path: Path) -> bool:
        if path not in self.values:
            return False
        pieces = self._elements.get(path)
        return pieces is None or len(pieces) == self._targets[path].shape[0]


def _optional(path: Path, family: Family) -> bool:
    own = ".".join(path[1:] if family.backbone_only else path)
    return any(re.fullmatch(pattern, own) for pattern in family.optional)


def _arranged(
    value: np.ndarray, place: Place, shape: tuple[int, ...], family: Family
) -> np.ndarray:
    """One tensor in our layout; its shape may still be another than `shape`."""
    if family.ours:
        return value
    if place.path[-1] == "kernel" and value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    if family.columns is None or not _CLASS_OUTPUT.fullmatch(place.path[-2]):
        return value
    anchors, rest = divmod(value.shape[-1], classes.NUMBERS)
    if rest or not anchors or shape[-1] % anchors:
        return value
    return classes.choose(value, family.columns(shape[-1] // anchors))
