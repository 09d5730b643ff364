"""Coverage and clustering of as many boxes as COCO train2017 has: 860,001 in 118,287 images."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from anchors_jax import anchors
from anchors_jax.data import transforms
from anchors_jax.data.annotated import AnnotatedImages
from anchors_jax.data.records import Problems
from anchors_jax.data.table import Objects, tabulate
from anchors_jax.search import clustering, coverage_boxes, coverage_report

IMAGES, OBJECTS, CLASSES = 118_287, 860_001, 80
CANVASES = ((800, 1344), (1344, 800))
STRIDES = (8, 16, 32, 64, 128)


def train2017(*, images: int = IMAGES, objects: int = OBJECTS, seed: int = 0) -> AnnotatedImages:
    """Annotations without images: sides log-normal like COCO's, about 3,000 image sizes."""
    rng = np.random.default_rng(seed)
    long, short = rng.integers(600, 641, images), rng.integers(400, 481, images)
    wide = rng.random(images) < 0.75
    sizes = np.stack([np.where(wide, short, long), np.where(wide, long, short)], 1)
    image = np.sort(rng.integers(0, images, objects))
    limit = sizes[image][:, ::-1].astype(np.float64)
    extent = np.exp(rng.normal(np.log(55), 1.1, (objects, 1)) + rng.normal(0, 0.35, (objects, 2)))
    extent = np.clip(extent, 2.0, limit)
    table = tabulate(
        image_ids=list(range(1, images + 1)),
        files=[f"{i:012d}.jpg" for i in range(images)],
        sizes=sizes,
        objects=Objects(
            image=image,
            xywh=np.concatenate([rng.uniform(0, 1, (objects, 2)) * (limit - extent), extent], 1),
            labels=rng.integers(0, CLASSES, objects).astype(np.int32),
            crowd=rng.random(objects) < 0.01,
            area=np.full(objects, np.nan),
            ids=np.arange(1, objects + 1),
        ),
        classes=[f"class {k}" for k in range(CLASSES)],
        category_ids=range(1, CLASSES + 1),
        where="synthetic train2017",
        problems=Problems(),
    )
    return AnnotatedImages(table, lambda i: b"", where="synthetic", problems=Problems())


def _row(name: str, begin: float) -> dict[str, Any]:
    return {"name": name, "seconds": time.perf_counter() - begin}


def covering() -> Iterator[dict[str, Any]]:
    """Boxes to network pixels, best anchors, the report; programs are compiled within the time."""
    source = train2017()
    begin = time.perf_counter()
    boxes = coverage_boxes.network_boxes(
        source, canvases=CANVASES, transforms=(transforms.resize(short=800, long=1333),)
    )
    yield _row(f"coverage: {len(boxes.row)} boxes through the resize", begin)

    def grid(canvas: int) -> Any:
        maps = [tuple(-(-side // s) for side in CANVASES[canvas]) for s in STRIDES]
        return anchors.grid(anchors.octaves(), maps=maps, strides=STRIDES)

    begin = time.perf_counter()
    found = coverage_report.cover(boxes, grid)
    yield _row("coverage: best of 201600 anchors for each box", begin)
    begin = time.perf_counter()
    coverage_report.report(found, source, threshold=0.5)
    yield _row("coverage: report", begin)


def clusters() -> Iterator[dict[str, Any]]:
    """Nine clusters, ten restarts, compiled within the time."""
    source = train2017()
    wh = source.table.objects.xywh[:, 2:].astype(np.float32)
    for method in clustering.Method.__args__:
        begin = time.perf_counter()
        found = clustering.cluster(wh, k=9, method=method)
        name = f"{method}: {len(wh)} boxes, 9 clusters, 10 restarts"
        yield _row(f"{name}, average IoU {found.average_iou:.3f}", begin)
