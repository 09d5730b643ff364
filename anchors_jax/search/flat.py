"""Candidates as one list, in groups that NMS and matching treat on their own.

Boxes of different classes neither suppress each other nor compete for objects, so everything
between the mask and the final limit on detections happens within a *group*: the candidates of one
image and class, best first.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from anchors_jax.search.candidates import CandidateSet, original_boxes
from anchors_jax.search.layout import Removed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat:
    """N candidates, sorted by image, class and score, in G groups."""

    image: Int[np.ndarray, "N"]  # position in the candidate set
    position: Int[np.ndarray, "N"]  # rank by score within the image
    label: Int[np.ndarray, "N"]
    anchor: Int[np.ndarray, "N"]
    score: Float32[np.ndarray, "N"]
    usable: Bool[np.ndarray, "N"]
    box: Float32[np.ndarray, "N 4"]  # network pixels, as NMS sees them
    original: Float[np.ndarray, "N 4"]  # original pixels
    group: Int[np.ndarray, "N"]
    start: Int[np.ndarray, "_"]  # of every group, and N
    by_score: Int[np.ndarray, "N"]  # numbers of the candidates by image and rank
    images: int
    classes: int
    source: CandidateSet
    crowded: Int[np.ndarray, "R"]  # candidates of (image, level) pairs with more than top_k
    crowded_start: Int[np.ndarray, "R"]  # where, among those, the pair of each begins

    @property
    def groups(self) -> int:
        """G."""
        return len(self.start) - 1

    def alive(self, removed: Removed) -> Bool[np.ndarray, "N"]:
        """Candidates that enter NMS in a configuration: kept, and of the level's best top_k.

        The limit counts what is kept only, as a network that lacks the other anchors would.
        """
        keep = self.source.layout.keep_mask(removed)[self.anchor]
        if len(self.crowded):
            before = np.concatenate([[0], np.cumsum(keep[self.crowded])])
            rank = before[1:] - before[self.crowded_start]
            keep[self.crowded] &= rank <= self.source.rule.top_k
        return keep & self.usable

    def within_limit(self, kept: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Which of what NMS keeps (numbers, ascending) are among their image's max_detections."""
        limit = self.source.rule.max_detections
        count = np.bincount(self.image[kept], minlength=self.images)
        if count.max(initial=0) <= limit:
            return np.ones(len(kept), bool)
        there = np.zeros(len(self.image), np.int32)
        there[kept] = 1
        rank = np.empty(len(there), np.int32)
        rank[self.by_score] = np.cumsum(there[self.by_score])
        before = np.cumsum(count) - count
        return rank[kept] - before[self.image[kept]] <= limit


def flatten(candidates: CandidateSet, *, classes: int) -> Flat:
    """The list of a candidate set whose labels are 0..classes-1."""
    filled = np.arange(candidates.scores.shape[1]) < candidates.count[:, None]
    image, position = np.nonzero(filled)
    label = candidates.labels[filled].astype(np.int64)
    key = image * classes + label
    order = np.argsort(key, kind="stable")  # within: by position
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    by_score = np.empty(len(order), np.int64)
    by_score[:] = np.argsort(order)
    anchor = candidates.anchor[filled][order].astype(np.int64)
    crowded, crowded_start = _crowded(candidates, image[order], anchor, by_score)
    return Flat(
        image=image[order],
        position=position[order],
        label=label[order],
        anchor=anchor,
        score=candidates.scores[filled][order],
        usable=candidates.usable[filled][order],
        box=candidates.boxes[filled][order],
        original=original_boxes(candidates)[filled][order],
        group=np.repeat(np.arange(len(first)), np.diff(np.append(first, len(key)))),
        start=np.append(first, len(key)),
        by_score=by_score,
        images=len(candidates.count),
        classes=classes,
        source=candidates,
        crowded=crowded,
        crowded_start=crowded_start,
    )


def ragged_blocks(
    start: Int[np.ndarray, "N"], count: Int[np.ndarray, "N"], *, most: int
) -> Iterator[tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]]:
    """All pairs (n, m) with `start[n] <= m < start[n] + count[n]`, in order, as blocks (n, m).

    A block holds at most `most` pairs, or one n that has more; the pairs of an n stand in one.
    """
    ends = np.cumsum(count)
    shift = start - (ends - count)  # from the place of a pair among all pairs to its m
    begin = 0
    while begin < len(count):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + most, "right")))
        row = np.repeat(np.arange(begin, end), count[begin:end])
        yield row, shift[row] + np.arange(done, ends[end - 1])
        begin = end


def _crowded(
    candidates: CandidateSet,
    image: Int[np.ndarray, "N"],
    anchor: Int[np.ndarray, "N"],
    by_score: Int[np.ndarray, "N"],
) -> tuple[Int[np.ndarray, "R"], Int[np.ndarray, "R"]]:
    """Candidates of levels that top_k cuts, by level and rank, and where each level begins."""
    layout = candidates.layout
    pair = image * len(layout.shapes) + layout.level[anchor]
    size = np.bincount(pair, minlength=len(candidates.count) * len(layout.shapes))
    chosen = by_score[size[pair[by_score]] > candidates.rule.top_k]
    chosen = chosen[np.argsort(pair[chosen], kind="stable")]
    ordered = pair[chosen]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    return chosen, np.repeat(first, np.diff(np.append(first, len(ordered))))
