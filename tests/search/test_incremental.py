"""Masked NMS against a slow loop, and incremental evaluation against evaluating everything."""

import dataclasses

import numpy as np
import pytest
from candidate_sets import CATEGORY_IDS, LAYOUT, greedy_nms, random_set, random_truth

from anchors_jax.evaluation import coco_metrics
from anchors_jax.nms import Rule
from anchors_jax.search.accumulation import METRICS
from anchors_jax.search.incremental import Evaluator
from anchors_jax.search.suppression import _suppress

SUBSETS = [(), (0,), (1, 3), (0, 1, 2), (0, 2, 3, 4), (0, 1, 2, 3, 4)]
TIGHT = Rule(top_k=9, max_detections=12, iou_threshold=0.4)


def positions(evaluate, removed, image):
    """Ranks of the detections of one image."""
    numbers = evaluate.detections(frozenset(removed))
    return sorted(evaluate.flat.position[numbers[evaluate.flat.image[numbers] == image]].tolist())


@pytest.mark.parametrize("rule", [None, TIGHT], ids=["all", "top_k"])
@pytest.mark.parametrize("ties", [False, True])
def test_masked_nms_is_the_slow_loop(rule, ties):
    candidates, _, evaluate = evaluators(1, rule=rule, ties=ties)
    for removed in SUBSETS:
        for image in range(0, 30, 3):
            expected = greedy_nms(candidates, image, set(removed))
            assert positions(evaluate, removed, image) == expected, (removed, image)


def test_groups_of_all_sizes():
    candidates = random_set(4, images=4, slots=200)
    rare = np.where(np.arange(200) % 40 == 0, 1, np.where(np.arange(200) % 5 == 0, 2, 0))
    candidates = dataclasses.replace(
        candidates, labels=np.where(candidates.scores > 0, rare, 0).astype(np.int32)
    )
    evaluate = Evaluator(candidates, random_truth(candidates, 4), category_ids=CATEGORY_IDS)
    assert len(evaluate._suppress._buckets) > 2
    for image in range(4):
        assert positions(evaluate, {1}, image) == greedy_nms(candidates, image, {1})


def test_one_program_serves_all_configurations():
    _, _, evaluate = evaluators(3)
    evaluate(frozenset())
    before = _suppress._cache_size()
    for removed in SUBSETS:
        evaluate(frozenset(removed), frozenset())
    assert _suppress._cache_size() == before


def test_the_flat_list_holds_every_candidate_once():
    candidates, _, evaluate = evaluators(2)
    flat = evaluate.flat
    assert len(flat.image) == candidates.count.sum()
    for field in ("anchor", "label", "score"):
        whole = getattr(candidates, {"score": "scores", "label": "labels"}.get(field, field))
        np.testing.assert_array_equal(getattr(flat, field), whole[flat.image, flat.position])
    assert (np.diff(flat.image[flat.by_score] * 1000 + flat.position[flat.by_score]) > 0).all()
    assert flat.start[-1] == len(flat.image)
    key = flat.image * 3 + flat.label
    assert (np.diff(key[flat.start[:-1]]) > 0).all()
    np.testing.assert_array_equal(key, key[flat.start[:-1]][flat.group])


def evaluators(seed, *, images=30, **options):
    candidates = random_set(seed, images=images, **options)
    truth = random_truth(candidates, seed)
    return candidates, truth, Evaluator(candidates, truth, category_ids=CATEGORY_IDS)


@pytest.mark.parametrize("rule", [None, TIGHT], ids=["all", "top_k"])
@pytest.mark.parametrize("seed", range(3))
def test_incremental_is_full_evaluation_along_random_paths(seed, rule):
    candidates, truth, evaluate = evaluators(seed, rule=rule, ties=seed == 2)
    full = Evaluator(candidates, truth, category_ids=CATEGORY_IDS, incremental=False)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        parent = frozenset()
        for anchor in rng.permutation(LAYOUT.size)[:4].tolist():
            child = parent | {anchor}
            assert evaluate(child, parent) == full(child)
            one, other = evaluate.state(child), full.state(child)
            np.testing.assert_array_equal(one.kept, other.kept)
            np.testing.assert_array_equal(one.matched, other.matched)
            np.testing.assert_array_equal(one.ignored, other.ignored)
            parent = child


def test_only_groups_that_lose_a_box_are_run():
    _, _, evaluate = evaluators(10)
    flat, kept = evaluate.flat, evaluate.state(frozenset()).kept
    for anchor in range(LAYOUT.size):
        before = evaluate.work.groups
        evaluate(frozenset({anchor}), frozenset())
        losing = np.unique(flat.group[kept[flat.anchor[kept] == anchor]])
        assert evaluate.work.groups - before == len(losing) < flat.groups


@pytest.mark.parametrize("removed", [(), (1, 3)])
def test_metrics_are_those_of_the_evaluation_package(removed):
    _, truth, evaluate = evaluators(5)
    removed = frozenset(removed)
    table = evaluate.table(removed)
    metrics = coco_metrics(truth, table, curves=False)
    assert metrics["detections"] > 50
    np.testing.assert_allclose(evaluate(removed), [metrics[name] for name in METRICS], atol=1e-9)


def test_cocos_limit_per_class_holds_where_more_are_detected():
    rule = Rule(top_k=1000, max_detections=150, iou_threshold=0.99)
    candidates = random_set(6, images=4, slots=300, classes=1, rule=rule)
    truth = random_truth(candidates, 6, classes=1)
    evaluate = Evaluator(candidates, truth, category_ids=(5,))
    metrics = coco_metrics(truth, evaluate.table(frozenset()), curves=False)
    assert metrics["detections"] > 300
    got = evaluate(frozenset())
    np.testing.assert_allclose(got, [metrics[name] for name in METRICS], atol=1e-9)
    child = evaluate(frozenset({2}), frozenset())
    full = Evaluator(candidates, truth, category_ids=(5,), incremental=False)
    assert child == full(frozenset({2}))


def test_what_detects_nothing_is_free_to_remove():
    candidates = random_set(7)
    anchor = np.where(candidates.anchor == 2, 1, candidates.anchor)
    candidates = dataclasses.replace(candidates, anchor=anchor)
    evaluate = Evaluator(candidates, random_truth(candidates, 7), category_ids=CATEGORY_IDS)
    base = evaluate(frozenset())
    groups = evaluate.work.groups
    assert evaluate(frozenset({2}), frozenset()) == base
    assert evaluate.work.groups == groups
    assert evaluate.work.unchanged == 1


def test_no_anchor_left_is_zero_and_no_fault():
    _, _, evaluate = evaluators(8)
    assert evaluate(frozenset(range(LAYOUT.size))) == (0.0,) * 6
    assert len(evaluate.table(frozenset(range(LAYOUT.size)))) == 0


def test_forgotten_states_are_found_again():
    candidates, truth, evaluate = evaluators(9)
    forgetful = Evaluator(candidates, truth, category_ids=CATEGORY_IDS, states=1)
    for anchor in range(LAYOUT.size):
        removed = frozenset({anchor})
        assert forgetful(removed, frozenset()) == evaluate(removed, frozenset())
    with pytest.raises(ValueError, match=r"\[1\] is not part of \[0\]"):
        evaluate(frozenset({0}), frozenset({1}))
