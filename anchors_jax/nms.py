"""From scored boxes to detections: candidates, exact greedy NMS of fixed size, score voting.

Everything has a static number of slots with a validity mask. Nothing here is approximate: the
results are those of the variable-size algorithms, ties included (the lower index goes first).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import boxes as geometry
from anchors_jax.types import Candidates, Detections


class Pairs(NamedTuple):
    """The best (anchor, class) pairs, best first; invalid slots come last with score 0."""

    anchor: Int[Array, "k"]
    label: Int[Array, "k"]
    score: Float[Array, "k"]
    valid: Bool[Array, "k"]


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    valid: Bool[Array, "N"],
    *,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> tuple[Int[Array, "D"], Bool[Array, "D"]]:
    """Greedy non-maximum suppression: keep the best box, drop all with IoU > threshold, repeat.

    Args:
        boxes: corners in pixels. Boxes without area neither suppress nor are suppressed.
        scores: any real numbers; NaN counts as invalid.
        valid: boxes that take part.
        iou_threshold: IoU strictly above this suppresses.
        max_detections: D, how many to keep.

    Returns:
        Indices of the kept boxes by decreasing score, and which of the D slots are used.
    """
    labels = jnp.zeros(boxes.shape[0], jnp.int32)
    return class_wise(
        boxes, scores, labels, valid, iou_threshold=iou_threshold, max_detections=max_detections
    )


def class_wise(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    labels: Int[Array, "N"],
    valid: Bool[Array, "N"],
    *,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> tuple[Int[Array, "D"], Bool[Array, "D"]]:
    """`nms` in which only boxes of one class suppress each other; the best D over all classes.

    Compares labels instead of moving each class to its own place, which fails for negative
    coordinates and loses precision with many classes.
    """
    slots = jnp.zeros(max_detections, jnp.int32)
    if boxes.shape[0] == 0:
        return slots, slots > 0
    alive = jnp.where(valid & (scores > -jnp.inf), scores, -jnp.inf)

    def best(alive: Array) -> tuple[Array, Array]:
        index = jnp.argmax(alive).astype(jnp.int32)
        return index, alive[index] > -jnp.inf

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, index, _, alive, kept = state
        kept = kept.at[count].set(index)
        overlap = geometry.iou(boxes, lax.dynamic_slice_in_dim(boxes, index, 1))
        drop = (overlap > iou_threshold) & (labels == labels[index])
        drop = drop | (jnp.arange(boxes.shape[0], dtype=jnp.int32) == index)
        alive = jnp.where(drop, -jnp.inf, alive)
        return count + 1, *best(alive), alive, kept

    def more(state: tuple[Array, ...]) -> Array:
        return (state[0] < max_detections) & state[2]

    count, _, _, _, kept = lax.while_loop(more, step, (jnp.int32(0), *best(alive), alive, slots))
    used = jnp.arange(max_detections, dtype=jnp.int32) < count
    return jnp.where(used, kept, 0), used


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """From candidates to detections: best pairs of each level, class-wise NMS, best D, sorted.

    RetinaNet, Section 4.1 "Inference". NMS goes by the final score: the class score, or its product
    with the quality where candidates have one. Sources differ in the last four keywords; the first
    three of them do nothing without a quality.

    Attributes:
        score_threshold: pairs must score strictly more.
        top_k: pairs kept per level (or of what `top_k_of` says).
        iou_threshold: of the suppression, strict.
        max_detections: D.
        min_size: boxes must be wider and higher than this, in pixels.
        voting: `score_voting` with its constants bound, or None.
        score: "geometric": sqrt(class score * quality) (official FCOS, PAA; MMDetection's PAA).
            "product": without the root (FCOS and ATSS in MMDetection). The order is the same.
        threshold_on: what must exceed the threshold: the class score (everywhere but in
            torchvision's FCOS and MMDetection's PAA) or the final score.
        rank_by: what the top_k of a level are chosen by: the final score (official codes) or the
            class score alone (FCOS and ATSS in MMDetection).
        top_k_of: keep the best pairs of a level, or every pair of its best anchors (MMDetection's
            PAA): K times as many boxes for NMS and voting. "class": the best anchors of each class,
            whatever their level (torchvision's SSD).
    """

    score_threshold: float = 0.05
    top_k: int = 1000
    iou_threshold: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    voting: Callable[..., Detections] | None = None
    score: Literal["geometric", "product"] = "geometric"
    threshold_on: Literal["class", "score"] = "class"
    rank_by: Literal["score", "class"] = "score"
    top_k_of: Literal["pairs", "anchors", "class"] = "pairs"

    def final(self, scores: Array, quality: Array | None) -> Array:
        """What a detection is scored with; increasing in both."""
        if quality is None:
            return scores
        product = scores * quality
        return product if self.score == "product" else jnp.sqrt(product)

    def keys(self, scores: Array, quality: Array | None) -> tuple[Array, Array]:
        """Which pairs pass the threshold (NaN does not), and what they are ranked by."""
        final = self.final(scores, quality)
        tested = scores if self.threshold_on == "class" else final
        key = scores if self.rank_by == "class" else final
        return (tested > self.score_threshold) & (final > -jnp.inf), key

    def __call__(self, candidates: Candidates) -> Detections:
        """Detections of one image. Unused slots hold zeros and are invalid."""
        if self.top_k_of == "class":
            pairs = _best_of_classes(candidates.scores, candidates.quality, self)
        else:
            pairs = _best_of_levels(candidates, self)
        boxes = boxes_of(candidates, pairs)
        valid = pairs.valid & jnp.all(geometry.sizes(boxes) > self.min_size, axis=-1)
        kept, used = class_wise(
            boxes,
            pairs.score,
            pairs.label,
            valid,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
        )
        detections = Detections(
            boxes=jnp.where(used[:, None], boxes[kept], 0.0),
            scores=jnp.where(used, pairs.score[kept], 0.0),
            labels=jnp.where(used, pairs.label[kept], 0),
            valid=used,
        )
        if self.voting is None:
            return detections
        return self.voting(detections, boxes, pairs.score, pairs.label, valid)


def boxes_of(candidates: Candidates, pairs: Pairs) -> Float[Array, "k 4"]:
    """The box of every pair: its anchor's, or its anchor's for its class where classes differ."""
    if candidates.boxes.ndim == 2:
        return candidates.boxes[pairs.anchor]
    return candidates.boxes[pairs.anchor, pairs.label]


def top_candidates(
    scores: Float[Array, "A K"],
    valid: Bool[Array, "A"],
    *,
    score_threshold: float = 0.05,
    top_k: int = 1000,
) -> Pairs:
    """The top_k best (anchor, class) pairs with score > threshold; ties in row-major order.

    Two stages: the top_k anchors by their best class, then the top_k pairs among those. Exact: any
    pair of another anchor is beaten by the best pairs of top_k anchors, and tied ones come first
    because their anchor has the lower index.

    Args:
        scores: of every anchor and class, in 0..1.
        valid: anchors that take part.
        score_threshold: scores must lie strictly above it.
        top_k: number of pairs; fewer come back if there are fewer.

    An anchor with a NaN among its scores takes no part.
    """
    peak = jnp.where(valid, jnp.max(scores, axis=-1), -jnp.inf)
    return _best_pairs(scores, None, peak, 0, Rule(score_threshold=score_threshold, top_k=top_k))


def _best_pairs(scores: Array, quality: Array | None, peak: Array, start: int, rule: Rule) -> Pairs:
    """Best pairs of the anchors start.., whose best class scores are `peak`."""
    count, classes = peak.shape[0], scores.shape[1]
    # The class that is best for an anchor is so by every key: all increase with the class score.
    part = None if quality is None else quality[start : start + count]
    passes, key = rule.keys(peak, part)
    highest, chosen = lax.top_k(jnp.where(passes, key, -jnp.inf), min(rule.top_k, count))
    # Ascending anchors make equal pairs come out in row-major order.
    order = jnp.argsort(chosen)
    chosen, highest = chosen[order] + start, highest[order]
    rows, part = scores[chosen], None if quality is None else quality[chosen][:, None]
    passes, key = rule.keys(rows, part)
    usable = passes & (highest > -jnp.inf)[:, None]
    flat = jnp.where(usable, key, -jnp.inf).reshape(-1)
    number = flat.shape[0] if rule.top_k_of == "anchors" else min(rule.top_k, flat.shape[0])
    best, pair = lax.top_k(flat, number)
    used = best > -jnp.inf
    final = rule.final(rows, part).reshape(-1)[pair]
    return Pairs(
        anchor=jnp.where(used, chosen[pair // classes], 0),
        label=jnp.where(used, pair % classes, 0),
        score=jnp.where(used, final, 0.0),
        valid=used,
    )


def _best_of_classes(scores: Array, quality: Array | None, rule: Rule) -> Pairs:
    """Best anchors of each class, over all levels; classes one after another."""
    quality = None if quality is None else quality[:, None]
    passes, key = rule.keys(scores, quality)
    number = min(rule.top_k, scores.shape[0])
    best, anchor = lax.top_k(jnp.where(passes, key, -jnp.inf).T, number)  # [K, number]
    used = best > -jnp.inf
    label = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32)[:, None], best.shape)
    final = jnp.take_along_axis(rule.final(scores, quality).T, anchor, axis=1)
    return Pairs(
        anchor=jnp.where(used, anchor, 0).reshape(-1),
        label=jnp.where(used, label, 0).reshape(-1),
        score=jnp.where(used, final, 0.0).reshape(-1),
        valid=used.reshape(-1),
    )


def _best_of_levels(candidates: Candidates, rule: Rule) -> Pairs:
    """Best pairs of each level; levels one after another."""
    scores, quality = candidates.scores, candidates.quality
    peak = jnp.max(scores, axis=-1)  # of all levels at once: slicing the scores would copy them
    levels, start = [], 0
    for count in candidates.level_counts:
        level = peak[start : start + count]
        levels.append(_best_pairs(scores, quality, level, start, rule))
        start += count
    return Pairs(*(jnp.concatenate(parts) for parts in zip(*levels, strict=True)))


def score_voting(
    detections: Detections,
    boxes: Float[Array, "N 4"],
    scores: Float[Array, "N"],
    labels: Int[Array, "N"],
    valid: Bool[Array, "N"],
    *,
    sigma: float = 0.025,
    min_iou: float = 0.01,
) -> Detections:
    """Move each detection to the mean of the candidates of its class around it.

    Weights are score * exp(-(1 - IoU)^2 / sigma) over candidates with IoU > min_iou (Kim and Lee
    2020, PAA, Eq. 11). A detection without such candidates (one without area) keeps its box.
    """
    overlap = geometry.pairwise(geometry.iou, detections.boxes, boxes)
    votes = (detections.labels[:, None] == labels[None]) & valid[None] & (overlap > min_iou)
    weight = jnp.exp(-jnp.square(1.0 - overlap) / sigma) * scores[None]
    weight = jnp.where(votes, weight, 0.0)
    total = jnp.sum(weight, axis=1, keepdims=True)
    clean = jnp.where(valid[:, None], boxes, 0.0)
    mean = jnp.matmul(weight, clean, precision=lax.Precision.HIGHEST)
    voted = jnp.where(total > 0.0, mean / jnp.where(total > 0.0, total, 1.0), detections.boxes)
    return detections.replace(boxes=jnp.where(detections.valid[:, None], voted, 0.0))


def propose(
    candidates: Candidates,
    *,
    top_k: int = 2000,
    per_level: int | None = None,
    iou_threshold: float = 0.7,
    max_proposals: int = 1000,
    min_size: float = 0.0,
) -> Detections:
    """Region proposals of one image: best boxes of each level, NMS by level, best of all levels.

    Ren et al. 2015 (Faster R-CNN), Section 3.3, over a pyramid as in Lin et al. 2017 (FPN).

    Args:
        candidates: decoded boxes of all anchors, with one score each (K = 1); 0 takes no part.
        top_k: boxes of a level before suppression.
        per_level: boxes of a level after it; None: as many as there are proposals.
        iou_threshold: of the suppression, strict.
        max_proposals: D.
        min_size: boxes must be wider and higher than this, in pixels.
    """
    found, start = [], 0
    for count in candidates.level_counts:
        score, index = lax.top_k(candidates.scores[start : start + count, 0], min(top_k, count))
        boxes = candidates.boxes[start + index]
        valid = (score > 0.0) & jnp.all(geometry.sizes(boxes) > min_size, axis=-1)
        number = min(per_level or max_proposals, boxes.shape[0])
        kept, used = nms(boxes, score, valid, iou_threshold=iou_threshold, max_detections=number)
        found.append((boxes[kept], jnp.where(used, score[kept], 0.0)))
        start += count
    boxes, scores = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    padding = max(max_proposals - scores.shape[0], 0)
    best, index = lax.top_k(jnp.pad(scores, (0, padding)), max_proposals)
    used = best > 0.0
    return Detections(
        boxes=jnp.where(used[:, None], boxes[jnp.where(used, index, 0)], 0.0),
        scores=best,
        labels=jnp.zeros(max_proposals, jnp.int32),
        valid=used,
    )
