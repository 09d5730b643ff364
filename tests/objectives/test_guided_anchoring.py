"""Guided Anchoring: reference values of its terms, gradients, anchors and detections."""

import functools

import guided
import heads
import jax
import jax.numpy as jnp
import numpy as np
from assignments import coded
from golden_cases import cases

from anchors_jax import nms
from anchors_jax.objectives import guided_anchoring, guided_locations

LOCATION_MODES = {  # prefix of the reference's arrays: how the location term is asked for
    "correct": ("last", True),
    "paper": ("best", True),
    "paper_valid": ("best", False),
}


def assert_gradient(got, want):
    tolerance = 5e-5 * np.abs(want).max() + 1e-12
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-3, atol=tolerance)


@cases("ga_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    arrays, anchors, targets = case.arrays, guided.anchors_of(case), heads.targets_of(case)
    built = guided.objective(case.params)

    def total(predictions):
        terms, _ = heads.over_images(built.loss, predictions, anchors, targets)
        return sum(guided.mean(terms).values()), terms

    predictions = guided.predictions_of(case)
    gradients, terms = jax.jit(jax.grad(total, has_aux=True))(predictions)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    values = guided.mean(terms)
    for name, key in (("class", "cls"), ("box", "bbox"), ("shape", "shape")):
        compare(values[name], arrays[f"loss_{key}_f64"], err_msg=name)
    compare(values["location"], arrays["paper_valid_loss_loc"])
    compare(sum(values.values()), arrays["paper_valid_loss_total"])
    assert terms["class"].count.sum() == terms["box"].count.sum() == arrays["avg_factor"]
    assert terms["shape"].count.sum() == arrays["shape_avg_factor"]
    for got, name in (
        (gradients.logits, "grad_cls"),
        (gradients.codes, "grad_box"),
        (gradients.shape_codes, "grad_shape"),
        (gradients.cell_logits, "paper_valid_grad_loc"),
    ):
        assert_gradient(got, heads.flat(case, name))


@cases("ga_loss")
def test_location_terms_agree_with_the_reference(case):
    anchors, targets = guided.anchors_of(case), heads.targets_of(case)
    params = case.params

    def term(logits, valid, targets, overlap, count_padding):
        image = anchors.replace(valid=valid)
        found = guided_locations.find(
            image,
            targets,
            centre=params["center_ratio"],
            ignore=params["ignore_ratio"],
            outside_weight=params["outside_weight"],
            overlap=overlap,
        )
        return guided_anchoring.location_term(logits, found, valid, count_padding=count_padding)

    @jax.jit
    def all_modes(logits):
        def loss(logits, mode):
            one = functools.partial(term, overlap=mode[0], count_padding=mode[1])
            terms = jax.vmap(one)(logits, anchors.valid, targets)
            return terms.total.sum() / terms.count.sum()

        return {
            name: jax.value_and_grad(loss)(logits, mode) for name, mode in LOCATION_MODES.items()
        }

    for name, (value, gradient) in all_modes(guided.predictions_of(case).cell_logits).items():
        want = case.arrays[f"{name}_loss_loc"]
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6, err_msg=name)
        assert_gradient(gradient, heads.flat(case, f"{name}_grad_loc"))


@cases("ga_loss")
def test_anchors_and_matches_agree_with_the_reference(case):
    arrays, anchors = case.arrays, guided.anchors_of(case)
    predictions, targets = guided.predictions_of(case), heads.targets_of(case)
    built = guided.objective(case.params, centre_terms=False)

    @jax.jit
    def look(predictions):
        placed = heads.over_images(built.place, predictions, anchors).boxes
        terms, _ = heads.over_images(built.loss, predictions, anchors, targets)
        return placed, heads.over_images(built.match, predictions, anchors, targets), terms

    boxes, found, terms = look(predictions)
    np.testing.assert_allclose(boxes, arrays["guided_anchors"], rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(
        guided.mean(terms)["shape"], arrays["loss_shape_wh_only"], rtol=1e-5, atol=1e-6
    )
    want = arrays["assigned_gt"]
    np.testing.assert_array_equal(coded(found), np.where(want == -3, -2, want))
    classes = case.params["num_classes"]
    labels = np.take_along_axis(np.asarray(targets.labels), np.asarray(found.gt), axis=1)
    labels = np.where(found.positive, labels, classes)
    if case.params["kind"] == "retina":
        np.testing.assert_array_equal(labels, arrays["labels"])
    np.testing.assert_array_equal(found.positive, arrays["box_weights"] > 0)
    np.testing.assert_array_equal(~np.asarray(found.ignored), arrays["label_weights"] > 0)


def everywhere(case):
    """The squares of a case, those in the padding, too: at inference the reference keeps them."""
    anchors = guided.anchors_of(case)
    return anchors.replace(valid=jnp.ones_like(anchors.valid))


@cases("ga_retinanet_predict")
def test_detections_agree_with_the_reference(case):
    anchors, sizes = everywhere(case), jnp.asarray(case.arrays["image_hw"])
    built, predictions = guided.objective(case.params), guided.predictions_of(case)
    # The reference keeps boxes that clipping leaves without area.
    detect = heads.detect_as(case.params, top_k_of="anchors", min_size=-1.0)

    @jax.jit
    def run(predictions):
        placed = heads.over_images(built.place, predictions, anchors)
        found = heads.over_images(built.decode, predictions, anchors, sizes)
        return placed.valid, jax.vmap(detect)(found)

    valid, found = run(predictions)
    np.testing.assert_array_equal(valid, case.arrays["gate"])
    heads.check_detections(found, case.arrays)


@cases("ga_rpn_predict")
def test_proposals_agree_with_the_reference(case):
    params, anchors = case.params, everywhere(case)
    built, sizes = guided.objective(params), jnp.asarray(case.arrays["image_hw"])
    choose = functools.partial(
        nms.propose,
        top_k=params["nms_pre"],
        per_level=params["nms_post"],
        iou_threshold=params["nms_iou"],
        max_proposals=params["max_per_img"],
    )

    @jax.jit
    def run(predictions):
        return jax.vmap(choose)(heads.over_images(built.decode, predictions, anchors, sizes))

    heads.check_detections(run(guided.predictions_of(case)), case.arrays)
