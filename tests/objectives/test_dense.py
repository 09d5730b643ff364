import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import cases

from anchors_jax import codecs, nms
from anchors_jax.assign import max_iou
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Anchors, DensePredictions, Targets


def retinanet(params, **keywords):
    return heads.by_max_iou(params, heads.focal(params), **keywords)


def plain(assign=max_iou.assign, regress=terms.on_codes):
    return dense.objective(
        assign=assign, classify=terms.sigmoid(), regress=regress(codec=codecs.deltas())
    )


@cases("retinanet_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    heads.check_losses(case, retinanet(case.params), heads.anchors_of(case))


@cases("retinanet_loss")
def test_targets_agree_with_the_reference(case):
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)
    num_classes = case.params["num_classes"]
    codec = codecs.deltas(stds=tuple(case.params["stds"]))

    def one(valid, target):
        assignment = max_iou.assign(
            anchors.replace(valid=valid),
            target,
            positive_iou=case.params["pos_iou_thr"],
            negative_iou=case.params["neg_iou_thr"],
        )
        labels = dense.class_labels(assignment, target, num_classes=num_classes)
        codes = codec.encode(target.boxes[assignment.gt], anchors.boxes)
        return assignment, labels, jnp.where(assignment.positive[:, None], codes, 0.0)

    assignment, labels, codes = jax.jit(jax.vmap(one))(anchors.valid, targets)
    weights = (anchors.valid & ~assignment.ignored).astype(np.float32)
    gt = np.where(assignment.positive, assignment.gt, np.where(assignment.ignored, -2, -1))
    np.testing.assert_array_equal(np.where(anchors.valid, gt, -3), case.arrays["assigned_gt"])
    np.testing.assert_array_equal(labels, case.arrays["labels"])
    np.testing.assert_array_equal(weights, case.arrays["label_weights"])
    np.testing.assert_allclose(codes, case.arrays["box_targets"], rtol=1e-5, atol=2e-4)


@cases("retinanet_predict")
def test_detections_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    objective, anchors = retinanet(params), heads.anchors_of(case)
    candidates = heads.over_images(
        objective.decode,
        heads.predictions_of(case),
        # The reference scores every cell of the canvas.
        anchors.replace(valid=jnp.ones_like(anchors.valid)),
        jnp.asarray(arrays["image_hw"]),
    )
    detect = nms.Rule(
        score_threshold=params["score_thr"],
        top_k=params["nms_pre"],
        iou_threshold=params["nms_iou"],
        max_detections=params["max_per_img"],
    )
    found = jax.vmap(detect)(candidates)
    np.testing.assert_array_equal(found.valid.sum(axis=1), arrays["det_num"])
    for image, count in enumerate(arrays["det_num"]):
        boxes = found.boxes[image, :count]
        scale = np.tile(arrays["scale_factor"][image], 2)[None]
        np.testing.assert_array_equal(
            found.labels[image, :count], arrays["det_labels"][image, :count]
        )
        np.testing.assert_allclose(
            found.scores[image, :count], arrays["det_scores"][image, :count], rtol=1e-5, atol=2e-6
        )
        np.testing.assert_allclose(boxes, arrays["det_boxes"][image, :count], rtol=1e-5, atol=2e-3)
        np.testing.assert_allclose(
            boxes / scale, arrays["orig_boxes"][image, :count], rtol=1e-5, atol=2e-3
        )


DEFAULT = {
    "box_loss": "l1", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.0,
    "stds": (1.0, 1.0, 1.0, 1.0), "focal_alpha": 0.25, "focal_gamma": 2.0,
}  # fmt: skip


def miniature():
    """A 2 x 3 map of stride 8 with one 32 x 32 anchor per cell, centred on the cell's corner."""
    y, x = np.meshgrid(np.arange(2) * 8.0, np.arange(3) * 8.0, indexing="ij")
    centre = np.stack([x, y], -1).reshape(-1, 2)
    anchors = Anchors(
        boxes=jnp.asarray(np.concatenate([centre - 16, centre + 16], 1), jnp.float32),
        cell=jnp.arange(6),
        shape=jnp.zeros(6, jnp.int32),
        valid=jnp.ones(6, bool),
        level_sizes=((2, 3, 1),),
        strides=((8.0, 8.0),),
    )
    codes = jnp.zeros((6, 4)).at[0].set(0.1)
    predictions = DensePredictions(logits=jnp.zeros((6, 2)), codes=codes, maps=((2, 3),))
    targets = Targets(
        boxes=jnp.asarray([[-16.0, -16.0, 16.0, 16.0], [0.0, 0.0, 0.0, 0.0]]),
        labels=jnp.asarray([1, 0]),
        valid=jnp.asarray([True, False]),
        crowd=jnp.zeros(2, bool),
    )
    return predictions, anchors, targets


def values(terms):
    return {name: float(term.total / term.count) for name, term in terms.items()}


def test_miniature_by_hand():
    # IoU with the object: 1, .6, .3333, .6, .3913, .2308 -> positives 0, 1, 3.
    terms, statistics = retinanet(DEFAULT).loss(*miniature())
    assert values(terms) == pytest.approx({"class": 0.433217, "box": 0.3}, rel=1e-5)
    assert statistics == {
        "positives": 3, "ignored": 0, "objects": 1, "objects_without_anchor": 0,
    }  # fmt: skip


def test_an_image_without_objects_is_all_background():
    predictions, anchors, targets = miniature()
    objective = retinanet(DEFAULT)
    nothing = targets.replace(valid=jnp.zeros(2, bool))

    def total(predictions):
        terms, _ = objective.loss(predictions, anchors, nothing)
        return terms["class"].total + terms["box"].total, terms

    gradients, terms = jax.grad(total, has_aux=True)(predictions)
    assert values(terms) == pytest.approx({"class": 1.559581, "box": 0.0}, rel=1e-5)
    np.testing.assert_array_equal(gradients.codes, np.zeros((6, 4)))
    with_object, _ = objective.loss(predictions, anchors, targets)
    together = {
        name: float((terms[name].total + term.total) / (terms[name].count + term.count))
        for name, term in with_object.items()
    }
    assert together == pytest.approx({"class": 0.714808, "box": 0.225}, rel=1e-5)


@pytest.mark.parametrize("padding", [np.nan, 0.0, 1e30])
@pytest.mark.parametrize("regress", [terms.on_codes, terms.on_boxes])
def test_padding_matters_to_nothing(padding, regress):
    predictions, anchors, targets = miniature()
    objective = plain(regress=regress)
    padded = targets.replace(boxes=targets.boxes.at[1].set(padding))

    def total(predictions, targets):
        terms, _ = objective.loss(predictions, anchors, targets)
        return terms["class"].total + terms["box"].total

    want = jax.value_and_grad(total)(predictions, targets)
    got = jax.value_and_grad(total)(predictions, padded)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


def test_ignored_and_invalid_anchors_have_no_say():
    predictions, anchors, targets = miniature()
    objective = plain(functools.partial(max_iou.assign, positive_iou=0.7, negative_iou=0.5))
    anchors = anchors.replace(valid=anchors.valid.at[5].set(False))

    def losses_of(predictions):
        return values(objective.loss(predictions, anchors, targets)[0])

    before = losses_of(predictions)
    silent = jnp.asarray([1, 3, 5])  # IoU .6, .6 (between the thresholds), and invalid
    changed = predictions.replace(
        logits=predictions.logits.at[silent].set(9.0), codes=predictions.codes.at[silent].set(9.0)
    )
    assert losses_of(changed) == before
    heard = predictions.replace(logits=predictions.logits.at[2].set(9.0))
    assert losses_of(heard)["class"] != before["class"]


def test_degenerate_objects_give_finite_gradients():
    predictions, anchors, targets = miniature()
    flat = targets.replace(
        boxes=jnp.asarray([[4.0, 4.0, 4.0, 20.0], [3.0, 3.0, 3.0, 3.0]]), valid=jnp.ones(2, bool)
    )
    for regress in (terms.on_codes, terms.on_boxes):
        objective = plain(regress=regress)

        def total(predictions, objective=objective):
            terms, _ = objective.loss(predictions, anchors, flat)
            return terms["class"].total + terms["box"].total

        result = jax.value_and_grad(total)(predictions)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
