import numpy as np
import pytest

from anchors_jax import evaluation
from anchors_jax.evaluation import DetectionTable, coco_metrics
from benchmarks.synthetic import detection_problem
from tests.detection_cases import SUMMARY, TRUTH, table_of


def test_results_file_round_trip(tmp_path):
    truth, table = detection_problem(images=4, detections_per_image=10, classes=3, seed=2)
    path = tmp_path / "new folder" / "results.json"
    evaluation.write_coco_results(path, table)
    again = evaluation.read_coco_results(path)
    np.testing.assert_array_equal(again.image_id, table.image_id)
    np.testing.assert_array_equal(again.category_id, table.category_id)
    np.testing.assert_allclose(again.box, table.box, atol=2e-6)
    np.testing.assert_array_equal(again.score, table.score.astype(np.float64))
    assert coco_metrics(truth, again)["AP"] == coco_metrics(truth, table)["AP"]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_bad_results_files_are_named(tmp_path):
    path = tmp_path / "results.json"
    for text, message in (
        ("[{", "results.json: not JSON"),
        ("{}", "results.json: COCO results are a list"),
        ('[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 1}]', "detection 0"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "detection 0: needs .*category_id"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            evaluation.read_coco_results(path)


def test_to_original_undoes_the_resize_and_clips():
    boxes = np.array([[0, 0, 20, 30], [-10, 60, 250, 90]], np.float32)
    np.testing.assert_allclose(
        evaluation.to_original(boxes, (2.0, 3.0)), [[0, 0, 10, 10], [-5, 20, 125, 30]]
    )
    np.testing.assert_allclose(
        evaluation.to_original(boxes, np.array([2, 3], np.float32), (25, 100)),
        [[0, 0, 10, 10], [0, 20, 100, 25]],
    )
    assert evaluation.to_original(boxes, (2.0, 3.0)).dtype == np.float32
    with pytest.raises(ValueError, match="scale"):
        evaluation.to_original(boxes, (0.0, 1.0))


def test_from_batch_drops_padding_and_maps_labels():
    boxes = np.tile(np.array([2, 3, 40, 60], np.float32), (3, 2, 1))
    boxes[0, 1] = np.nan  # an invalid slot may hold anything
    table = evaluation.from_batch(
        boxes=boxes,
        scores=np.full((3, 2), 0.5, np.float32),
        labels=np.array([[1, 99], [0, 1], [0, 0]]),
        valid=np.array([[True, False], [True, True], [True, True]]),
        image_id=np.array([7, 30, -1]),
        scale=np.array([[2, 3], [1, 1], [1, 1]], np.float32),
        category_ids=[2, 5],
        original_size=np.array([[15, 100], [50, 30], [1, 1]]),
    )
    np.testing.assert_array_equal(table.image_id, [7, 30, 30])
    np.testing.assert_array_equal(table.category_id, [5, 2, 5])
    np.testing.assert_array_equal(table.box, [[1, 1, 20, 15], [2, 3, 30, 50], [2, 3, 30, 50]])
    both = evaluation.concatenate([table, evaluation.empty_table(), table[:1]])
    assert len(both) == 4
    assert len(evaluation.concatenate([])) == 0


def test_table_columns_must_agree():
    with pytest.raises((ValueError, TypeError)):
        DetectionTable(
            image_id=np.zeros(2, int), category_id=np.zeros(2, int),
            box=np.zeros((3, 4)), score=np.zeros(2),
        )  # fmt: skip


def test_format_table():
    table = table_of([[7, 2, 10, 10, 50, 50, 0.9]])
    text = evaluation.format_table(coco_metrics(TRUTH, table))
    head, numbers, *rest = text.splitlines()
    assert head.split() == SUMMARY[:6]
    # The medium object of one class is found; the small and the medium one of the other are not.
    assert numbers.split() == ["50.0", "50.0", "50.0", "0.0", "50.0", "-"]
    assert any(line.split() == ["name", "2", "100.0", "100.0"] for line in rest)
    assert rest[-1] == "2 images, 3 objects, 1 detections"
    many = {"AP": 0.5, "per_class": {f"c{n}": n / 40 for n in range(40)}}
    text = evaluation.format_table(many)
    assert "c39" in text
    assert "c20" not in text
    assert "..." in text
