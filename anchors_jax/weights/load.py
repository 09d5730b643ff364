"""Start a network from a file: which part of it the file has, and what became of its tensors."""

import dataclasses
import pathlib
from typing import Any

import jax

from anchors_jax.weights import families, fitting, reading
from anchors_jax.weights.reading import WeightsError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network's variables after a file was read into them."""

    variables: Any
    path: pathlib.Path
    family: str
    parts: tuple[str, ...]  # modules that came from the file
    tensors: int  # in the file
    dropped: tuple[str, ...]  # known, and of no use here

    def __str__(self) -> str:
        """One line for the log."""
        left = f", {len(self.dropped)} left out" if self.dropped else ""
        what = ", ".join(self.parts)
        return f"{what} from {self.path} ({self.family}, {self.tensors} tensors{left})"


def load(
    path: str | pathlib.Path,
    variables: Any,
    *,
    parts: tuple[str, ...],
    family: str | None = None,
) -> Loaded:
    """Read a file into a network's variables.

    Args:
      path: see `reading.opened`.
      variables: of `Detector.init`, or their shapes where the file is to give all of them.
      parts: of the network that are wanted of a whole detector's file, by name: all, or of a file
        for other classes ("backbone", "neck").
      family: one of `families.FAMILIES` by name; None: recognised by its tensors.

    Raises:
      WeightsError: naming the file; it cannot be read, is of no known family, lacks parts that
        are but shapes in `variables`, or does not fit them.
    """
    path = pathlib.Path(path)
    with reading.opened(path) as tensors:
        try:
            kind = families.named(family) if family else families.recognise(tensors)
            have = ("backbone",) if kind.backbone_only else parts
            fitted, dropped = fitting.fit(tensors, kind, variables, parts=have)
        except WeightsError as error:
            prefix = f"{path}: " if family is None else f"{path}, read as {family}: "
            raise WeightsError(f"{prefix}{error}") from None
        lacking = [
            "/".join(str(key.key) for key in where)
            for where, leaf in jax.tree_util.tree_flatten_with_path(fitted)[0]
            if isinstance(leaf, jax.ShapeDtypeStruct)
        ]
        if lacking:
            raise WeightsError(
                f"{path}: has only the {', '.join(have)} of the network ({kind.name}); "
                f"{len(lacking)} arrays are missing, such as {lacking[0]}"
            )
        return Loaded(
            variables=fitted,
            path=path,
            family=kind.name,
            parts=have,
            tensors=len(tensors),
            dropped=dropped,
        )


def expects_weights(variables: Any) -> bool:
    """Whether some values never change in training: frozen stages, frozen batch normalisation."""
    return any(variables.get(collection) for collection in ("frozen", "constants"))
