"""Deterministic detection problems of any size, to time evaluation at the size of val2017."""

from typing import Any

import numpy as np

from anchors_jax.evaluation import DetectionTable


def detection_problem(
    *,
    images: int = 5000,
    detections_per_image: int = 100,
    objects_per_image: int = 7,
    classes: int = 80,
    seed: int = 0,
) -> tuple[dict[str, Any], DetectionTable]:
    """Ground truth in COCO format and detections: about half are objects found with some error.

    The defaults have the size of COCO val2017 with the usual 100 boxes per image: 5,000 images,
    35,000 objects, 500,000 detections, 80 classes. One object in 50 is a crowd region. The same
    arguments give the same problem.
    """
    random = np.random.default_rng(seed)
    size = np.array([640.0, 480.0])
    objects = images * objects_per_image
    corner = random.uniform(0, 0.9, (objects, 2)) * size
    extent = np.minimum(np.exp(random.uniform(2, 6, (objects, 2))), size - corner)
    category = random.integers(1, classes + 1, objects)
    image = np.repeat(np.arange(1, images + 1), objects_per_image)
    crowd = random.random(objects) < 0.02
    ground_truth = {
        "images": [
            {"id": i, "width": 640, "height": 480, "file_name": f"{i:012d}.jpg"}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": k, "name": f"class_{k}"} for k in range(1, classes + 1)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(image[n]),
                "category_id": int(category[n]),
                "bbox": [*corner[n].tolist(), *extent[n].tolist()],
                "area": float(extent[n].prod() * 0.7),
                "iscrowd": int(crowd[n]),
            }
            for n in range(objects)
        ],
    }
    total = images * detections_per_image
    owner = np.repeat(np.arange(images), detections_per_image)
    source = owner * objects_per_image + random.integers(0, objects_per_image, total)
    error = np.where(random.random(total) < 0.5, 0.1, 1.0)[:, None]
    near = corner[source] + error * random.normal(size=(total, 2)) * extent[source]
    shape = extent[source] * np.exp(0.5 * error * random.normal(size=(total, 2)))
    wrong = random.random(total) < 0.3
    return ground_truth, DetectionTable(
        image_id=owner + 1,
        category_id=np.where(wrong, random.integers(1, classes + 1, total), category[source]),
        box=np.concatenate([near, near + shape], 1).clip(0, np.tile(size, 2)).astype(np.float32),
        score=(random.beta(1, 5, total) * (1.2 - error[:, 0] / 2)).astype(np.float32),
    )
