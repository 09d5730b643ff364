"""SSD's loss, matches, mined negatives and detections against the reference values."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import cases

from anchors_jax import anchors as make
from anchors_jax import codecs, losses, selection
from anchors_jax.assign import bipartite, max_iou
from anchors_jax.objectives import dense, terms

# prefix of the arrays: how objects and anchors are matched, what an image adds to the divisor
RULES = {"": ("argmax", 1.0), "bipartite_": ("bipartite", 0.0)}


def assigner(rule, params):
    if rule == "bipartite":
        return functools.partial(bipartite.assign, positive_iou=params["pos_iou_thr"])
    return functools.partial(
        max_iou.assign,
        positive_iou=params["pos_iou_thr"],
        negative_iou=params["pos_iou_thr"],
        assign_all_ties=False,
    )


def reference(params, prefix=""):
    rule, floor = RULES[prefix]
    return dense.objective(
        assign=assigner(rule, params),
        classify=terms.softmax(),
        regress=terms.on_codes(
            codec=codecs.deltas(stds=tuple(params["stds"])),
            loss=functools.partial(losses.smooth_l1, beta=params["smooth_l1_beta"]),
        ),
        select=functools.partial(
            selection.hard_negatives, per_positive=params["neg_pos_ratio"], floor=floor
        ),
        ignore_iof=None,
    )


def all_anchors(case):
    """SSD's references use every anchor."""
    anchors = heads.anchors_of(case)
    return anchors.replace(valid=jnp.ones_like(anchors.valid))


@cases("ssd_loss")
def test_the_anchors_are_those_of_the_reference(case):
    params = case.params
    shapes = make.ssd(
        min_sizes=params["min_sizes"], max_sizes=params["max_sizes"], ratios=params["ratios"]
    )
    maps = [tuple(int(n) for n in row[:2]) for row in case.arrays["level_sizes"]]
    anchors = make.grid(shapes, maps=maps, strides=params["strides"])
    np.testing.assert_allclose(anchors.boxes, case.arrays["anchors"], rtol=1e-5, atol=1e-4)
    assert [list(row) for row in anchors.level_sizes] == case.arrays["level_sizes"].tolist()


@pytest.mark.parametrize("prefix", RULES)
@cases("ssd_loss")
def test_losses_and_gradients_agree_with_the_reference(case, prefix):
    objective, arrays = reference(case.params, prefix), case.arrays
    anchors, targets = all_anchors(case), heads.targets_of(case)

    def total(predictions):
        terms, _ = heads.over_images(objective.loss, predictions, anchors, targets)
        values = {n: t.total.sum() / jnp.maximum(t.count.sum(), 1.0) for n, t in terms.items()}
        return sum(values.values()), (values, terms)

    predictions = heads.predictions_of(case)
    gradients, (values, terms) = jax.jit(jax.grad(total, has_aux=True))(predictions)
    if not prefix:
        np.testing.assert_array_equal(terms["class"].count.sum(), arrays["avg_factor"])
        count = arrays["avg_factor"]
        for name, parts in (("class", "loss_cls_parts_f64"), ("box", "loss_bbox_parts_f64")):
            got = terms[name].total / count  # one part per image
            np.testing.assert_allclose(got, arrays[parts], rtol=1e-5, atol=1e-6)
    for name, key in (("class", "loss_cls"), ("box", "loss_bbox")):
        suffix = "" if prefix else "_f64"
        want = arrays[f"{prefix}{key}{suffix}"]
        np.testing.assert_allclose(values[name], want, rtol=1e-5, atol=1e-6)
    for got, name in ((gradients.logits, "grad_cls"), (gradients.codes, "grad_box")):
        want = heads.flat(case, f"{prefix}{name}")
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=5e-5 * np.abs(want).max() + 1e-12)


@pytest.mark.parametrize("prefix", RULES)
@cases("ssd_loss")
def test_matches_and_hard_negatives_agree_with_the_reference(case, prefix):
    params, arrays = case.params, case.arrays
    objective, anchors = reference(params, prefix), all_anchors(case)
    targets, predictions = heads.targets_of(case), heads.predictions_of(case)
    num_classes = params["num_classes"]

    def one(prediction, anchors, target):
        found = objective.match(prediction, anchors, target)
        labels = dense.class_labels(found, target, num_classes=num_classes)
        hard = selection.hardest(
            losses.cross_entropy(prediction.logits, labels),
            ~found.positive,
            params["neg_pos_ratio"] * found.positive.sum(dtype=jnp.int32),
        )
        codes = codecs.deltas(stds=tuple(params["stds"])).encode(
            dense.matched_boxes(found, anchors, target), anchors.boxes
        )
        return found, labels, hard, codes

    found, labels, hard, codes = jax.jit(
        lambda *inputs: heads.over_images(one, inputs[0], anchors, inputs[1])
    )(predictions, targets)
    gt = np.where(found.positive, found.gt, -1)
    assert not np.asarray(found.ignored).any()
    np.testing.assert_array_equal(gt, arrays[f"{prefix}assigned_gt"])
    np.testing.assert_array_equal(hard, arrays[f"{prefix}hard_negatives"])
    if not prefix:
        np.testing.assert_array_equal(labels, arrays["labels"])
        np.testing.assert_allclose(codes, arrays["box_targets"], rtol=1e-5, atol=2e-4)


@cases("ssd_predict")
def test_detections_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    candidates = heads.over_images(
        reference(params).decode,
        heads.predictions_of(case),
        all_anchors(case),
        jnp.asarray(arrays["image_hw"]),
    )
    heads.check_detections(jax.vmap(heads.detect_as(params))(candidates), arrays)
