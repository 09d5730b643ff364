"""ATSS: losses, gradients, targets and detections of a whole head against reference values."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
from golden_cases import cases

from anchors_jax import codecs, nms, quality
from anchors_jax.assign import atss, frame
from anchors_jax.objectives import dense, terms


def objective_of(params):
    return dense.objective(
        assign=functools.partial(atss.assign, topk=params["topk"], topk_per_shape=False),
        classify=terms.sigmoid(loss=heads.focal(params)),
        regress=terms.on_boxes(
            codec=codecs.deltas(stds=tuple(params["stds"])), weight=params["box_weight"]
        ),
        quality=terms.branch(
            target=quality.centerness, weight=params["quality_weight"], weighs_boxes=True
        ),
    )


def predictions_of(case):
    centerness = jnp.asarray(heads.flat(case, "ctr")[..., 0])
    return heads.predictions_of(case).replace(quality=centerness)


@cases("atss_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    objective, arrays = objective_of(case.params), case.arrays
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)

    def total(predictions):
        terms, _ = heads.over_images(objective.loss, predictions, anchors, targets)
        counts = {name: term.count.sum() for name, term in terms.items()}
        values = {
            name: term.total.sum() / jnp.maximum(counts[name], 1.0) for name, term in terms.items()
        }
        return sum(values.values()), (values, counts)

    gradients, (values, counts) = jax.jit(jax.grad(total, has_aux=True))(predictions_of(case))
    assert counts["class"] == counts["quality"] == arrays["avg_factor"]
    np.testing.assert_allclose(max(counts["box"], 1.0), arrays["box_avg_factor"], rtol=1e-5)
    for name, theirs in (("class", "cls"), ("box", "bbox"), ("quality", "centerness")):
        want = arrays[f"loss_{theirs}_f64"]
        np.testing.assert_allclose(values[name], want, rtol=1e-5, atol=1e-6)
    got = gradients.logits, gradients.codes, gradients.quality[..., None]
    for gradient, name in zip(got, ("cls", "box", "ctr"), strict=True):
        want = heads.flat(case, f"grad_{name}")
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=5e-5 * np.abs(want).max())


@cases("atss_loss")
def test_targets_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)

    def one(valid, target):
        masked = anchors.replace(valid=valid)
        assign = functools.partial(atss.assign, topk=params["topk"])
        found = frame.assigned(assign, masked, target)
        matched = dense.matched_boxes(found, masked, target)
        centerness = quality.centerness(anchors.boxes, matched, masked)
        return (
            found,
            dense.class_labels(found, target, num_classes=params["num_classes"]),
            jnp.where(found.positive[:, None], matched, 0.0),
            jnp.where(found.positive, centerness, 0.0),
        )

    found, labels, matched, centerness = jax.jit(jax.vmap(one))(anchors.valid, targets)
    gt = np.where(found.positive, found.gt, np.where(anchors.valid, -1, -3))
    np.testing.assert_array_equal(gt, arrays["assigned_gt"])
    np.testing.assert_array_equal(labels, arrays["labels"])
    np.testing.assert_array_equal(~found.ignored, arrays["label_weights"] > 0)
    np.testing.assert_array_equal(matched, arrays["box_targets"])  # boxes, not codes
    np.testing.assert_allclose(centerness, arrays["ctr_targets"], rtol=1e-4, atol=2e-6)


@cases("atss_predict")
def test_detections_agree_with_the_reference(case):
    objective, anchors = objective_of(case.params), heads.anchors_of(case)
    # The reference scores every cell of the canvas.
    anchors = anchors.replace(valid=jnp.ones_like(anchors.valid))
    image_size = jnp.asarray(case.arrays["image_hw"])

    @jax.jit
    def predict(predictions):
        candidates = heads.over_images(objective.decode, predictions, anchors, image_size)
        return jax.vmap(heads.detect_as(case.params))(candidates)

    heads.check_detections(predict(predictions_of(case)), case.arrays)


def test_the_reference_ranks_by_class_score_and_we_by_the_product():
    """Of two anchors on a level of one slot, the surer class or the better box."""
    candidates = nms.Candidates(
        boxes=jnp.asarray([[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 29.0, 9.0]]),
        scores=jnp.asarray([[0.8], [0.5]]),
        quality=jnp.asarray([0.2, 0.9]),
        shape=jnp.zeros(2, jnp.int32),
        level_counts=(2,),
    )

    def one(**keywords):
        return nms.Rule(top_k=1, max_detections=1, **keywords)(candidates)

    np.testing.assert_allclose(one().scores, [np.sqrt(0.45)], rtol=1e-6)
    np.testing.assert_allclose(one(score="product").scores, [0.45], rtol=1e-6)
    by_class = one(rank_by="class", score="product")
    np.testing.assert_allclose(by_class.scores, [0.16], rtol=1e-6)
    np.testing.assert_array_equal(by_class.boxes, candidates.boxes[:1])
