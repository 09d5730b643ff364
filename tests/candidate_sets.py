"""Candidate sets and ground truth for the tests of pruning."""

import numpy as np

from anchors_jax.nms import Rule
from anchors_jax.search.candidates import CandidateSet
from anchors_jax.search.layout import Layout

LAYOUT = Layout((16, 4), (3, 2))


def random_set(seed, *, images=12, slots=60, classes=3, layout=LAYOUT, rule=None, ties=False):
    """Clustered boxes, so that NMS has work to do; image ids have holes."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, slots + 1, images)
    count[0] = 0
    centre = rng.uniform(20, 80, (images, 4, 2))
    near = centre[np.arange(images)[:, None], rng.integers(0, 4, (images, slots))]
    middle = near + rng.normal(0, 4, near.shape)
    side = np.exp(rng.normal(3, 0.4, middle.shape))
    boxes = np.clip(np.concatenate([middle - side / 2, middle + side / 2], -1), 0, 100)
    scores = -np.sort(-rng.uniform(0.05, 1, (images, slots)), axis=1)
    scores = np.round(scores, 1) if ties else scores
    filled = np.arange(slots) < count[:, None]
    return CandidateSet(
        boxes=np.where(filled[..., None], boxes, 0).astype(np.float32),
        scores=np.where(filled, scores, -1).astype(np.float32),
        labels=np.where(filled, rng.integers(0, classes, filled.shape), 0).astype(np.int32),
        anchor=np.where(filled, rng.integers(0, layout.size, filled.shape), layout.size).astype(
            np.int32
        ),
        usable=filled & (rng.random(filled.shape) < 0.98),
        count=count,
        image_id=np.sort(rng.choice(1000, images, replace=False)),
        scale=rng.uniform(0.5, 2, (images, 2)).astype(np.float32),
        cut=0,
        layout=layout,
        rule=rule or Rule(top_k=100, max_detections=20),
    )


def random_truth(candidates, seed, *, classes=3, per_image=4):
    """Objects near candidates, some of them crowds, some without an area of their own."""
    rng = np.random.default_rng(seed)
    annotations = []
    for i, image in enumerate(candidates.image_id):
        for _ in range(rng.integers(0, per_image + 1)):
            n = rng.integers(0, max(candidates.count[i], 1))
            box = candidates.boxes[i, n] / np.tile(candidates.scale[i], 2)
            x0, y0, x1, y1 = (box + rng.normal(0, 2, 4)).tolist()
            width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(image),
                    "category_id": int(10 * candidates.labels[i, n] + 5),
                    "bbox": [x0, y0, width, height],
                    "area": width * height * rng.uniform(0.3, 40),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return {
        "images": [{"id": int(i), "width": 100, "height": 100} for i in candidates.image_id],
        "categories": [{"id": 10 * k + 5, "name": f"class {k}"} for k in range(classes)],
        "annotations": annotations,
    }


CATEGORY_IDS = (5, 15, 25)


def greedy_nms(candidates, image, removed):
    """The slow reference: positions of the detections of one image without some prototypes."""
    rule, layout = candidates.rule, candidates.layout
    level = np.append(layout.level, -1)
    taken, per_level = [], np.zeros(len(layout.shapes), int)
    for n in range(candidates.count[image]):
        prototype = candidates.anchor[image, n]
        if prototype in removed:
            continue
        per_level[level[prototype]] += 1
        if per_level[level[prototype]] <= rule.top_k and candidates.usable[image, n]:
            taken.append(n)
    kept = []
    for n in taken:
        overlaps = [
            iou(candidates.boxes[image, n], candidates.boxes[image, m])
            for m in kept
            if candidates.labels[image, m] == candidates.labels[image, n]
        ]
        if all(overlap <= rule.iou_threshold for overlap in overlaps):
            kept.append(n)
    return kept[: rule.max_detections]


def iou(a, b):
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inside = max(side[0], 0) * max(side[1], 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def set_of_table(table, image_ids, category_ids):
    """A detection table as candidates, each of its own image, one prototype for all."""
    rows = []
    for image in image_ids:
        mine = np.flatnonzero(table.image_id == image)
        rows.append(mine[np.argsort(-table.score[mine], kind="stable")])
    slots = max(1, *(len(row) for row in rows))
    label = {category: n for n, category in enumerate(category_ids)}
    shape = (len(rows), slots)
    boxes, scores = np.zeros((*shape, 4), np.float32), np.full(shape, -1, np.float32)
    labels, anchor = np.zeros(shape, np.int32), np.ones(shape, np.int32)
    for i, row in enumerate(rows):
        boxes[i, : len(row)], scores[i, : len(row)] = table.box[row], table.score[row]
        labels[i, : len(row)] = [label[c] for c in table.category_id[row].tolist()]
        anchor[i, : len(row)] = 0
    return CandidateSet(
        boxes=boxes,
        scores=scores,
        labels=labels,
        anchor=anchor,
        usable=anchor == 0,
        count=np.array([len(row) for row in rows]),
        image_id=np.array(image_ids),
        scale=np.ones((len(rows), 2), np.float32),
        cut=0,
        layout=Layout((1,), (1,)),
        rule=Rule(),
    )
