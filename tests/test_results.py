"""The files of a run: numbers that agree with the table, pictures of the right images."""

import json

import cv2
import numpy as np
import pytest

from anchors_jax import evaluation, results
from anchors_jax.data import folder, images, shapes
from anchors_jax.evaluation import DetectionTable


@pytest.fixture(scope="module")
def source():
    return shapes.shapes(split="validation", num_validation=5, image_size=48)


def table_of(source, *, score=0.9):
    """The truth as detections."""
    rows = source.ground_truth()["annotations"]
    corner = np.array([row["bbox"] for row in rows], np.float64)
    return DetectionTable(
        image_id=np.array([row["image_id"] for row in rows]),
        category_id=np.array([row["category_id"] for row in rows]),
        box=np.concatenate([corner[:, :2], corner[:, :2] + corner[:, 2:]], axis=1),
        score=np.full(len(rows), score),
    )


@pytest.mark.parametrize("found", [True, False])
def test_a_run_leaves_numbers_and_pictures(source, tmp_path, found):
    table = table_of(source) if found else evaluation.empty_table()
    metrics = evaluation.coco_metrics(source.ground_truth(), table)
    results.write(tmp_path / "new" / "run", metrics, source, table, score_threshold=0.3)
    out = tmp_path / "new" / "run"
    assert sorted(path.name for path in out.iterdir()) == sorted(results.WRITTEN)
    assert json.loads((out / "eval.json").read_text())["AP"] == pytest.approx(1.0 if found else 0)
    again = evaluation.read_coco_results(out / "detections.json")
    assert len(again) == len(table)
    np.testing.assert_allclose(again.box, table.box, atol=1e-5)
    for name in (results.PICTURE, results.PRECISION_RECALL):
        assert cv2.imread(str(out / name)) is not None


def test_detections_of_an_image_have_labels_again(source):
    table = table_of(source)
    for index in range(len(source)):
        example = source[index]
        found = results.of_image(table, example.image_id, source.category_ids)
        assert sorted(found.labels.tolist()) == sorted(example.labels.tolist())
    assert len(results.of_image(table, 10**6, source.category_ids).boxes) == 0


def write_image(path, height, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_jpeg(np.full((height, width, 3), 120, np.uint8)))


def test_pictures_of_equal_names_do_not_meet(tmp_path):
    # The second a.jpg has the id 3, and there is an a_3.jpg already.
    files = [tmp_path / name for name in ("a_3.jpg", "one/a.jpg", "two/a.jpg", "b.jpg")]
    for number, file in enumerate(files):
        write_image(file, 20, 21 + number)
    source = folder.folder(files, classes=("cat", "dog"), category_ids=(7, 30))
    table = DetectionTable(
        image_id=np.array([2, 3, 3]),
        category_id=np.array([30, 7, 30]),
        box=np.array([[1.0, 2, 11, 12], [0, 0, 5, 5], [2, 2, 9, 8]]),
        score=np.array([0.9, 0.8, 0.1]),
    )
    out = tmp_path / "out"
    results.write_predictions(out, source, table, score_threshold=0.5)
    widths = sorted(cv2.imread(str(path)).shape[1] for path in out.glob("*.png"))
    assert widths == [21, 22, 23, 24]
    content = json.loads((out / "predictions.json").read_text())
    assert [row["id"] for row in content["annotations"]] == [1, 2, 3]
    assert content["annotations"][0]["bbox"] == [1, 2, 10, 10]
    assert {c["id"]: c["name"] for c in content["categories"]} == {7: "cat", 30: "dog"}
    assert [image["width"] for image in content["images"]] == [21, 22, 23, 24]
    # What is drawn is drawn on its own image: the weak box and the empty images are not.
    touched = {
        path.stem: bool((cv2.imread(str(path)).astype(int) - 120).__abs__().max() > 20)
        for path in out.glob("*.png")
    }
    assert sorted(touched.values()) == [False, False, True, True]
