"""Exact metrics of configurations, computing only what differs from a known one.

A suppressed candidate suppresses nothing. So if nothing that NMS keeps in a group (an image's
candidates of one class) comes from the prototypes that are taken away, the group keeps the same
boxes, bit by bit, and so do its matches: NMS and matching are run for the other groups only, and
for none at all where a prototype owns nothing anywhere. One exception is seen to: where a level has
more candidates than its top_k, removing some lets others in, and the groups of those are run, too.
"""

import collections
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

from anchors_jax.evaluation.detections import DetectionTable
from anchors_jax.search.accumulation import Accumulator
from anchors_jax.search.candidates import CandidateSet
from anchors_jax.search.flat import flatten
from anchors_jax.search.layout import Removed
from anchors_jax.search.matching import Matcher, rank_within
from anchors_jax.search.suppression import Suppressor

STATES = 64  # configurations whose detections are remembered
MAX_PER_CLASS = 100  # detections of an image and class that COCO looks at


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What NMS keeps in a configuration (before the limit per image), and what it is worth."""

    kept: Int[np.ndarray, "n"]  # numbers of candidates, ascending
    matched: UInt64[np.ndarray, "n"]
    ignored: UInt64[np.ndarray, "n"]
    metrics: tuple[float, ...]


@dataclasses.dataclass
class Work:
    """What an evaluator did."""

    evaluations: int = 0  # configurations asked for
    unchanged: int = 0  # of these, known without any NMS
    groups: int = 0  # groups in which NMS was run


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
        self.layout = candidates.layout
        self.flat = flatten(candidates, classes=len(category_ids))
        self._match = Matcher(self.flat, ground_truth, category_ids=category_ids)
        self._accumulate = Accumulator(self._match)
        self._suppress = Suppressor(self.flat)
        self._category_ids = np.asarray(category_ids, np.int64)
        self._incremental, self._limit = incremental, states
        self._states: collections.OrderedDict[Removed, State] = collections.OrderedDict()
        self.work = Work()

    def __call__(self, removed: Removed, parent: Removed | None = None) -> tuple[float, ...]:
        """Metrics without the prototypes `removed`; `parent` is a subset of them."""
        self.work.evaluations += 1
        return self.state(removed, parent).metrics

    def state(self, removed: Removed, parent: Removed | None = None) -> State:
        """All that is known of a configuration, from memory where it is there.

        Raises:
          ValueError: `parent` lacks prototypes that `removed` has.
        """
        if parent is not None and not parent <= removed:
            raise ValueError(f"{sorted(parent)} is not part of {sorted(removed)}")
        if removed in self._states:
            self._states.move_to_end(removed)
            return self._states[removed]
        if parent is None or not self._incremental:
            state = self._whole(removed)
        else:
            state = self._changed(removed, parent)
        self._states[removed] = state
        while len(self._states) > self._limit:
            self._states.popitem(last=False)
        return state

    def detections(self, removed: Removed) -> Int[np.ndarray, "n"]:
        """Numbers (in `flat`) of a configuration's final detections, ascending."""
        kept = self.state(removed).kept
        return kept[self.flat.within_limit(kept)]

    def table(self, removed: Removed) -> DetectionTable:
        """The detections of a configuration in original pixels, as `eval` would find them."""
        numbers, flat = self.detections(removed), self.flat
        return DetectionTable(
            image_id=flat.source.image_id[flat.image[numbers]],
            category_id=self._category_ids[flat.label[numbers]],
            box=flat.original[numbers],
            score=flat.score[numbers],
        )

    def _whole(self, removed: Removed) -> State:
        groups = np.arange(self.flat.groups)
        return self._scored(*self._computed(groups, self.flat.alive(removed)))

    def _changed(self, removed: Removed, parent: Removed) -> State:
        before, flat = self.state(parent), self.flat
        alive = flat.alive(removed)
        lost = flat.group[before.kept[~alive[before.kept]]]
        entered = np.zeros(0, np.int64)
        if len(flat.crowded):
            entered = flat.group[alive & ~flat.alive(parent)]
        groups = np.union1d(lost, entered)
        if not len(groups):
            self.work.unchanged += 1
            return before
        stays = np.ones(flat.groups, bool)
        stays[groups] = False
        stays = stays[flat.group[before.kept]]
        new = self._computed(groups, alive)
        old = (before.kept[stays], before.matched[stays], before.ignored[stays])
        columns = [np.concatenate(pair) for pair in zip(old, new, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return self._scored(*(column[order] for column in columns))

    def _computed(
        self, groups: Int[np.ndarray, "R"], alive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What NMS keeps in these groups, and its matches."""
        self.work.groups += len(groups)
        kept = self._suppress(groups, alive)
        matches = self._match(kept)
        return kept, matches.matched, matches.ignored

    def _scored(self, kept: np.ndarray, matched: np.ndarray, ignored: np.ndarray) -> State:
        counted = self.flat.within_limit(kept)
        if self.flat.source.rule.max_detections > MAX_PER_CLASS:
            counted &= rank_within(self.flat.group[kept]) < MAX_PER_CLASS
        metrics = self._accumulate(kept[counted], matched[counted], ignored[counted])
        return State(kept=kept, matched=matched, ignored=ignored, metrics=metrics)
