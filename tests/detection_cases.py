"""Small detection problems shared by the tests of evaluation, and the golden ones."""

import json

import numpy as np
import pytest
from golden_cases import FOLDER, cases

from anchors_jax import evaluation
from anchors_jax.evaluation import DetectionTable
from anchors_jax.evaluation.coco import BACKENDS

SUMMARY = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
ONE = pytest.approx(1.0)  # COCO's precision is found / (found + 2e-16)
backends = pytest.mark.parametrize("backend", BACKENDS)


golden = cases("coco_eval")


def read_golden(case):
    truth, results = (
        json.loads((FOLDER / case.json_files[key]).read_text()) for key in ("gt", "dt")
    )
    return truth, evaluation.from_coco_results(results)


def table_of(rows):
    """Rows of (image id, category id, x0, y0, x1, y1, score)."""
    rows = np.array(rows, np.float64).reshape(-1, 7)
    return DetectionTable(
        image_id=rows[:, 0].astype(np.int64),
        category_id=rows[:, 1].astype(np.int64),
        box=rows[:, 2:6],
        score=rows[:, 6],
    )


def truth_of(*annotations, images=(7, 30), categories=(2, 5)):
    """Annotations of (image id, category id, x, y, w, h[, iscrowd])."""
    return {
        "images": [{"id": i, "width": 100, "height": 100} for i in images],
        "categories": [{"id": k, "name": f"name {k}"} for k in categories],
        "annotations": [
            {"id": n, "image_id": a[0], "category_id": a[1], "bbox": list(a[2:6]),
             "area": a[4] * a[5], "iscrowd": int(len(a) > 6 and a[6])}
            for n, a in enumerate(annotations)
        ],
    }  # fmt: skip


TRUTH = truth_of((7, 2, 10, 10, 40, 40), (7, 5, 50, 50, 20, 30), (30, 5, 5, 5, 60, 60))
