"""Reference head outputs as this library's types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from golden_cases import Case

from anchors_jax import codecs, losses, nms
from anchors_jax.assign import max_iou
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Anchors, DensePredictions, Targets


def levels(case: Case, name: str) -> list[np.ndarray]:
    """The arrays `name`_l0, `name`_l1, ... of a case."""
    count = len(case.arrays["level_sizes"])
    return [case.arrays[f"{name}_l{level}"] for level in range(count)]


def flat(case: Case, name: str) -> np.ndarray:
    """The level arrays [N, H, W, S, k] as one [N, A, k], in the order level, row, column, shape."""
    return np.concatenate(
        [x.reshape(x.shape[0], -1, x.shape[-1]) for x in levels(case, name)], axis=1
    )


def anchors_of(case: Case) -> Anchors:
    """The anchors stored in a case; `valid` has a leading axis of images."""
    sizes = tuple(tuple(int(n) for n in row) for row in case.arrays["level_sizes"])
    count = len(case.arrays["anchors"])
    return Anchors(
        boxes=jnp.asarray(case.arrays["anchors"]),
        cell=jnp.zeros(count, jnp.int32),
        shape=jnp.zeros(count, jnp.int32),
        valid=jnp.asarray(case.arrays["valid"]),
        level_sizes=sizes,
        strides=tuple((float(s), float(s)) for s in case.params["strides"]),
    )


def targets_of(case: Case) -> Targets:
    """Ground truth; padded slots hold whatever the case's file holds there."""
    boxes = jnp.asarray(case.arrays["gt_boxes"])
    valid = np.arange(boxes.shape[1])[None] < case.arrays["num_gt"][:, None]
    return Targets(
        boxes=boxes,
        labels=jnp.asarray(case.arrays["gt_labels"]),
        valid=jnp.asarray(valid),
        crowd=jnp.zeros(valid.shape, bool),
    )


def predictions_of(case: Case) -> DensePredictions:
    """Logits and codes of the head."""
    maps = tuple(tuple(int(n) for n in row[:2]) for row in case.arrays["level_sizes"])
    return DensePredictions(
        logits=jnp.asarray(flat(case, "cls")), codes=jnp.asarray(flat(case, "box")), maps=maps
    )


def over_images(function, predictions, anchors, *rest):
    """`function(predictions, anchors, *rest)` of each image; anchors differ in `valid` only."""

    def one(prediction, valid, *others):
        return function(prediction, anchors.replace(valid=valid), *others)

    return jax.vmap(one)(predictions, anchors.valid, *rest)


def detect_as(params, **keywords):
    """Inference with the settings of a case, by MMDetection's rule for heads with a quality."""
    return nms.Rule(
        score_threshold=params["score_thr"],
        top_k=params["nms_pre"],
        iou_threshold=params["nms_iou"],
        max_detections=params["max_per_img"],
        score="product",
        rank_by="class",
        **keywords,
    )


def check_detections(found, arrays):
    """Compare detections of all images with the stored ones."""
    np.testing.assert_array_equal(found.valid.sum(axis=1), arrays["det_num"])
    for image, count in enumerate(arrays["det_num"]):
        got = [np.asarray(x[image, :count]) for x in (found.labels, found.scores, found.boxes)]
        want = [arrays[f"det_{name}"][image, :count] for name in ("labels", "scores", "boxes")]
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(got[2], want[2], rtol=1e-5, atol=2e-3)


def focal(params):
    """The focal loss of a case."""
    return functools.partial(losses.focal, alpha=params["focal_alpha"], gamma=params["focal_gamma"])


def by_max_iou(params, class_loss, **keywords):
    """The dense objective of a case whose anchors are assigned by their largest IoU."""
    box_loss = losses.l1
    if params["box_loss"] == "smooth_l1":
        box_loss = functools.partial(losses.smooth_l1, beta=params["smooth_l1_beta"])
    return dense.objective(
        assign=functools.partial(
            max_iou.assign,
            positive_iou=params["pos_iou_thr"],
            negative_iou=params["neg_iou_thr"],
            min_positive_iou=params["min_pos_iou"],
        ),
        classify=terms.sigmoid(loss=class_loss),
        regress=terms.on_codes(codec=codecs.deltas(stds=tuple(params["stds"])), loss=box_loss),
        **keywords,
    )


def check_losses(case, objective, anchors):
    """Compare the class and box terms of a batch, their divisor and gradients with a case's."""
    targets, arrays = targets_of(case), case.arrays

    def total(predictions):
        terms, _ = over_images(objective.loss, predictions, anchors, targets)
        values = {name: t.total.sum() / t.count.sum() for name, t in terms.items()}
        return sum(values.values()), (values, terms["class"].count.sum())

    gradients, (values, count) = jax.jit(jax.grad(total, has_aux=True))(predictions_of(case))
    np.testing.assert_array_equal(count, arrays["avg_factor"])
    np.testing.assert_allclose(values["class"], arrays["loss_cls_f64"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values["box"], arrays["loss_bbox_f64"], rtol=1e-5, atol=1e-6)
    for got, name in ((gradients.logits, "grad_cls"), (gradients.codes, "grad_box")):
        want = flat(case, name)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=5e-5 * np.abs(want).max() + 1e-12)
