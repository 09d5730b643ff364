"""COCO's matching of detections to objects, prepared once for every candidate there is.

pycocotools matches the detections of an image and class in the order of their scores: each takes
the free object that it overlaps most, objects that count before those that are ignored, at each of
ten IoU thresholds and four ranges of area. Boxes never change between configurations, so which
objects a candidate may take, and in which order, is known before any search; few candidates may
take any. What is left to do per configuration runs over all images at once.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from anchors_jax.evaluation.coco import AREAS
from anchors_jax.evaluation.detections import xywh
from anchors_jax.evaluation.ground_truth import GroundTruth, read_ground_truth
from anchors_jax.search.flat import Flat, ragged_blocks

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RANGES = np.array(list(AREAS.values()), np.float64)  # [4, 2]
CASES = len(THRESHOLDS) * len(RANGES)  # (threshold, range) pairs, range fastest
THRESHOLD_OF = np.repeat(np.arange(len(THRESHOLDS)), len(RANGES))
RANGE_OF = np.tile(np.arange(len(RANGES)), len(THRESHOLDS))
MAX_PER_CLASS = 100  # detections of an image and class that COCO looks at
_BLOCK = 1 << 20  # (candidate, object) pairs whose IoU is computed at once
_BITS = (np.uint64(1) << np.arange(CASES, dtype=np.uint64)).astype(np.uint64)


def pack(cases: Bool[np.ndarray, "N 40"]) -> UInt64[np.ndarray, "N"]:
    """Forty bits in a number."""
    return np.where(cases, _BITS, np.uint64(0)).sum(axis=1, dtype=np.uint64)


def unpack(bits: UInt64[np.ndarray, "N"]) -> Bool[np.ndarray, "N 40"]:
    """The inverse of `pack`."""
    return (bits[:, None] & _BITS) != 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matches:
    """N detections, in the order they came: bits per (threshold, range), see `pack`."""

    matched: UInt64[np.ndarray, "N"]  # took an object
    ignored: UInt64[np.ndarray, "N"]  # counts neither as right nor as wrong


class Matcher:
    """COCO matches of any detections among the candidates of a flat list."""

    def __init__(
        self, flat: Flat, ground_truth: dict[str, Any], *, category_ids: tuple[int, ...]
    ) -> None:
        truth, image_ids = read_ground_truth(ground_truth), flat.source.image_id
        if not np.array_equal(truth.image_ids, image_ids):
            raise ValueError(
                f"{len(image_ids)} images were scored, but the ground truth has "
                f"{len(truth.image_ids)}, or others"
            )
        self.flat = flat
        box = xywh(flat.original)
        self.outside = _outside(box[:, 2] * box[:, 3])
        self._objects(truth, image_ids, category_ids)
        self._pairs(box)

    def _objects(
        self, truth: GroundTruth, image_ids: np.ndarray, category_ids: tuple[int, ...]
    ) -> None:
        """Objects sorted by image and class, in the order of the annotations within."""
        label_of = {int(category): label for label, category in enumerate(category_ids)}
        label = np.array([label_of.get(int(c), -1) for c in truth.category_id], np.int64)
        if (label < 0).any():
            category = truth.category_id[np.argmax(label < 0)]
            raise ValueError(f"category id {category} of the ground truth is no class of the run")
        image = np.searchsorted(image_ids, truth.image_id)
        key = image * self.flat.classes + label
        order = np.argsort(key, kind="stable")
        self._key, self._box, self._area = key[order], truth.box[order], truth.area[order]
        self._crowd = truth.crowd[order]
        self._ignore = (_outside(self._area) | self._crowd[:, None])[:, RANGE_OF]
        # Objects that count, of every class and range.
        self.objects = np.zeros((self.flat.classes, len(RANGES)), np.int64)
        counted = ~(_outside(self._area) | self._crowd[:, None])
        np.add.at(self.objects, label[order], counted)

    def _pairs(self, box: Float[np.ndarray, "N 4"]) -> None:
        """Of every candidate the objects with IoU >= .5: by falling IoU, the later of equals first.

        CSR: those of candidate n are `_start[n] : _start[n + 1]` of `_object` and `_passed`, the
        number of thresholds that the IoU reaches.
        """
        key = self.flat.image * self.flat.classes + self.flat.label
        low = np.searchsorted(self._key, key, "left")
        count = np.searchsorted(self._key, key, "right") - low
        rows, objects, overlaps = [], [], []
        for row, column in ragged_blocks(low, count, most=_BLOCK):
            overlap = _iou(box[row], self._box[column], self._crowd[column])
            close = overlap >= THRESHOLDS[0]
            rows.append(row[close])
            objects.append(column[close])
            overlaps.append(overlap[close])
        row, column, overlap = (
            np.concatenate(parts) if parts else np.zeros(0, kind)
            for parts, kind in ((rows, np.int64), (objects, np.int64), (overlaps, np.float64))
        )
        order = np.lexsort((-column, -overlap, row))
        self._start = np.searchsorted(row, np.arange(len(count) + 1))
        self._object = column[order]
        self._passed = np.searchsorted(THRESHOLDS, overlap[order], "right")
        self.contends = np.diff(self._start) > 0

    def __call__(self, detections: Int[np.ndarray, "N"]) -> Matches:
        """Match detections, given by their numbers, ascending.

        A match depends on the better detections of its group only: groups may be left out, and
        so may the last detections of a group.
        """
        ignored = np.zeros((len(detections), CASES), bool)
        matched = np.zeros((len(detections), CASES), bool)
        outside = self.outside[detections][:, RANGE_OF]
        rows = np.flatnonzero(self.contends[detections])
        turn = rank_within(self.flat.group[detections[rows]])
        taken = np.zeros((len(self._key), CASES), bool)
        for number in range(int(turn.max(initial=-1)) + 1):
            now = rows[turn == number]
            matched[now], ignored[now] = self._take(detections[now], taken)
        ignored |= ~matched & outside
        return Matches(matched=pack(matched), ignored=pack(ignored))

    def _take(
        self, candidates: Int[np.ndarray, "N"], taken: Bool[np.ndarray, "G 40"]
    ) -> tuple[Bool[np.ndarray, "N 40"], Bool[np.ndarray, "N 40"]]:
        """One detection of each (image, class) takes its object; `taken` is changed.

        Returns which took one, and whose object is one that is ignored.
        """
        start, stop = self._start[candidates], self._start[candidates + 1]
        slots = np.arange((stop - start).max())
        at = np.minimum(start[:, None] + slots, stop[:, None] - 1)
        objects = self._object[at]
        there = slots < (stop - start)[:, None]
        reached = (self._passed[at][:, :, None] > THRESHOLD_OF) & there[:, :, None]
        free = reached & (~taken[objects] | self._crowd[objects][:, :, None])
        # The first among equals: an object that counts, in the order of IoU, else an ignored one.
        worth = np.where(free, np.where(self._ignore[objects], 1, 2), 0).astype(np.int8)
        place = worth.argmax(axis=1)
        best = np.take_along_axis(worth, place[:, None, :], axis=1)[:, 0]
        row, case = np.nonzero(best)
        taken[objects[row, place[row, case]], case] = True
        return best > 0, best == 1


def rank_within(group: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """How many equal values come before each; equal values must stand together."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))


def _outside(area: Float[np.ndarray, "N"]) -> Bool[np.ndarray, "N 4"]:
    return (area[:, None] < RANGES[:, 0]) | (area[:, None] > RANGES[:, 1])


def _iou(
    box: Float[np.ndarray, "P 4"], truth: Float[np.ndarray, "P 4"], crowd: Bool[np.ndarray, "P"]
) -> Float[np.ndarray, "P"]:
    """Of x, y, w, h boxes; in a crowd region the share of the box that lies inside."""
    high = np.minimum(box[:, :2] + box[:, 2:], truth[:, :2] + truth[:, 2:])
    side = np.maximum(high - np.maximum(box[:, :2], truth[:, :2]), 0.0)
    inside = side[:, 0] * side[:, 1]
    area = box[:, 2] * box[:, 3]
    union = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - inside)
    return np.where(inside > 0, inside / np.where(union > 0, union, 1.0), 0.0)
