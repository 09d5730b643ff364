"""RPN: losses, gradients and proposals of the reference, and what its config is made of."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
from golden_cases import cases

from anchors_jax import anchors as make
from anchors_jax import losses, nms, selection


def rpn(params, *, number=None):
    select = functools.partial(selection.expected, number=number)
    return heads.by_max_iou(params, losses.class_bce, select=select)


def trained_anchors(case):
    """The anchors of a case; those that leave the image do not count where a border is set."""
    anchors = heads.anchors_of(case)
    border = functools.partial(
        make.within_border, anchors.boxes, allowed_border=case.params["allowed_border"]
    )
    inside = jax.vmap(border)(jnp.asarray(case.arrays["image_hw"]))
    return anchors.replace(valid=anchors.valid & inside)


@cases("rpn_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    heads.check_losses(case, rpn(case.params), trained_anchors(case))


@cases("rpn_predict")
def test_proposals_agree_with_the_reference(case):
    params, anchors = case.params, heads.anchors_of(case)
    choose = functools.partial(
        nms.propose,
        top_k=params["nms_pre"],
        iou_threshold=params["nms_iou"],
        max_proposals=params["max_per_img"],
    )

    @jax.jit
    def run(predictions):
        # The reference scores every cell of the canvas.
        everywhere = anchors.replace(valid=jnp.ones_like(anchors.valid))
        sizes = jnp.asarray(case.arrays["image_hw"])
        found = heads.over_images(rpn(params).decode, predictions, everywhere, sizes)
        return jax.vmap(choose)(found)

    heads.check_detections(run(heads.predictions_of(case)), case.arrays)


@cases("rpn_loss")
def test_a_sample_has_the_size_that_was_asked_for(case):
    anchors, targets = trained_anchors(case), heads.targets_of(case)
    built = rpn(case.params, number=32)
    terms, _ = heads.over_images(built.loss, heads.predictions_of(case), anchors, targets)
    positives = np.asarray(case.arrays["num_pos_neg"])[:, 0]
    drawn = np.minimum(positives, 16)
    # At least one positive is counted, as in the reference.
    expected = np.maximum(drawn, 1) + 32 - drawn
    np.testing.assert_allclose(terms["class"].count, expected)
    np.testing.assert_allclose(terms["box"].count, expected)
