"""The pruning search on synthetic candidates: RetinaNet's 9 shapes on 5 levels, COCO's 80 classes.

Candidates stand around the objects, as those of a trained detector do: a search costs what it costs
on real ones of that number.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from anchors_jax.models.dense_head import DenseHead
from anchors_jax.nms import Rule
from anchors_jax.search import incremental, pareto, tree
from anchors_jax.search.candidates import CandidateSet
from anchors_jax.search.layout import Layout
from benchmarks import synthetic

IMAGES, CLASSES, SLOTS = 500, 80, 1000
CELLS = (100 * 168, 50 * 84, 25 * 42, 13 * 21, 7 * 11)
LAYOUT = Layout(CELLS, (9,) * 5)


def problem(seed: int = 0) -> tuple[CandidateSet, dict[str, Any]]:
    """500 images of 640x480 with 7 objects and 600 to 1000 candidates each."""
    truth, _ = synthetic.detection_problem(
        images=IMAGES, detections_per_image=1, classes=CLASSES, seed=seed
    )
    rng = np.random.default_rng(seed)
    boxes = np.array([a["bbox"] for a in truth["annotations"]])
    labels = np.array([a["category_id"] for a in truth["annotations"]]) - 1
    per_image = len(labels) // IMAGES
    source = rng.integers(0, per_image, (IMAGES, SLOTS)) + per_image * np.arange(IMAGES)[:, None]
    error = np.exp(rng.normal(-2.5, 1.0, source.shape))  # small for most, large for some
    side = boxes[source][..., 2:]
    middle = (
        boxes[source][..., :2] + side / 2 + error[..., None] * rng.normal(0, 1, side.shape) * side
    )
    side = side * np.exp(error[..., None] * rng.normal(0, 1, side.shape))
    wrong = rng.random(source.shape) < 0.3
    label = np.where(wrong, rng.integers(0, CLASSES, source.shape), labels[source])
    score = 0.05 + 0.9 * np.exp(-2 * error) * rng.beta(1, 3, source.shape) * np.where(wrong, 0.5, 1)
    # Larger objects on coarser levels; nine shapes of each.
    level = np.clip(np.log2(np.sqrt(side.prod(-1)) / 32), 0, 4.99).astype(int)
    anchor = 9 * level + rng.integers(0, 9, source.shape)
    order = np.argsort(-score, axis=1)
    count = rng.integers(600, SLOTS + 1, IMAGES)
    filled = np.arange(SLOTS) < count[:, None]

    def column(values: np.ndarray, empty: int, kind: Any) -> np.ndarray:
        return np.where(filled, np.take_along_axis(values, order, 1), empty).astype(kind)

    corners = np.concatenate([middle - side / 2, middle + side / 2], -1)
    corners = np.take_along_axis(corners.clip(0, [640, 480, 640, 480]), order[..., None], 1)
    return CandidateSet(
        boxes=np.where(filled[..., None], corners, 0).astype(np.float32),
        scores=column(score, -1, np.float32),
        labels=column(label, 0, np.int32),
        anchor=column(anchor, LAYOUT.size, np.int32),
        usable=filled,
        count=count,
        image_id=np.arange(1, IMAGES + 1),
        scale=np.ones((IMAGES, 2), np.float32),
        cut=0,
        layout=LAYOUT,
        rule=Rule(),
    ), truth


def pruning() -> Iterator[dict[str, Any]]:
    """One evaluation from nothing, one from its parent, its scoring alone, and a whole search."""
    candidates, truth = problem()
    ids = tuple(range(1, CLASSES + 1))
    begin = time.perf_counter()
    evaluate = incremental.Evaluator(candidates, truth, category_ids=ids)
    yield {"name": "prune: prepare 500 images", "seconds": time.perf_counter() - begin}
    nothing: frozenset[int] = frozenset()
    evaluate(nothing)  # compiles
    full = incremental.Evaluator(candidates, truth, category_ids=ids, incremental=False)
    yield _each("prune: one configuration from nothing", full, nothing)
    yield _each("prune: one configuration from its parent", evaluate, nothing)
    state = evaluate.state(nothing)
    begin = time.perf_counter()
    for _ in range(20):
        evaluate._scored(state.kept, state.matched, state.ignored)
    seconds = (time.perf_counter() - begin) / 20
    yield {"name": f"prune: AP of {len(state.kept)} matched boxes", "seconds": seconds}
    yield _search(candidates, truth, ids)


def _each(name: str, evaluate: incremental.Evaluator, parent: frozenset[int]) -> dict[str, Any]:
    begin = time.perf_counter()
    for anchor in range(0, LAYOUT.size, 3):
        evaluate(frozenset({anchor}), parent)
    seconds = (time.perf_counter() - begin) / (LAYOUT.size / 3)
    return {"name": name, "seconds": seconds, "evaluations_per_second": 1 / seconds}


def _search(candidates: CandidateSet, truth: dict, ids: tuple[int, ...]) -> dict[str, Any]:
    evaluate = incremental.Evaluator(candidates, truth, category_ids=ids)
    known: dict[frozenset[int], pareto.Metrics] = {}
    head = DenseHead(num_classes=CLASSES)

    def rounded(removed: frozenset[int], parent: frozenset[int] | None) -> pareto.Metrics:
        if removed not in known:
            known[removed] = pareto.quantize(evaluate(removed, parent))
        return known[removed]

    def cost(removed: frozenset[int]) -> int:
        return head.multiply_adds(CELLS, LAYOUT.counts(removed), (head.width,) * len(CELLS))

    least = 0.8 * rounded(frozenset(), None)[0]
    begin = time.perf_counter()
    found = tree.tree_search(rounded, cost, tree.shared_moves(LAYOUT), min_map=least)
    seconds = time.perf_counter() - begin
    return {
        "name": f"prune: whole shared search, {len(known)} configurations, "
        f"{len(found.front)} on the front",
        "seconds": seconds,
        "evaluations_per_second": len(known) / seconds,
    }
