"""Who covers whom, against a slow loop; reports of a front."""

import numpy as np
from candidate_sets import CATEGORY_IDS, LAYOUT, iou, random_set, random_truth

from anchors_jax.search import redundancy, report
from anchors_jax.search.incremental import Evaluator
from anchors_jax.search.pareto import Node


def test_cover_is_that_of_a_loop(monkeypatch):
    monkeypatch.setattr(redundancy, "_BLOCK", 200)
    candidates = random_set(11, images=8, slots=40)
    truth = random_truth(candidates, 11)
    evaluate = Evaluator(candidates, truth, category_ids=CATEGORY_IDS)
    flat, nothing = evaluate.flat, frozenset()
    numbers, alive = evaluate.detections(nothing), flat.alive(nothing)
    found = redundancy.redundancy(flat, numbers, alive)
    by, covered = np.zeros((LAYOUT.size, LAYOUT.size), int), np.zeros(LAYOUT.size, int)
    for n in numbers:
        a, others = flat.anchor[n], set()
        for m in np.flatnonzero((flat.group == flat.group[n]) & alive):
            if flat.anchor[m] != a and iou(flat.box[n], flat.box[m]) > 0.5:
                others.add(flat.anchor[m])
        covered[a] += bool(others)
        for b in others:
            by[a, b] += 1
    np.testing.assert_array_equal(found.by, by)
    np.testing.assert_array_equal(found.covered, covered)
    np.testing.assert_array_equal(
        found.detections, np.bincount(flat.anchor[numbers], minlength=LAYOUT.size)
    )
    assert 0 < covered.sum() < len(numbers)
    table = redundancy.table(found, LAYOUT, [f"s{n}" for n in range(LAYOUT.size)])
    assert len(table.splitlines()) == LAYOUT.size + 2


def test_prototypes_without_detections_have_no_share():
    count = np.array([0, 4])
    found = redundancy.Redundancy(
        detections=count, covered=np.array([0, 3]), by=np.array([[0, 0], [3, 0]])
    )
    assert np.isnan(found.share[0])
    assert found.share[1] == 0.75
    assert np.isnan(found.matrix[0]).all()


def test_the_table_compares_with_all_anchors():
    def exact(removed):
        return (0.5 - 0.1 * len(removed), 0.6, 0.4, -1.0, 0.3, 0.2)

    front = (Node(frozenset({0}), (0.4,) * 6, 10), Node(frozenset({0, 3}), (0.3,) * 6, 5))
    extra = {"macs": lambda removed: 20_000_000 - 5_000_000 * len(removed)}
    rows = report.front_rows(front, LAYOUT, exact, extra)
    base = report.front_rows((Node(frozenset(), (0.5,) * 6, 20),), LAYOUT, exact, extra)[0]
    assert rows[1]["kept"] == [[1, 2], [1]]
    assert rows[1]["boxes"] == 16 * 2 + 4
    text = report.markdown(base, rows)
    assert "| all | 3,2 | 50.0 | 60.0 | 40.0 | - |" in text
    assert "| 10.0M | -50.0% |" in text
