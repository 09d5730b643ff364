import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from anchors_jax import visualize
from anchors_jax.evaluation import coco_metrics, empty_table
from anchors_jax.visualize.boxes import PALETTE
from benchmarks.synthetic import detection_problem

GREY = np.full((120, 160, 3), 128, np.uint8)


def _boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def _pixels_of(picture, colour):
    return np.argwhere((picture == np.array(colour)).all(-1))


def test_frame_is_where_the_box_is_and_the_image_is_kept():
    before = GREY.copy()
    picture = visualize.draw_boxes(GREY, _boxes([20, 30, 100, 90]), np.array([1]))
    np.testing.assert_array_equal(before, GREY)
    rows, columns = _pixels_of(picture, PALETTE[1]).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 90, 20, 100)
    assert (picture[60, 60] == 128).all()


@pytest.mark.parametrize(
    "box",
    [
        [-50, -40, 400, 300],  # larger than the image
        [150, 110, 159, 119],  # corner: no room right of it or below
        [0, 0, 8, 8],
        [40, 40, 40, 40],  # no size
        [300, 300, 400, 400],  # beyond the image
    ],
)
def test_awkward_boxes_stay_inside(box):
    picture = visualize.draw_boxes(
        GREY, _boxes(box), np.array([0]), np.array([0.5]), ["a rather long class name"]
    )
    assert picture.shape == GREY.shape
    assert len(_pixels_of(picture, PALETTE[0])) > 100  # at least the chip is seen


def test_text_of_a_chip_is_never_cut():
    """A chip in the corner shows as many letters pixels as the same chip in the middle."""
    counts = []
    for box in ([50, 50, 110, 100], [140, 0, 159, 8], [140, 110, 159, 119], [0, 0, 159, 119]):
        picture = visualize.draw_boxes(
            GREY, _boxes(box), np.array([0]), np.array([0.87]), ["cell"], line_width=1
        )
        counts.append(len(_pixels_of(picture, (255, 255, 255))))
    assert min(counts) == max(counts) > 0


def test_chips_do_not_cover_each_other_and_the_best_score_wins():
    boxes = np.tile(_boxes([40, 40, 60, 60]), (30, 1))
    scores = np.linspace(0.1, 0.99, 30)
    labels = np.arange(30)
    picture = visualize.draw_boxes(GREY, boxes, labels, scores, [f"c{n}" for n in range(30)])
    chips = [len(_pixels_of(picture, visualize.class_colour(n))) for n in range(30)]
    assert chips[29] == max(chips)
    assert sum(count > 50 for count in chips) <= 8  # corners of one box


def test_no_boxes_and_bad_boxes():
    picture = visualize.draw_boxes(GREY, np.zeros((0, 4), np.float32), np.zeros(0, int))
    np.testing.assert_array_equal(picture, GREY)
    with pytest.raises(ValueError, match="box 1 to draw is not finite"):
        visualize.draw_boxes(GREY, _boxes([0, 0, 1, 1], [0, 0, np.nan, 1]), np.array([0, 0]))


def test_class_colours_are_valid_and_distinct():
    colours = [visualize.class_colour(n) for n in range(80)]
    assert len(set(colours)) == 80
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def _sample(shape, count=2, seed=0):
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + 15], 1).astype(np.float32)
    labels = np.arange(count) % 3
    image = random.integers(0, 255, (*shape, 3), dtype=np.uint8)
    scores = np.linspace(0.1, 0.9, count)
    return image, visualize.Boxes(boxes, labels, scores), visualize.Boxes(boxes, labels)


def test_grid_of_images_of_different_sizes(tmp_path):
    samples = [_sample((40, 60)), _sample((90, 30), 1), _sample((64, 64), 0), _sample((50, 80), 5)]
    path = tmp_path / "grid.png"
    names = ["first", "second", "third"]
    visualize.detections_beside_truth(samples, names, path, panel_height=100)
    tall = np.asarray(Image.open(path))
    assert tall.shape[0] > 400
    visualize.detections_beside_truth(
        samples, names, path, panel_height=100, pairs_per_row=2, titles=list("abcd")
    )
    wide = np.asarray(Image.open(path))
    assert wide.shape[0] < tall.shape[0]
    assert wide.shape[1] > tall.shape[1]
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_grid_leaves_low_scores_out(tmp_path):
    image, detections, truth = _sample((60, 60), 1)
    empty = visualize.Boxes(truth.boxes[:0], truth.labels[:0])
    pictures = []
    for score in (0.29, 0.3):
        found = detections._replace(scores=np.array([score]))
        visualize.detections_beside_truth([(image, found, empty)], ["x"], tmp_path / "a.png")
        pictures.append(len(_pixels_of(np.asarray(Image.open(tmp_path / "a.png")), PALETTE[0])))
    assert pictures[0] == 0 < pictures[1]


def test_bad_grids_are_named(tmp_path):
    image, _, truth = _sample((60, 60), 1)
    with pytest.raises(ValueError, match=r"a\.png: no image"):
        visualize.detections_beside_truth([], ["x"], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: detections without scores"):
        visualize.detections_beside_truth([(image, truth, truth)], ["x"], tmp_path / "a.png")


def test_grid_of_real_photographs(bccd, tmp_path):
    names = ["RBC", "WBC", "Platelets"]
    file = sorted((bccd / "Annotations").glob("*.xml"))[0]
    objects = list(ElementTree.parse(file).getroot().iter("object"))
    boxes = _boxes(
        *[[float(o.find(f"bndbox/{k}").text) for k in ("xmin", "ymin", "xmax", "ymax")]
          for o in objects]
    )  # fmt: skip
    labels = np.array([names.index(o.find("name").text) for o in objects])
    image = np.asarray(Image.open(bccd / "JPEGImages" / f"{file.stem}.jpg").convert("RGB"))
    found = visualize.Boxes(boxes + 2, labels, np.linspace(0.2, 1, len(boxes)))
    path = tmp_path / "bccd.jpg"
    visualize.detections_beside_truth([(image, found, visualize.Boxes(boxes, labels))], names, path)
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.height > 360


def _not_blank(path):
    return np.asarray(Image.open(path).convert("L")).std() > 5


@pytest.mark.parametrize("classes", [1, 3, 12])
def test_precision_recall_plot(tmp_path, classes):
    truth, table = detection_problem(images=8, classes=classes, detections_per_image=20)
    visualize.precision_recall_plot(coco_metrics(truth, table), tmp_path / "pr.png")
    assert _not_blank(tmp_path / "pr.png")


def test_precision_recall_plot_without_ground_truth(tmp_path):
    truth, _ = detection_problem(images=2, classes=2)
    metrics = coco_metrics({**truth, "annotations": []}, empty_table())
    visualize.precision_recall_plot(metrics, tmp_path / "pr.pdf")
    assert (tmp_path / "pr.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match=r"pr\.pdf: the metrics hold no curves"):
        visualize.precision_recall_plot({"AP": 0.5}, tmp_path / "pr.pdf")


def test_training_curve_from_a_log(tmp_path):
    log = tmp_path / "metrics.jsonl"
    rows = [
        {"step": n, "train/loss": 1 / (n + 1), "train/loss_box": None, "train/lr": 0.01 * (n > 0)}
        for n in range(40)
    ]
    rows += [{"step": 20, "eval/AP": 0.25, "eval/AP/cat": 0.1}, {"note": "no step", "loss": 3.0}]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    visualize.training_curve(log, tmp_path / "run.png")
    assert _not_blank(tmp_path / "run.png")
    visualize.training_curve(rows, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "run.png").read_bytes()
    log.write_text('{"step": 1, "train/other": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no loss"):
        visualize.training_curve(log, tmp_path / "run.png")
    log.write_text('{"step": 1}\n{"st')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not JSON"):
        visualize.training_curve(log, tmp_path / "run.png")
