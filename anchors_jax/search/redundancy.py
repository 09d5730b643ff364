"""Redundancy of anchors: whose detections other anchors would also have found.

An anchor is redundant where, without it, NMS would find the same object through another one. For
every prototype: of its boxes that become detections, the share that a candidate of another
prototype (same image and class, IoU above the threshold of NMS) covers.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors_jax.search.flat import Flat, ragged_blocks
from anchors_jax.search.layout import Layout

_BLOCK = 1 << 21  # (detection, candidate) pairs compared at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Redundancy:
    """Of M prototypes: detections that come from each, and how many of them others cover."""

    detections: Int[np.ndarray, "M"]
    covered: Int[np.ndarray, "M"]  # by any other prototype
    by: Int[np.ndarray, "M M"]  # [a, b]: detections of a that candidates of b cover

    @property
    def share(self) -> Float[np.ndarray, "M"]:
        """Share of each prototype's detections that others cover; NaN where it has none."""
        count = self.detections
        return np.where(count > 0, self.covered / np.maximum(count, 1), np.nan)

    @property
    def matrix(self) -> Float[np.ndarray, "M M"]:
        """[a, b]: share of a's detections that b covers; NaN where a has none."""
        count = self.detections[:, None]
        return np.where(count > 0, self.by / np.maximum(count, 1), np.nan)


def redundancy(
    flat: Flat, detections: Int[np.ndarray, "n"], alive: Bool[np.ndarray, "N"]
) -> Redundancy:
    """Count the cover of a configuration's detections.

    Args:
      flat: the candidates.
      detections: their numbers, ascending (`Evaluator.detections`).
      alive: candidates that take part (`Flat.alive`).
    """
    size, threshold = flat.source.layout.size, flat.source.rule.iou_threshold
    by = np.zeros(size * size, np.int64)
    covered = np.zeros(size, np.int64)
    group = flat.group[detections]
    first, owner = flat.start[group], flat.anchor[detections]
    for row, other in ragged_blocks(first, flat.start[group + 1] - first, most=_BLOCK):
        useful = alive[other] & (flat.anchor[other] != owner[row])
        row, other = row[useful], other[useful]
        close = _iou(flat.box[detections[row]], flat.box[other]) > threshold
        pair = np.unique(row[close] * size + flat.anchor[other[close]])  # once per prototype
        by += np.bincount(owner[pair // size] * size + pair % size, minlength=size * size)
        covered += np.bincount(owner[np.unique(row[close])], minlength=size)
    found = np.bincount(owner, minlength=size)
    return Redundancy(detections=found, covered=covered, by=by.reshape(size, size))


def table(found: Redundancy, layout: Layout, names: list[str]) -> str:
    """Markdown: every prototype with its detections, the share covered, and by whom most."""
    lines = [
        "| id | level | anchor | detections | covered by others | most by |",
        "|---|---|---|---|---|---|",
    ]
    matrix = found.matrix
    for n, name in enumerate(names):
        share, most = "", ""
        if found.detections[n]:
            best = int(np.argmax(found.by[n]))
            share = f"{100 * found.share[n]:.0f}%"
            if found.by[n, best]:
                most = f"{best} ({names[best]}) {100 * matrix[n, best]:.0f}%"
        row = (n, layout.level[n], name, found.detections[n], share, most)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def _iou(a: Float[np.ndarray, "P 4"], b: Float[np.ndarray, "P 4"]) -> Float[np.ndarray, "P"]:
    side = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inside = np.maximum(side, 0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - inside
    return inside / np.where(union > 0, union, 1.0)
