import numpy as np
import pytest

from anchors_jax.evaluation import voc_metrics
from benchmarks.synthetic import detection_problem
from tests.detection_cases import golden, read_golden, table_of, truth_of


@golden
def test_golden_voc(case):
    names = [name for name in case.arrays if name.startswith("out_voc_")]
    if not names:
        pytest.skip("the case has no VOC values")
    truth, table = read_golden(case)
    classes = {c["id"]: c["name"] for c in truth["categories"]}
    for name in names:
        rule, legacy, iou = name.removeprefix("out_voc_").split("_")
        metrics = voc_metrics(
            truth, table, iou=int(iou) / 100, rule=rule, legacy=legacy == "legacy"
        )
        mean, *reference = case.arrays[name]
        assert metrics["AP"] == pytest.approx(mean, abs=1e-6), name
        for category, value in zip(case.params["categories"], reference, strict=True):
            got = metrics["per_class"][classes[category]]
            if got >= 0:  # a class without objects: -1 here, 0 or NaN elsewhere
                assert got == pytest.approx(value, abs=1e-6), (name, category)


def _slow_voc(truth, table, category, iou, extra):
    """The rules of the development kit, one detection at a time: right and wrong in rank order."""
    order = sorted(np.nonzero(table.category_id == category)[0],
                   key=lambda n: (-table.score[n], table.image_id[n], n))  # fmt: skip
    taken, right, wrong = set(), [], []
    for n in order:
        best, which = -1.0, None
        for m, a in enumerate(truth["annotations"]):
            if a["image_id"] != table.image_id[n] or a["category_id"] != category:
                continue
            x, y, w, h = a["bbox"]
            x0, y0, x1, y1 = table.box[n].astype(float)
            iw = min(x1, x + w) - max(x0, x) + extra
            ih = min(y1, y + h) - max(y0, y) + extra
            inter = max(iw, 0) * max(ih, 0)
            union = (x1 - x0 + extra) * (y1 - y0 + extra) + (w + extra) * (h + extra) - inter
            if inter / union > best:
                best, which = inter / union, m
        if best >= iou and truth["annotations"][which]["iscrowd"]:
            continue
        hit = best >= iou and which not in taken
        taken |= {which} if hit else set()
        right.append(hit)
        wrong.append(not hit)
    return np.cumsum(right), np.cumsum(wrong)


@pytest.mark.parametrize("legacy", [False, True])
def test_voc_against_a_slow_reference(legacy):
    truth, table = detection_problem(
        images=6, detections_per_image=20, objects_per_image=6, classes=2, seed=1
    )
    objects = {k: sum(a["category_id"] == k and not a["iscrowd"] for a in truth["annotations"])
               for k in (1, 2)}  # fmt: skip
    for iou in (0.3, 0.5):
        expected = {}
        for k in (1, 2):
            right, wrong = _slow_voc(truth, table, k, iou, float(legacy))
            precision, recall = right / (right + wrong), right / objects[k]
            points = [max(precision[recall >= t - 1e-9], default=0) for t in np.arange(11) / 10]
            expected[f"class_{k}"] = np.mean(points)
        metrics = voc_metrics(truth, table, iou=iou, legacy=legacy)
        assert metrics["per_class"] == pytest.approx(expected)
        assert metrics["AP"] == pytest.approx(np.mean(list(expected.values())))


def test_voc_eleven_points_by_hand():
    # Ranked: right, wrong, right of 4 objects: precision 1 up to recall 1/4, then 2/3 up to 1/2.
    truth = truth_of(*[(7, 2, 20 * n, 0, 10, 10) for n in range(4)])
    table = table_of(
        [[7, 2, 0, 0, 10, 10, 0.9], [7, 2, 0, 50, 9, 60, 0.8], [7, 2, 20, 0, 30, 10, 0.7]]
    )
    metrics = voc_metrics(truth, table)
    assert metrics["per_class"]["name 2"] == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    area = voc_metrics(truth, table, rule="area")
    assert area["per_class"]["name 2"] == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)


def test_voc_a_second_detection_of_an_object_is_wrong():
    truth = truth_of((7, 2, 0, 0, 10, 10), (30, 2, 0, 0, 10, 10))
    once = [7, 2, 0, 0, 10, 10, 0.9]
    metrics = voc_metrics(truth, table_of([once, once, [30, 2, 0, 0, 10, 10, 0.5]]), rule="area")
    assert metrics["AP"] == pytest.approx(0.5 + 0.5 * 2 / 3)
