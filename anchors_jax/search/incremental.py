"""Exact metrics of configurations, computing only what differs from a known one.

A suppressed candidate suppresses nothing. So if none of an image's detections comes from the
prototypes that are taken away, its detections stay as they are, bit by bit, also under a limit on
their number. NMS and matching are then run for the other images only, and for none at all where a
prototype owns no detection anywhere. One exception: where a level has more candidates than its
top_k, removing some lets others in; such images are always run.
"""

import collections
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt64

from anchors_jax.evaluation.detections import DetectionTable
from anchors_jax.search.accumulation import Accumulator
from anchors_jax.search.candidates import CandidateSet, original_boxes
from anchors_jax.search.layout import Removed
from anchors_jax.search.matching import MAX_PER_CLASS, Matcher, per_class_limit
from anchors_jax.search.suppression import Suppressor

STATES = 64  # configurations whose detections are remembered


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What a configuration detects in every image, and what it is worth."""

    detections: Int32[np.ndarray, "I D"]  # positions of candidates, -1 where there is none
    matched: UInt64[np.ndarray, "I D"]
    ignored: UInt64[np.ndarray, "I D"]
    metrics: tuple[float, ...]


@dataclasses.dataclass
class Work:
    """What an evaluator did."""

    evaluations: int = 0  # configurations asked for
    unchanged: int = 0  # of these, known without any NMS
    images: int = 0  # images whose detections were computed


class Evaluator:
    """Unrounded COCO metrics (see `accumulation.METRICS`) of any configuration.

    Args:
      candidates: of all images of the ground truth.
      ground_truth: in COCO's format.
      category_ids: the data set's id of each label.
      incremental: False computes everything anew, for comparison.
      states: configurations whose detections are kept in memory, the latest.
    """

    def __init__(
        self,
        candidates: CandidateSet,
        ground_truth: dict[str, Any],
        *,
        category_ids: tuple[int, ...],
        incremental: bool = True,
        states: int = STATES,
    ) -> None:
        self.candidates, self.layout = candidates, candidates.layout
        self.matcher = Matcher(candidates, ground_truth, category_ids=category_ids)
        self._accumulate = Accumulator(self.matcher)
        self._suppress = Suppressor(candidates)
        self._category_ids = np.asarray(category_ids, np.int64)
        self._incremental, self._limit = incremental, states
        self._states: collections.OrderedDict[Removed, State] = collections.OrderedDict()
        self.work = Work()

    def __call__(self, removed: Removed, parent: Removed | None = None) -> tuple[float, ...]:
        """Metrics without the prototypes `removed`; `parent` is a subset of them."""
        self.work.evaluations += 1
        return self.state(removed, parent).metrics

    def state(self, removed: Removed, parent: Removed | None = None) -> State:
        """All that is known of a configuration, from memory where it is there."""
        if parent is not None and not parent <= removed:
            raise ValueError(f"{sorted(parent)} is not part of {sorted(removed)}")
        if removed in self._states:
            self._states.move_to_end(removed)
            return self._states[removed]
        images, before = np.arange(len(self.candidates.count)), None
        if parent is not None and self._incremental:
            before = self.state(parent)
            images = np.flatnonzero(self._changes(before, removed - parent))
        self.work.images += len(images)
        if before is not None and not len(images):
            self.work.unchanged += 1
            state = before
        else:
            state = self._computed(removed, images, before)
        self._states[removed] = state
        while len(self._states) > self._limit:
            self._states.popitem(last=False)
        return state

    def table(self, removed: Removed) -> DetectionTable:
        """The detections of a configuration in original pixels, as `eval` would find them."""
        state = self.state(removed)
        image, slot = np.nonzero(state.detections >= 0)
        position = state.detections[image, slot]
        boxes = original_boxes(self.candidates)
        return DetectionTable(
            image_id=self.candidates.image_id[image],
            category_id=self._category_ids[self.candidates.labels[image, position]],
            box=boxes[image, position],
            score=self.candidates.scores[image, position],
        )

    def _changes(self, before: State, gone: Removed) -> Bool[np.ndarray, "I"]:
        """Images whose detections may differ without the prototypes `gone`."""
        lost = np.zeros(self.layout.size + 1, bool)
        lost[list(gone)] = True
        return lost[self.owners(before)].any(axis=1) | self._suppress.sensitive(gone)

    def owners(self, state: State) -> Int[np.ndarray, "I D"]:
        """The prototype that each detection comes from; M where there is none."""
        position = np.maximum(state.detections, 0)
        anchor = np.take_along_axis(self.candidates.anchor, position, axis=1)
        return np.where(state.detections >= 0, anchor, self.layout.size)

    def _computed(
        self, removed: Removed, images: Int[np.ndarray, "R"], before: State | None
    ) -> State:
        keep = np.broadcast_to(self.layout.keep_mask(removed), (len(images), self.layout.size))
        found = self._suppress(images, keep)
        numbers = self.matcher.offset[images][:, None] + found
        valid = found >= 0
        if found.shape[1] > MAX_PER_CLASS:
            scored = per_class_limit(self.matcher, numbers[valid])
            counted = valid.copy()
            counted[valid] = scored
        else:
            counted = valid
        matches = self.matcher(numbers[counted])
        bits = {name: np.zeros(found.shape, np.uint64) for name in ("matched", "ignored")}
        for name, value in bits.items():
            value[counted] = getattr(matches, name)
        # Beyond COCO's limit per class: counted as nothing.
        bits["ignored"][valid & ~counted] = ~np.uint64(0)
        columns = {"detections": found, **bits}
        if before is not None:
            changed, columns = columns, {name: getattr(before, name).copy() for name in columns}
            for name, value in changed.items():
                columns[name][images] = value
        return State(**columns, metrics=self._metrics(**columns))

    def _metrics(
        self,
        detections: Int32[np.ndarray, "I D"],
        matched: UInt64[np.ndarray, "I D"],
        ignored: UInt64[np.ndarray, "I D"],
    ) -> tuple[float, ...]:
        every = np.uint64(~np.uint64(0))
        used = (detections >= 0) & (ignored != every)
        numbers = (self.matcher.offset[:-1, None] + detections)[used]
        return self._accumulate(numbers, matched[used], ignored[used])
