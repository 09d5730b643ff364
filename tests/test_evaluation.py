import builtins
import json
import logging

import numpy as np
import pytest

from anchors_jax import evaluation
from anchors_jax.evaluation import DetectionTable, coco_metrics, voc_metrics
from anchors_jax.evaluation.coco import BACKENDS
from benchmarks.synthetic import detection_problem
from tests.detection_cases import (
    ONE,
    SUMMARY,
    TRUTH,
    backends,
    golden,
    read_golden,
    table_of,
    truth_of,
)


@backends
@golden
def test_golden_coco(case, backend, capfd):
    truth, table = read_golden(case)
    metrics = coco_metrics(truth, table, backend=backend)
    assert metrics["backend"] == backend
    np.testing.assert_allclose(
        [metrics[key] for key in SUMMARY], case.arrays["out_stats"], rtol=0, atol=1e-6
    )
    classes = {c["id"]: c["name"] for c in truth["categories"]}
    names = [classes[k] for k in case.params["categories"]]
    for key, reference in (
        ("per_class", case.arrays["out_ap_per_class"][:, 0]),
        ("per_class_AP50", case.arrays["out_ap50_per_class"]),
    ):
        got = [metrics[key][name] for name in names]
        np.testing.assert_allclose(got, reference, rtol=0, atol=1e-6)
    for key, row in (("AP50", 0), ("AP75", 5)):
        curves = metrics["curves"][key]["per_class"]
        for name, reference in zip(names, case.arrays["out_precision"][row].T, strict=True):
            if (reference < 0).all():
                assert name not in curves
            else:
                np.testing.assert_allclose(curves[name], reference, rtol=0, atol=1e-6)
    assert capfd.readouterr() == ("", "")


@golden
def test_golden_recall_of_every_size_and_limit(case):
    truth, table = read_golden(case)
    reference = case.arrays["out_recall"]
    metrics = coco_metrics(truth, table)
    for m, key in enumerate(("AR1", "AR10", "AR100")):
        defined = reference[:, :, 0, m]
        assert metrics[key] == pytest.approx(defined[defined > -1].mean(), abs=1e-6)


def test_backends_agree_on_a_crowded_problem():
    truth, table = detection_problem(
        images=20, detections_per_image=130, objects_per_image=12, classes=2, seed=3
    )
    table = DetectionTable(
        image_id=table.image_id,
        category_id=table.category_id,
        box=table.box,
        score=np.round(table.score, 1),  # ties
    )
    a, b = (coco_metrics(truth, table, backend=backend) for backend in BACKENDS)
    assert a.pop("backend") != b.pop("backend")
    for key in (*SUMMARY, "per_class", "per_class_AP50"):
        assert a[key] == pytest.approx(b[key], abs=1e-12), key
    for key in ("AP50", "AP75"):
        np.testing.assert_allclose(a["curves"][key]["mean"], b["curves"][key]["mean"], atol=1e-12)
    assert 0 < a["AP"] < 1


@backends
@golden
def test_ground_truth_fed_back_is_perfect(case, backend):
    truth, _ = read_golden(case)
    table = evaluation.truth_as_detections(truth)
    metrics = coco_metrics(truth, table, backend=backend)
    assert [metrics[key] for key in ("AP", "AP50", "AR100")] == [ONE] * 3

    # VOC has no second choice: of two objects with one box, the second is never found.
    distinct = {(a["image_id"], a["category_id"], *a["bbox"]): a for a in truth["annotations"]}
    truth = {**truth, "annotations": list(distinct.values())}
    table = evaluation.truth_as_detections(truth)
    assert voc_metrics(truth, table, rule="area")["AP"] == ONE


@backends
def test_no_detection_is_zero_and_no_ground_truth_is_undefined(backend):
    metrics = coco_metrics(TRUTH, evaluation.empty_table(), backend=backend)
    assert metrics["AP"] == metrics["AP50"] == metrics["AR100"] == 0.0
    assert metrics["APs"] == 0.0  # one object is small
    assert voc_metrics(TRUTH, evaluation.empty_table())["AP"] == 0.0

    without = {**TRUTH, "annotations": []}
    metrics = coco_metrics(without, table_of([7, 2, 0, 0, 5, 5, 0.5]), backend=backend)
    assert {metrics[key] for key in SUMMARY} == {-1.0}
    assert metrics["curves"]["AP50"] == {"mean": [], "per_class": {}}
    assert voc_metrics(without, table_of([]))["AP"] == -1.0

    nothing = {"images": [], "categories": [], "annotations": []}
    assert coco_metrics(nothing, evaluation.empty_table(), backend=backend)["AP"] == -1.0


@backends
def test_a_class_without_objects_is_left_out_of_the_mean(backend):
    truth = truth_of((7, 5, 10, 10, 40, 40))
    table = table_of([[7, 5, 10, 10, 50, 50, 0.9], [7, 2, 0, 0, 5, 5, 0.99]])
    metrics = coco_metrics(truth, table, backend=backend)
    assert metrics["AP"] == ONE
    assert metrics["per_class"] == {"name 2": -1.0, "name 5": ONE}


@backends
def test_an_annotation_with_id_zero_counts(backend):
    truth = truth_of((7, 2, 10, 10, 40, 40))
    assert truth["annotations"][0]["id"] == 0
    assert coco_metrics(truth, table_of([7, 2, 10, 10, 50, 50, 0.9]), backend=backend)["AP"] == ONE


@backends
def test_the_area_field_decides_the_size_of_an_object(backend):
    truth = truth_of((7, 2, 10, 10, 40, 40))
    table = table_of([7, 2, 10, 10, 50, 50, 0.9])
    metrics = coco_metrics(truth, table, backend=backend)
    assert (metrics["APs"], metrics["APm"], metrics["APl"]) == (-1.0, ONE, -1.0)
    truth["annotations"][0]["area"] = 500.0
    metrics = coco_metrics(truth, table, backend=backend)
    assert (metrics["APs"], metrics["APm"], metrics["APl"]) == (ONE, -1.0, -1.0)
    del truth["annotations"][0]["area"]
    assert coco_metrics(truth, table, backend=backend)["APm"] == ONE


@backends
def test_crowd_regions_absorb_detections(backend):
    truth = truth_of((7, 2, 10, 10, 20, 20), (7, 2, 50, 50, 40, 40, True))
    inside = [[7, 2, 52 + n, 52, 60 + n, 60, 0.95] for n in range(5)]
    metrics = coco_metrics(truth, table_of([*inside, [7, 2, 10, 10, 30, 30, 0.5]]), backend=backend)
    assert metrics["AP"] == ONE
    assert metrics["objects"] == 1


@backends
def test_class_agnostic_recall_for_proposals(backend):
    table = table_of([[7, 5, 10, 10, 50, 50, 0.9], [30, 2, 5, 5, 65, 65, 0.8]])  # wrong classes
    assert coco_metrics(TRUTH, table, backend=backend)["AR100"] == 0.0
    metrics = coco_metrics(
        TRUTH, table, backend=backend, class_agnostic=True, max_detections=(1, 300), curves=False
    )
    assert metrics["AR300"] == pytest.approx(2 / 3)
    assert metrics["AR1"] == pytest.approx(2 / 3)
    assert "AR100" not in metrics
    assert "curves" not in metrics


def test_metrics_are_plain_json():
    table = table_of([7, 2, 10, 10, 50, 50, 0.9])
    for metrics in (coco_metrics(TRUTH, table), voc_metrics(TRUTH, table)):
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
        assert type(metrics["AP"]) is float


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([7, 2, 10, 10, 50, 50, np.nan], r"detection 1 of image id 7: score nan is not finite"),
        ([7, 2, 10, 10, 50, 50, np.inf], r"image id 7: score inf"),
        ([30, 2, 10, np.nan, 50, 50, 0.5], r"image id 30: box \[.*nan.*\] is not finite"),
        ([7, 2, 10, 10, 5, 50, 0.5], r"image id 7: box .* negative side"),
        ([8, 2, 10, 10, 50, 50, 0.5], r"image id 8 is not in the ground truth; 1 of 2"),
        ([7, 3, 10, 10, 50, 50, 0.5], r"category id 3 \(image id 7\) is not in the ground truth"),
    ],
)
@pytest.mark.parametrize("metric", [coco_metrics, voc_metrics])
def test_bad_detections_are_named(metric, row, message):
    with pytest.raises(ValueError, match=message):
        metric(TRUTH, table_of([[7, 2, 0, 0, 9, 9, 0.1], row]))


def test_bad_ground_truth_is_named():
    none = evaluation.empty_table()
    for truth, message in (
        ({"images": []}, "no list 'categories'"),
        (truth_of((8, 2, 0, 0, 5, 5)), "annotation 0: image_id 8"),
        (truth_of((7, 3, 0, 0, 5, 5)), "annotation 0: category_id 3"),
        (truth_of((7, 2, 0, np.nan, 5, 5)), "annotation 0 of image id 7: box or area"),
        (truth_of(images=(7, 7)), "image id 7 occurs twice"),
        ({**TRUTH, "annotations": [{"id": 4, "image_id": 7}]}, "annotation 4: KeyError"),
        ({**TRUTH, "categories": [{"id": 2, "name": "a"}, {"id": 5, "name": "a"}]}, "share a name"),
    ):
        with pytest.raises(ValueError, match=message):
            coco_metrics(truth, none)
    for settings in ({"backend": "other"}, {"max_detections": (10, 1)}, {"max_detections": ()}):
        with pytest.raises(ValueError, match=r"max_detections|backend"):
            coco_metrics(TRUTH, none, **settings)
    for settings in ({"rule": "other"}, {"iou": 0.0}):
        with pytest.raises(ValueError, match=r"rule|iou"):
            voc_metrics(TRUTH, none, **settings)


def test_missing_hotcoco_falls_back_with_a_warning(monkeypatch, caplog):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "hotcoco":
            raise ImportError("no wheel")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with caplog.at_level(logging.WARNING):
        metrics = coco_metrics(TRUTH, evaluation.empty_table())
    assert metrics["backend"] == "pycocotools"
    assert "hotcoco cannot be imported (no wheel)" in caplog.text
