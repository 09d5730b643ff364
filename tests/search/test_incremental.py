"""Masked NMS against a slow loop, and incremental evaluation against evaluating everything."""

import dataclasses

import numpy as np
import pytest
from candidate_sets import CATEGORY_IDS, LAYOUT, greedy_nms, random_set, random_truth

from anchors_jax.evaluation import coco_metrics
from anchors_jax.search.accumulation import METRICS
from anchors_jax.search.candidates import DetectRule
from anchors_jax.search.incremental import Evaluator
from anchors_jax.search.suppression import Suppressor, _suppress

SUBSETS = [(), (0,), (1, 3), (0, 1, 2), (0, 2, 3, 4), (0, 1, 2, 3, 4)]
TIGHT = DetectRule(top_k=9, max_detections=12, iou_threshold=0.4)


def keep_of(removed, rows):
    return np.broadcast_to(LAYOUT.keep_mask(removed), (rows, LAYOUT.size))


@pytest.mark.parametrize("rule", [None, TIGHT], ids=["all", "top_k"])
@pytest.mark.parametrize("ties", [False, True])
def test_masked_nms_is_the_slow_loop(rule, ties):
    candidates = random_set(1, rule=rule, ties=ties)
    suppress = Suppressor(candidates)
    images = np.arange(len(candidates.count))
    for removed in SUBSETS:
        found = suppress(images, keep_of(removed, len(images)))
        for image in images:
            row = found[image]
            assert row[row >= 0].tolist() == greedy_nms(candidates, image, set(removed)), removed
            assert (row[np.count_nonzero(row >= 0) :] == -1).all()


def test_rows_may_mix_images_and_configurations():
    candidates = random_set(2, images=9)
    suppress = Suppressor(candidates)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 9, 40)
    chosen = [SUBSETS[n] for n in rng.integers(0, len(SUBSETS), 40)]
    found = suppress(images, np.stack([LAYOUT.keep_mask(removed) for removed in chosen]))
    for row, image, removed in zip(found, images, chosen, strict=True):
        assert row[row >= 0].tolist() == greedy_nms(candidates, image, set(removed))
    assert suppress(images[:0], keep_of((), 0)).shape == (0, 20)


def test_one_program_serves_all_configurations():
    candidates = random_set(3)
    suppress = Suppressor(candidates)
    images = np.arange(len(candidates.count))
    suppress(images, keep_of((), len(images)))
    before = _suppress._cache_size()
    for removed in SUBSETS:
        suppress(images[:5], keep_of(removed, 5))
    assert _suppress._cache_size() == before


def test_images_of_all_sizes():
    candidates = random_set(4, images=8, slots=200)
    assert len(Suppressor(candidates)._groups) > 1
    found = Suppressor(candidates)(np.arange(8), keep_of((1,), 8))
    for image in range(8):
        row = found[image]
        assert row[row >= 0].tolist() == greedy_nms(candidates, image, {1})


def evaluators(seed, **options):
    candidates = random_set(seed, images=30, **options)
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
            np.testing.assert_array_equal(one.detections, other.detections)
            np.testing.assert_array_equal(one.matched, other.matched)
            np.testing.assert_array_equal(one.ignored, other.ignored)
            parent = child


def test_only_images_that_lose_a_detection_are_run():
    _, _, evaluate = evaluators(10)
    owners = evaluate.owners(evaluate.state(frozenset()))
    for anchor in range(LAYOUT.size):
        before = evaluate.work.images
        evaluate(frozenset({anchor}), frozenset())
        assert evaluate.work.images - before == (owners == anchor).any(axis=1).sum()


@pytest.mark.parametrize("removed", [(), (1, 3)])
def test_metrics_are_those_of_the_evaluation_package(removed):
    _, truth, evaluate = evaluators(5)
    removed = frozenset(removed)
    table = evaluate.table(removed)
    metrics = coco_metrics(truth, table, curves=False)
    assert metrics["detections"] > 50
    np.testing.assert_allclose(evaluate(removed), [metrics[name] for name in METRICS], atol=1e-9)


def test_cocos_limit_per_class_holds_where_more_are_detected():
    rule = DetectRule(top_k=1000, max_detections=150, iou_threshold=0.99)
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
    images = evaluate.work.images
    assert evaluate(frozenset({2}), frozenset()) == base
    assert evaluate.work.images == images
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
