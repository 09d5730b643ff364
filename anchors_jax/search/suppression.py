"""NMS of masked candidates: the detections of any configuration, from one compiled program.

The mask over prototypes is an argument, so nothing is compiled again as configurations change, and
the rows of a call are (image, configuration) pairs: the images of one configuration, or those that
changed in several.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Int32

from anchors_jax import boxes as geometry
from anchors_jax.search.candidates import CandidateSet

SLOTS = 1 << 15  # candidates that one call works on: rows * candidates per row
MAX_ROWS = 128


def masked_nms(
    boxes: Float[Array, "C 4"],
    labels: Int[Array, "C"],
    usable: Bool[Array, "C"],
    anchor: Int[Array, "C"],
    keep: Bool[Array, "N"],
    level: Int[Array, "N"],
    *,
    levels: int,
    iou_threshold: float,
    max_detections: int,
    top_k: int | None = None,
) -> Int[Array, "D"]:
    """Class-wise greedy NMS over one image's candidates, which are sorted best first.

    The first candidate that is alive is always the best, so its position is all that is looked for;
    D steps over C candidates, and no C x C matrix.

    Args:
        boxes, labels: of the candidates.
        usable: candidates that may become detections.
        anchor: their prototypes 0..M-1, M where there is no candidate.
        keep: the configuration; N = M + 1, and the last is False.
        level: of every prototype, 0..levels-1, and `levels` for M.
        iou_threshold: IoU strictly above it suppresses.
        max_detections: D.
        top_k: of every level only the best so many that are kept take part; None: all.

    Returns:
        Positions of the detections, best first; -1 where there are fewer than D.
    """
    alive = keep[anchor]
    if top_k is not None:
        mine = level[anchor][:, None] == jnp.arange(levels, dtype=level.dtype)[None]
        rank = jnp.cumsum(mine & alive[:, None], axis=0)
        alive &= jnp.sum(jnp.where(mine, rank, 0), axis=1) <= top_k
    alive &= usable
    position = jnp.arange(boxes.shape[0], dtype=jnp.int32)
    none = jnp.int32(boxes.shape[0])

    def best(alive: Array) -> Array:
        return jnp.min(jnp.where(alive, position, none))

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, first, alive, found = state
        there = first < none
        index = jnp.minimum(first, none - 1)
        found = found.at[count].set(jnp.where(there, index, -1))
        overlap = geometry.iou(boxes, lax.dynamic_slice_in_dim(boxes, index, 1))
        drop = ((overlap > iou_threshold) & (labels == labels[index])) | (position == index)
        alive = alive & ~(drop & there)
        return count + 1, best(alive), alive, found

    def more(state: tuple[Array, ...]) -> Array:
        return (state[0] < max_detections) & (state[1] < none)

    empty = jnp.full(max_detections, -1, jnp.int32)
    return lax.while_loop(more, step, (jnp.int32(0), best(alive), alive, empty))[3]


class Suppressor:
    """Detections of configurations of one candidate set.

    Images are sorted into groups by their number of candidates (powers of two), so that a crowded
    image does not cost as much memory and time as all others would take at its size. One program
    is compiled per group.
    """

    def __init__(self, candidates: CandidateSet) -> None:
        self._set = candidates
        self._rule, self._layout = candidates.rule, candidates.layout
        self.max_detections = candidates.rule.max_detections
        level = np.append(self._layout.level, len(self._layout.shapes)).astype(np.int32)
        self._level = jnp.asarray(level)
        # (image, level) pairs that have more than top_k: there, a removal lets others in.
        counts = np.zeros((len(candidates.count), len(self._layout.shapes) + 1), np.int64)
        for n in range(len(self._layout.shapes)):
            counts[:, n] = (level[candidates.anchor] == n).sum(axis=1)
        self._crowded = counts > self._rule.top_k
        self._groups = self._grouped()

    def sensitive(self, removed: frozenset[int]) -> Bool[np.ndarray, "I"]:
        """Images where removing these prototypes may let in what a level's top_k had cut off."""
        images = self._crowded.any(axis=1)
        if not images.any():
            return images
        candidates = self._set
        gone = np.zeros(self._layout.size + 1, bool)
        gone[list(removed)] = True
        rows = np.flatnonzero(images)
        anchor = candidates.anchor[rows]
        level = np.append(self._layout.level, len(self._layout.shapes))[anchor]
        touched = gone[anchor] & np.take_along_axis(self._crowded[rows], level, axis=1)
        result = np.zeros(len(images), bool)
        result[rows] = touched.any(axis=1)
        return result

    def __call__(
        self, images: Int[np.ndarray, "R"], keep: Bool[np.ndarray, "R M"]
    ) -> Int32[np.ndarray, "R D"]:
        """Positions (of candidates) of the detections of each (image, configuration) row."""
        result = np.full((len(images), self.max_detections), -1, np.int32)
        keep = np.concatenate([keep, np.zeros((len(keep), 1), bool)], axis=1)
        for members, arrays, rows_of_image, chunk in self._groups:
            mine = np.flatnonzero(members[images])
            waiting = []
            for begin in range(0, len(mine), chunk):
                rows = mine[begin : begin + chunk]
                filled = np.resize(rows, chunk)  # repeats rows to fill the last call
                waiting.append(
                    (rows, self._run(arrays, rows_of_image[images[filled]], keep[filled]))
                )
            for rows, found in waiting:
                result[rows] = np.asarray(found)[: len(rows)]
        return result

    def _run(self, arrays: dict[str, Array], rows: np.ndarray, keep: np.ndarray) -> Array:
        return _suppress(
            arrays,
            rows,
            keep,
            self._level,
            levels=len(self._layout.shapes),
            iou_threshold=self._rule.iou_threshold,
            max_detections=self.max_detections,
            top_k=self._rule.top_k if self._crowded.any() else None,
        )

    def _grouped(self) -> list[tuple[np.ndarray, dict[str, Array], np.ndarray, int]]:
        """Of every group: which images, their arrays, each image's row, rows per call."""
        candidates = self._set
        least = 64
        size = np.maximum(candidates.count, least)
        power = np.ceil(np.log2(size)).astype(np.int64)
        groups = []
        for exponent in np.unique(power):
            members = power == exponent
            width = min(1 << int(exponent), candidates.scores.shape[1])
            names = ("boxes", "labels", "usable", "anchor")
            arrays = {
                name: jnp.asarray(getattr(candidates, name)[members][:, :width]) for name in names
            }
            rows_of_image = np.cumsum(members) - 1
            chunk = int(np.clip(SLOTS // width, 1, MAX_ROWS))
            groups.append((members, arrays, rows_of_image, min(chunk, max(int(members.sum()), 8))))
        return groups


@functools.partial(jax.jit, static_argnames=("levels", "iou_threshold", "max_detections", "top_k"))
def _suppress(
    arrays: dict[str, Array],
    rows: Int[Array, "R"],
    keep: Bool[Array, "R N"],
    level: Int[Array, "N"],
    *,
    levels: int,
    iou_threshold: float,
    max_detections: int,
    top_k: int | None,
) -> Int[Array, "R D"]:
    run = functools.partial(
        masked_nms,
        levels=levels,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        top_k=top_k,
    )
    chosen = {name: value[rows] for name, value in arrays.items()}

    def one(image: dict[str, Array], keep: Array) -> Array:
        return run(image["boxes"], image["labels"], image["usable"], image["anchor"], keep, level)

    return jax.vmap(one)(chosen, keep)
