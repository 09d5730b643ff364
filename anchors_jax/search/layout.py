"""Which anchors a detector has: levels, cells and prototypes, numbered as `Anchors.shape` is.

Pruning speaks of *prototypes*: the S_l shapes of level l, together M. Prototype ids count level by
level, in the order of the shapes; a configuration is the set of the ids that were removed.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int

Removed = frozenset[int]  # prototype ids taken away from the trained detector
Kept = tuple[tuple[int, ...], ...]  # of each level, the slots (0..S_l-1) that stay


@dataclasses.dataclass(frozen=True)
class Layout:
    """Cells (rows * columns) and prototypes of every level."""

    cells: tuple[int, ...]
    shapes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.shapes):
            raise ValueError(f"{len(self.cells)} levels of cells but {len(self.shapes)} of shapes")

    @classmethod
    def of_anchors(cls, level_sizes: Sequence[tuple[int, int, int]]) -> "Layout":
        """From `Anchors.level_sizes`: (rows, columns, prototypes) of every level."""
        return cls(
            tuple(rows * columns for rows, columns, _ in level_sizes),
            tuple(shapes for _, _, shapes in level_sizes),
        )

    @property
    def size(self) -> int:
        """M, the number of prototypes."""
        return sum(self.shapes)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first prototype id of every level."""
        return tuple(int(n) for n in np.cumsum((0, *self.shapes))[:-1])

    @property
    def level(self) -> Int[np.ndarray, "M"]:
        """The level of every prototype."""
        return np.repeat(np.arange(len(self.shapes)), self.shapes)

    @property
    def slot(self) -> Int[np.ndarray, "M"]:
        """The position of every prototype within its level."""
        return np.concatenate([np.arange(count) for count in (*self.shapes, 0)])

    def of_level(self, level: int) -> range:
        """The prototype ids of a level."""
        start = self.starts[level]
        return range(start, start + self.shapes[level])

    def kept(self, removed: Iterable[int]) -> Kept:
        """The slots that remain on every level."""
        gone = set(removed)
        return tuple(
            tuple(n - self.starts[level] for n in self.of_level(level) if n not in gone)
            for level in range(len(self.shapes))
        )

    def counts(self, removed: Iterable[int]) -> tuple[int, ...]:
        """How many prototypes remain on every level."""
        return tuple(len(slots) for slots in self.kept(removed))

    def keep_mask(self, removed: Iterable[int]) -> Bool[np.ndarray, "M"]:
        """True for the prototypes that remain."""
        mask = np.ones(self.size, bool)
        mask[list(removed)] = False
        return mask

    def check(self, removed: Iterable[int]) -> Removed:
        """The set, if it names prototypes of this layout and leaves at least one.

        Raises:
          ValueError: naming the id that does not exist.
        """
        chosen = frozenset(int(n) for n in removed)
        wrong = sorted(n for n in chosen if not 0 <= n < self.size)
        if wrong:
            raise ValueError(f"anchor {wrong[0]} does not exist: ids are 0..{self.size - 1}")
        if len(chosen) == self.size:
            raise ValueError("a configuration that removes every anchor detects nothing")
        return chosen

    def prior_shape(self) -> Int[np.ndarray, "A"]:
        """The prototype of every anchor, in the order level, cell, prototype."""
        levels = [
            np.tile(np.arange(start, start + shapes), cells)
            for start, shapes, cells in zip(self.starts, self.shapes, self.cells, strict=True)
        ]
        return np.concatenate(levels)
