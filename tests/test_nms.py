"""Selection of detections: slow references, reference values, ties, thresholds, empty input."""

import functools

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import nms
from anchors_jax.types import Candidates, Detections


def slow_nms(boxes, scores, labels, threshold):
    """Textbook greedy suppression in double precision."""
    boxes = np.asarray(boxes, np.float64)
    order, kept = list(np.argsort(-np.asarray(scores), kind="stable")), []
    while order:
        best = order.pop(0)
        kept.append(best)
        order = [
            i
            for i in order
            if labels[i] != labels[best] or slow_iou(boxes[best], boxes[i]) <= threshold
        ]
    return kept


def slow_iou(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / max(union, 1e-6)


def random_boxes(random, count):
    corner, side = random.uniform(-5, 60, (count, 2)), random.uniform(5, 40, (count, 2))
    return np.concatenate([corner, corner + side], axis=-1).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("threshold", "size"))
def suppress(boxes, scores, labels, valid, threshold, size):
    return nms.class_wise(
        boxes, scores, labels, valid, iou_threshold=threshold, max_detections=size
    )


def kept_by(boxes, scores, labels=None, *, threshold, size=None):
    """Indices that stay, from arrays padded with rubbish."""
    count = len(boxes)
    labels = np.zeros(count, np.int32) if labels is None else labels
    boxes = np.concatenate([boxes, np.full((3, 4), np.nan, np.float32)])
    scores = np.concatenate([scores, np.float32([np.inf, np.nan, 9.0])])
    labels = np.concatenate([labels, np.zeros(3, labels.dtype)])
    valid = np.arange(count + 3) < count
    arrays = (jnp.asarray(array) for array in (boxes, scores, labels, valid))
    kept, used = suppress(*arrays, threshold, size=size or count + 3)
    assert not np.asarray(kept)[~np.asarray(used)].any()
    return np.asarray(kept)[np.asarray(used)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_equals_the_slow_reference(threshold):
    random = np.random.default_rng(0)
    boxes, labels = random_boxes(random, 60), random.integers(0, 3, 60).astype(np.int32)
    scores = random.choice(np.linspace(0.1, 1, 12), 60).astype(np.float32)  # with ties
    expected = slow_nms(boxes, scores, labels, threshold)
    np.testing.assert_array_equal(kept_by(boxes, scores, labels, threshold=threshold), expected)
    best = kept_by(boxes, scores, labels, threshold=threshold, size=5)
    np.testing.assert_array_equal(best, expected[:5])


def test_threshold_is_strict_and_classes_are_separate():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.1], [0, 0, 10, 10]])
    scores, labels = np.float32([0.9, 0.8, 0.7, 0.6]), np.int32([0, 0, 0, 1])
    np.testing.assert_array_equal(kept_by(boxes, scores, labels, threshold=0.5), [0, 1, 3])


top_candidates = jax.jit(nms.top_candidates, static_argnames=("score_threshold", "top_k"))


@functools.partial(jax.jit, static_argnames="keywords")
def _detect(candidates, keywords):
    return nms.Rule(**dict(keywords))(candidates)


def detect(candidates, **keywords):
    return _detect(candidates, tuple(sorted(keywords.items())))


def slow_top(scores, threshold, top_k):
    pairs = [(-s, a, k) for (a, k), s in np.ndenumerate(scores) if s > threshold]
    return [(a, k) for _, a, k in sorted(pairs)[:top_k]]


@pytest.mark.parametrize("top_k", [1, 4, 20, 1000])
def test_two_stages_equal_the_flat_top_k(top_k):
    random = np.random.default_rng(1)
    scores = random.choice(np.float32([0.0, 0.05, 0.1, 0.4, 0.9]), (25, 3))
    valid = random.uniform(size=25) < 0.8
    scores[3] = np.nan
    got = top_candidates(jnp.asarray(scores), jnp.asarray(valid), top_k=top_k)
    used = np.asarray(got.valid)
    expected = slow_top(np.where(valid[:, None], np.nan_to_num(scores), 0), np.float32(0.05), top_k)
    pairs = zip(np.asarray(got.anchor)[used], np.asarray(got.label)[used], strict=True)
    assert [(int(a), int(k)) for a, k in pairs] == expected
    np.testing.assert_array_equal(np.asarray(got.score)[used], [scores[pair] for pair in expected])
    assert not np.asarray(got.score)[~used].any()


def candidates_of(boxes, scores, level_counts=None):
    return Candidates(
        boxes=jnp.asarray(boxes, jnp.float32),
        scores=jnp.asarray(scores, jnp.float32),
        shape=jnp.zeros(len(boxes), jnp.int32),
        level_counts=level_counts or (len(boxes),),
    )


RULES = [
    {},
    {"score": "product"},
    {"rank_by": "class"},
    {"score": "product", "threshold_on": "score"},
    {"threshold_on": "score", "rank_by": "class"},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule.values()) or "default")
@pytest.mark.parametrize("top_k", [7, 60])
def test_thresholds_and_ranks_with_a_quality(rule, top_k):
    random = np.random.default_rng(8)
    counts, boxes = (30, 20), random_boxes(random, 50)
    scores, quality = random.uniform(size=(50, 2)), random.uniform(size=50)
    scores, quality = scores.astype(np.float32), quality.astype(np.float32)
    candidates = candidates_of(boxes, scores, counts).replace(quality=jnp.asarray(quality))
    final = scores * quality[:, None]
    final = final if rule.get("score") == "product" else np.sqrt(final)
    tested = final if rule.get("threshold_on") == "score" else scores
    key = scores if rule.get("rank_by") == "class" else final
    pairs, start = [], 0
    for count in counts:
        level = [
            (-key[a, k], a, k)
            for a in range(start, start + count)
            for k in (0, 1)
            if tested[a, k] > 0.3
        ]
        pairs += [(-final[a, k], a, k) for _, a, k in sorted(level)[:top_k]]
        start += count
    everything = {"iou_threshold": 1.0, "max_detections": 100, "top_k": top_k}
    got = jax.jit(nms.Rule(score_threshold=0.3, **everything, **rule))(candidates)
    used = np.asarray(got.valid)
    np.testing.assert_allclose(
        np.asarray(got.scores)[used], [-s for s, _, _ in sorted(pairs)], rtol=1e-6
    )
    np.testing.assert_array_equal(np.asarray(got.labels)[used], [k for _, _, k in sorted(pairs)])
    np.testing.assert_array_equal(
        np.asarray(got.boxes)[used], boxes[[a for _, a, _ in sorted(pairs)]]
    )


def test_the_best_anchors_of_each_class_whatever_their_level():
    random = np.random.default_rng(9)
    boxes, scores = random_boxes(random, 40), random.uniform(size=(40, 3)).astype(np.float32)
    best = nms.Rule(
        top_k=4,
        top_k_of="class",
        score_threshold=0.9,
        iou_threshold=1.0,
        max_detections=30,
    )
    got = jax.jit(best)(candidates_of(boxes, scores, (30, 10)))
    want = [
        (-scores[a, k], a, k)
        for k in range(3)
        for a in np.argsort(-scores[:, k])[:4]
        if scores[a, k] > 0.9
    ]
    used = np.asarray(got.valid)
    assert used.sum() == len(want)
    np.testing.assert_array_equal(np.asarray(got.scores)[used], [-s for s, _, _ in sorted(want)])
    np.testing.assert_array_equal(np.asarray(got.labels)[used], [k for _, _, k in sorted(want)])


def test_a_quality_that_is_not_a_number_takes_no_part():
    candidates = candidates_of([[0, 0, 9, 9], [20, 0, 29, 9]], [[0.9], [0.4]])
    got = nms.Rule(top_k=1)(candidates.replace(quality=jnp.asarray([jnp.nan, 0.9])))
    np.testing.assert_allclose(np.asarray(got.scores)[np.asarray(got.valid)], [0.6], rtol=1e-6)


def test_detections_are_the_best_of_all_levels_in_order():
    random = np.random.default_rng(2)
    boxes, scores = random_boxes(random, 50), random.uniform(size=(50, 3)).astype(np.float32)
    boxes[7, 2] = boxes[7, 0]  # no area: dropped
    best = nms.Rule(score_threshold=0.3, top_k=20, max_detections=12)
    got = best(candidates_of(boxes, scores, (40, 10)))
    pairs = slow_top(scores[:40], 0.3, 20)
    pairs += [(a + 40, k) for a, k in slow_top(scores[40:], 0.3, 20)]
    pairs = [pair for pair in pairs if pair[0] != 7]
    rows = np.array(pairs)
    kept = slow_nms(boxes[rows[:, 0]], scores[tuple(rows.T)], rows[:, 1], 0.5)[:12]
    assert bool(got.valid.all())
    np.testing.assert_array_equal(got.boxes, boxes[rows[kept, 0]])
    np.testing.assert_array_equal(got.labels, rows[kept, 1])
    np.testing.assert_array_equal(got.scores, scores[tuple(rows[kept].T)])
    one = jax.tree.map(lambda leaf: leaf[None], candidates_of(boxes, scores, (40, 10)))
    batch = one.replace(shape=one.shape[0])
    axes = one.replace(boxes=0, scores=0, shape=None)
    stacked = jax.vmap(best, in_axes=(axes,))(batch)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x: x[0], stacked), got)


def test_nothing_above_the_threshold_gives_only_empty_slots():
    boxes = np.tile(np.float32([0, 0, 9, 9]), (4, 1))
    got = detect(candidates_of(boxes, np.full((4, 2), 0.05, np.float32)), max_detections=6)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(got))
    assert got.boxes.shape == (6, 4)
    two = detect(candidates_of(boxes[:1], [[0.06, 0.4]]), max_detections=6)
    np.testing.assert_array_equal(two.labels[:2], [1, 0])  # one anchor, two classes
    assert int(two.valid.sum()) == 2


def test_voting_without_votes_keeps_the_box():
    point = jnp.asarray([[5.0, 5.0, 5.0, 5.0]])
    detection = Detections(
        boxes=point,
        scores=jnp.asarray([0.9]),
        labels=jnp.asarray([0]),
        valid=jnp.asarray([True]),
    )
    arrays = (point, jnp.asarray([0.9]), jnp.asarray([0]), jnp.asarray([True]))
    np.testing.assert_array_equal(nms.score_voting(detection, *arrays).boxes, point)


@golden_cases.cases("nms")
def test_nms_reference(case):
    for index, threshold in enumerate(case.params["thresholds"]):
        kept = kept_by(case.arrays["in_boxes"], case.arrays["in_scores"], threshold=threshold)
        np.testing.assert_array_equal(kept, case.arrays[f"out_keep_{index}"])


@golden_cases.cases("batched_nms")
def test_class_wise_reference(case):
    boxes, scores, labels = (case.arrays[f"in_{n}"] for n in ("boxes", "scores", "labels"))
    threshold = case.params["iou_threshold"]
    kept = kept_by(boxes, scores, labels, threshold=threshold)
    np.testing.assert_array_equal(kept, case.arrays["out_keep_per_class"])
    if "out_keep_agnostic" in case.arrays:
        kept = kept_by(boxes, scores, threshold=threshold)
        np.testing.assert_array_equal(kept, case.arrays["out_keep_agnostic"])


@golden_cases.cases("multiclass_nms")
def test_multiclass_reference(case):
    arrays, params = case.arrays, case.params
    count, classes = len(arrays["in_boxes"]), params["num_classes"]
    scores = jnp.asarray(arrays["in_scores"][:, :classes])
    pairs = top_candidates(
        scores,
        jnp.ones(count, bool),
        score_threshold=params["score_thr"],
        top_k=count * classes,
    )
    boxes = arrays["in_boxes"].reshape(count, -1, 4)
    boxes = jnp.asarray(np.broadcast_to(boxes, (count, classes, 4)))[pairs.anchor, pairs.label]
    score = pairs.score
    if "in_score_factors" in arrays:
        score = score * jnp.asarray(arrays["in_score_factors"])[pairs.anchor]
    kept, used = suppress(
        boxes, score, pairs.label, pairs.valid, params["iou_threshold"], size=params["max_num"]
    )
    kept = np.asarray(kept)[np.asarray(used)]
    labels, rows = np.asarray(pairs.label)[kept], np.asarray(pairs.anchor)[kept]
    np.testing.assert_array_equal(labels, arrays["out_labels"])
    np.testing.assert_array_equal(rows * classes + labels, arrays["out_index"])
    got = np.concatenate([np.asarray(boxes)[kept], np.asarray(score)[kept, None]], axis=-1)
    np.testing.assert_allclose(got, arrays["out_dets"], rtol=1e-6)


@golden_cases.cases("filter_scores_and_topk")
def test_top_candidates_reference(case):
    scores = jnp.asarray(case.arrays["in_scores"])
    pairs = top_candidates(
        scores,
        jnp.ones(len(scores), bool),
        score_threshold=case.params["score_thr"],
        top_k=case.params["topk"],
    )
    used = np.asarray(pairs.valid)
    for name, got in (("rows", pairs.anchor), ("labels", pairs.label), ("scores", pairs.score)):
        np.testing.assert_array_equal(np.asarray(got)[used], case.arrays[f"out_{name}"])


@golden_cases.cases("score_voting")
def test_score_voting_reference(case):
    arrays, params = case.arrays, case.params
    scores = jnp.sqrt(jnp.asarray(arrays["in_cls_scores"]) * arrays["in_iou_scores"][:, None])
    voting = functools.partial(nms.score_voting, sigma=params["sigma"], min_iou=params["min_iou"])
    best = functools.partial(
        detect,
        score_threshold=params["score_thr"],
        top_k=scores.size,
        iou_threshold=params["iou_threshold"],
        max_detections=params["max_num"],
    )
    candidates = candidates_of(arrays["in_boxes"], scores)
    plain, voted = best(candidates), best(candidates, voting=voting)
    used = np.asarray(plain.valid)

    def table(detections):
        columns = np.asarray(detections.boxes), np.asarray(detections.scores)[:, None]
        return np.concatenate(columns, axis=-1)[used]

    labels = np.asarray(plain.labels)[used]
    np.testing.assert_array_equal(labels, arrays["out_nms_labels"])
    np.testing.assert_allclose(table(plain), arrays["out_nms_dets"], rtol=1e-5, atol=1e-3)
    by_class = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(labels[by_class], arrays["out_voted_labels"])
    np.testing.assert_allclose(
        table(voted)[by_class], arrays["out_voted_dets"], rtol=1e-5, atol=1e-3
    )


def test_proposals_suppress_within_a_level_only():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6], [0, 0, 10, 10], [5, 5, 5, 9]]
    candidates = Candidates(
        boxes=jnp.asarray(boxes, jnp.float32),
        scores=jnp.asarray([[0.9], [0.8], [0.7], [0.95], [0.99]]),
        shape=jnp.zeros(5, jnp.int32),
        level_counts=(3, 2),
    )
    found = nms.propose(candidates, max_proposals=6)
    # The second loses to the first (IoU 0.9), the third does not (0.6); the fifth has no area.
    np.testing.assert_allclose(found.scores, [0.95, 0.9, 0.7, 0, 0, 0])
    np.testing.assert_array_equal(found.boxes[:3], np.float32(boxes)[[3, 0, 2]])
    np.testing.assert_array_equal(found.valid, [True] * 3 + [False] * 3)
    assert not found.labels.any()
    fewer = nms.propose(candidates, per_level=1, max_proposals=2)
    np.testing.assert_allclose(fewer.scores, [0.95, 0.9])
    before = nms.propose(candidates, top_k=2, max_proposals=6)  # the third is not even looked at
    np.testing.assert_array_equal(before.valid.sum(), 2)


def test_boxes_may_differ_by_class():
    boxes = np.float32([[0, 0, 10, 10], [50, 0, 60, 10]])
    scores = np.float32([[0.9, 0.8]])
    by_class = candidates_of(boxes[:1], scores).replace(boxes=jnp.asarray(boxes[None]))
    found = nms.Rule(max_detections=3)(by_class)
    np.testing.assert_array_equal(found.boxes[:2], boxes)
    np.testing.assert_array_equal(found.labels[:2], [0, 1])
    # One box per anchor is the same box for every class.
    alike = by_class.replace(boxes=jnp.broadcast_to(by_class.boxes[:, :1], (1, 2, 4)))
    plain = nms.Rule()(candidates_of(boxes[:1], scores))
    jax.tree.map(np.testing.assert_array_equal, nms.Rule()(alike), plain)
