"""A grid of four levels and drawn annotations, for the tests of coverage."""

import numpy as np

from anchors_jax import anchors as grids
from anchors_jax.data import coco
from anchors_jax.search import coverage_boxes, coverage_report

LEVELS = (
    ((10, 7), (8, 20)),
    ((33, 12), (20, 20), (5, 40)),
    (),
    ((90, 50),),
)


def grid(strides=(8, 16, 32, 64), **keywords):
    maps = ((13, 19), (7, 10), (4, 5), (1, 3))
    shapes = grids.explicit(sizes=LEVELS)
    return grids.grid(shapes, maps=maps, strides=strides, canvas=(104, 152), **keywords)


def source(images=6, objects=12, seed=0, crowd=True):
    """Annotations of 104 x 152 pixels in three classes, without any image."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(images * objects):
        side = np.exp(rng.uniform(np.log(4), np.log(60), 2))
        low = rng.uniform(0, np.array([152, 104]) - side)
        rows.append(
            {
                "id": number + 1,
                "image_id": number // objects + 1,
                "category_id": int(rng.integers(1, 4)),
                "bbox": [*low.tolist(), *side.tolist()],
                "iscrowd": int(crowd and number % 10 == 0),
            }
        )
    files = [f"{i}.jpg" for i in range(images)]
    content = {
        "images": [
            {"id": i + 1, "file_name": file, "height": 104, "width": 152}
            for i, file in enumerate(files)
        ],
        "annotations": rows,
        "categories": [{"id": k, "name": f"class {k}"} for k in (1, 2, 3)],
    }
    return coco.from_dict(content, lambda i: b"", where="drawn")


def covered(data):
    boxes = coverage_boxes.network_boxes(data, canvases=((104, 152),), transforms=())
    return coverage_report.cover(boxes, lambda canvas: grid(), divisor=None)
