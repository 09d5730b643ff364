"""COCO's average precision from per-image matches, in milliseconds.

The numbers are those of pycocotools' accumulation, reached with less work. Precision has to be
known at right detections only: recall rises nowhere else, and the largest precision at any later
rank is one of theirs. Only detections near an object can be right, or differ between thresholds;
all others are counted by class and range of area.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from anchors_jax.search.matching import (
    CASES,
    RANGE_OF,
    RANGES,
    THRESHOLD_OF,
    Matcher,
    unpack,
)

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Accumulator:
    """AP, AP50, AP75, APs, APm, APl of any detections among a matcher's candidates."""

    def __init__(self, matcher: Matcher) -> None:
        self._classes = matcher.flat.classes
        # By class, then score; equal scores in the order of images and of their detections.
        flat = matcher.flat
        self._order = np.lexsort((flat.position, flat.image, -flat.score, flat.label))
        self._place = np.empty(len(self._order), np.int64)
        self._place[self._order] = np.arange(len(self._order))
        self._label = flat.label[self._order]
        self._contends = matcher.contends[self._order]
        self._wrong = ~matcher.outside[self._order]  # of one that is near no object
        self._objects = matcher.objects
        self._weights, self._first = _recall_weights(matcher.objects)

    def __call__(
        self,
        detections: Int[np.ndarray, "N"],
        matched: UInt64[np.ndarray, "N"],
        ignored: UInt64[np.ndarray, "N"],
    ) -> tuple[float, ...]:
        """Metrics in the order of METRICS, 0..1; -1 where there is no object of that size.

        Args:
          detections: candidate numbers, in any order.
          matched, ignored: of each, from the matcher.
        """
        present = np.zeros(len(self._order), bool)
        row_at = np.zeros(len(self._order), np.int32)
        places = self._place[detections]
        present[places] = True
        row_at[places] = np.arange(len(detections), dtype=np.int32)
        at = np.flatnonzero(present)  # by class and score
        near = np.flatnonzero(self._contends[at])
        others = np.where(self._contends[at][:, None], False, self._wrong[at])
        before = np.zeros((len(at) + 1, len(RANGES)), np.int64)
        np.cumsum(others, axis=0, out=before[1:])
        rows, label = row_at[at[near]], self._label[at]
        right, wrong = _outcomes(matched[rows], ignored[rows])
        start_all = np.searchsorted(label, np.arange(self._classes))
        start_near = np.searchsorted(label[near], np.arange(self._classes))
        near_before = np.zeros((len(near) + 1, CASES), np.int64)
        np.cumsum(wrong, axis=0, out=near_before[1:])
        case, row = np.nonzero(np.ascontiguousarray(right.T))  # by case, class, score
        klass, area = label[near[row]], RANGE_OF[case]
        false = before[near[row], area] - before[start_all[klass], area]
        false += near_before[row, case] - near_before[start_near[klass], case]
        return self._average(case, klass, area, false)

    def _average(
        self,
        case: Int[np.ndarray, "R"],
        klass: Int[np.ndarray, "R"],
        area: Int[np.ndarray, "R"],
        false: Int[np.ndarray, "R"],
    ) -> tuple[float, ...]:
        """Metrics from the right detections: each case's and class's in the order of scores."""
        segment = case * self._classes + klass
        first = np.flatnonzero(np.diff(segment, prepend=-1))
        size = np.diff(np.append(first, len(segment)))
        number = np.arange(len(segment)) - np.repeat(first, size) + 1
        precision = number / (number + false + np.spacing(1))
        # Largest precision from here on: every segment stands above all later ones.
        height = 2.0 * (CASES * self._classes - segment)
        envelope = np.maximum.accumulate((precision + height)[::-1])[::-1] - height
        weight = self._weights[self._first[klass, area] + number - 1]
        total = np.bincount(case, weights=weight * envelope, minlength=CASES)
        defined = (self._objects > 0).sum(axis=0)  # classes, of every range
        points = len(RECALL_POINTS) * np.maximum(defined, 1)
        average = np.where(defined > 0, 1.0, np.nan)[RANGE_OF] * total / points[RANGE_OF]

        def mean(chosen: Bool[np.ndarray, "40"]) -> float:
            values = average[chosen]
            return -1.0 if np.isnan(values).any() else float(values.mean())

        whole = RANGE_OF == 0
        return (
            mean(whole),
            mean(whole & (THRESHOLD_OF == 0)),
            mean(whole & (THRESHOLD_OF == 5)),
            *(mean(n == RANGE_OF) for n in range(1, len(RANGES))),
        )


def _outcomes(
    matched: UInt64[np.ndarray, "N"], ignored: UInt64[np.ndarray, "N"]
) -> tuple[Bool[np.ndarray, "N 40"], Bool[np.ndarray, "N 40"]]:
    every = np.uint64((1 << CASES) - 1)
    return unpack(matched & ~ignored), unpack(~matched & ~ignored & every)


def _recall_weights(
    objects: Int[np.ndarray, "K 4"],
) -> tuple[Float[np.ndarray, "W"], Int[np.ndarray, "K 4"]]:
    """How many of the 101 recall points are reached first by the k-th right detection.

    Returns the numbers for k = 1..n of every class and range one after the other, and where each
    starts.
    """
    counts = objects.reshape(-1)
    starts = np.cumsum(counts) - counts
    weights = np.zeros(max(int(counts.sum()), 1))
    for count, start in zip(counts.tolist(), starts.tolist(), strict=True):
        if count:
            recall = np.arange(1, count + 1) / count
            reached = np.searchsorted(recall, RECALL_POINTS, "left")
            weights[start : start + count] = np.bincount(reached, minlength=count)
    return weights, starts.reshape(objects.shape)
