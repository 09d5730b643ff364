"""Matching and accumulation give COCO's numbers: the golden cases, and hotcoco on others."""

import dataclasses

import numpy as np
import pytest
from candidate_sets import set_of_table
from detection_cases import golden, read_golden, table_of, truth_of

from anchors_jax import evaluation
from anchors_jax.evaluation import DetectionTable, coco_metrics
from anchors_jax.search.accumulation import METRICS, Accumulator
from anchors_jax.search.flat import flatten
from anchors_jax.search.matching import Matcher, pack, rank_within, unpack
from benchmarks.synthetic import detection_problem


def matcher_of(truth, table, images, categories):
    flat = flatten(set_of_table(table, images, categories), classes=len(categories))
    return Matcher(flat, truth, category_ids=categories)


def metrics_of(truth, table):
    """Our metrics of a table; COCO's limit of 100 per image and class is applied."""
    images = sorted(image["id"] for image in truth["images"])
    categories = tuple(sorted(category["id"] for category in truth["categories"]))
    matcher = matcher_of(truth, table, images, categories)
    everything = np.arange(len(matcher.flat.label))
    chosen = everything[rank_within(matcher.flat.group) < 100]
    matches = matcher(chosen)
    shuffled = np.random.default_rng(0).permutation(len(chosen))
    return Accumulator(matcher)(
        chosen[shuffled], matches.matched[shuffled], matches.ignored[shuffled]
    )


def reference(truth, table):
    metrics = coco_metrics(truth, table, curves=False)
    return [metrics[name] for name in METRICS]


@golden
def test_golden(case):
    truth, table = read_golden(case)
    got = metrics_of(truth, table)
    np.testing.assert_allclose(got, case.arrays["out_stats"][: len(METRICS)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_crowded_problems_with_ties_and_crowds(seed):
    truth, table = detection_problem(
        images=25, detections_per_image=130, objects_per_image=12, classes=2 + seed, seed=seed
    )
    table = dataclasses.replace(table, score=np.round(table.score, 1 + seed))
    np.testing.assert_allclose(metrics_of(truth, table), reference(truth, table), atol=1e-9)


def test_perfect_detections_and_none():
    truth, _ = detection_problem(images=10, classes=3, seed=4)
    table = evaluation.truth_as_detections(truth)
    np.testing.assert_allclose(metrics_of(truth, table), reference(truth, table), atol=1e-9)
    none = evaluation.empty_table()
    np.testing.assert_allclose(metrics_of(truth, none), reference(truth, none), atol=1e-9)


def test_sizes_without_objects_are_undefined():
    truth = truth_of((7, 2, 10, 10, 40, 40), (30, 5, 5, 5, 60, 60))
    table = table_of([[7, 2, 10, 10, 50, 50, 0.9], [30, 5, 5, 5, 40, 65, 0.8]])
    got = metrics_of(truth, table)
    np.testing.assert_allclose(got, reference(truth, table), atol=1e-12)
    assert got[3] == -1.0
    assert metrics_of({**truth, "annotations": []}, table) == (-1.0,) * 6


def test_equal_overlaps_take_the_later_object_and_crowds_are_shared():
    # Two equal objects, then a crowd around; four detections of the same box.
    truth = truth_of(
        (7, 2, 10, 10, 20, 20), (7, 2, 10, 10, 20, 20), (7, 2, 0, 0, 60, 60, 1), images=(7,)
    )
    boxes = [[7, 2, 10, 10, 30, 30, score] for score in (0.9, 0.8, 0.7, 0.6)]
    table = table_of(boxes)
    np.testing.assert_allclose(metrics_of(truth, table), reference(truth, table), atol=1e-12)
    images, categories = [7], (2, 5)
    matches = matcher_of(truth, table, images, categories)(np.arange(4))
    assert unpack(matches.matched)[:, 0].all()
    assert unpack(matches.ignored)[:, 0].tolist() == [False, False, True, True]


def test_bits_return():
    cases = np.random.default_rng(0).random((50, 40)) < 0.5
    np.testing.assert_array_equal(unpack(pack(cases)), cases)


def test_what_does_not_fit_is_named():
    truth = truth_of((7, 2, 10, 10, 40, 40))
    table = DetectionTable(
        image_id=np.array([7]),
        category_id=np.array([2]),
        box=np.zeros((1, 4), np.float32),
        score=np.ones(1, np.float32),
    )
    with pytest.raises(ValueError, match="1 images were scored, but the ground truth has 2"):
        matcher_of(truth, table, [7], (2,))
    flat = flatten(set_of_table(table, [7, 30], (2,)), classes=1)
    with pytest.raises(ValueError, match="category id 2 of the ground truth is no class"):
        Matcher(flat, truth, category_ids=(5,))
