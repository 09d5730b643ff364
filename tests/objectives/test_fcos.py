"""FCOS: losses, gradients, targets and detections of a whole head against reference values."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
from golden_cases import cases

from anchors_jax import codecs, losses, quality, selection
from anchors_jax.assign import fcos
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Anchors, DensePredictions


def assign_of(params):
    return functools.partial(
        fcos.assign,
        centre_radius=params["center_sample_radius"] if params["center_sampling"] else None,
        ranges=params["regress_ranges"],
    )


def codec_of(params):
    relative = params["norm_on_bbox"]
    return codecs.distances(relative=relative, activation="relu" if relative else "exp")


def objective_of(params):
    box_losses = {"giou": losses.giou, "iou": functools.partial(losses.iou, form="log")}
    return dense.objective(
        assign=assign_of(params),
        classify=terms.sigmoid(loss=heads.focal(params)),
        regress=terms.on_boxes(codec=codec_of(params), loss=box_losses[params["box_loss"]]),
        select=functools.partial(selection.everything, floor=0.0),
        quality=terms.branch(target=quality.centerness, weighs_boxes=True),
    )


def locations_of(case):
    """Boxes of one stride around the stored points; all valid, with a leading axis of images."""
    points, strides = case.arrays["points"], case.params["strides"]
    sizes = tuple(tuple(int(n) for n in row) for row in case.arrays["level_sizes"])
    counts = [rows * columns * shapes for rows, columns, shapes in sizes]
    half = np.repeat(np.asarray(strides, np.float32), counts)[:, None] / 2
    return Anchors(
        boxes=jnp.asarray(np.concatenate([points - half, points + half], axis=1)),
        cell=jnp.arange(len(points)),
        shape=jnp.asarray(np.repeat(np.arange(len(counts)), counts)),
        valid=jnp.ones((len(case.arrays["num_gt"]), len(points)), bool),
        level_sizes=sizes,
        strides=tuple((float(s), float(s)) for s in strides),
    )


def predictions_of(case, logits, raw, quality, scales):
    """What the head hands over: it multiplies the codes of each level by a learned scale."""
    sizes = case.arrays["level_sizes"]
    per_anchor = jnp.repeat(
        scales, sizes.prod(axis=1), total_repeat_length=int(sizes.prod(axis=1).sum())
    )
    return DensePredictions(
        logits=logits,
        codes=raw * per_anchor[None, :, None],
        quality=quality[..., 0],
        maps=tuple(tuple(int(n) for n in row[:2]) for row in sizes),
    )


def outputs_of(case):
    outputs = [jnp.asarray(heads.flat(case, name)) for name in ("cls", "raw", "ctr")]
    return *outputs, jnp.asarray(case.params["scales"], jnp.float32)


@cases("fcos_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    objective, arrays = objective_of(case.params), case.arrays
    anchors, targets = locations_of(case), heads.targets_of(case)
    least = {"box": 1e-6}

    def total(outputs):
        predictions = predictions_of(case, *outputs)
        terms, _ = heads.over_images(objective.loss, predictions, anchors, targets)
        counts = {name: term.count.sum() for name, term in terms.items()}
        values = {
            name: term.total.sum() / jnp.maximum(counts[name], least.get(name, 1.0))
            for name, term in terms.items()
        }
        return sum(values.values()), (values, counts)

    gradients, (values, counts) = jax.jit(jax.grad(total, has_aux=True))(outputs_of(case))
    assert counts["class"] == counts["quality"] == arrays["num_pos"]
    np.testing.assert_allclose(counts["box"], arrays["sum_ctr"], rtol=1e-5, atol=1e-6)
    for name, theirs in (("class", "cls"), ("box", "bbox"), ("quality", "centerness")):
        want = arrays[f"loss_{theirs}_f64"]
        np.testing.assert_allclose(values[name], want, rtol=1e-5, atol=1e-6)
    for gradient, name in zip(gradients[:3], ("cls", "raw", "ctr"), strict=True):
        want = heads.flat(case, f"grad_{name}")
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=5e-5 * np.abs(want).max())
    want = arrays["grad_scales"]
    np.testing.assert_allclose(gradients[3], want, rtol=1e-3, atol=5e-5 * np.abs(want).max())


@cases("fcos_loss")
def test_targets_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    anchors, targets = locations_of(case), heads.targets_of(case)
    codec = codecs.distances(relative=params["norm_on_bbox"])

    def one(valid, target):
        masked = anchors.replace(valid=valid)
        found = assign_of(params)(masked, target)
        matched = dense.matched_boxes(found, masked, target)
        centerness = quality.centerness(anchors.boxes, matched, masked)
        return (
            dense.class_labels(found, target, num_classes=params["num_classes"]),
            jnp.where(found.positive[:, None], codec.encode(matched, anchors.boxes), 0.0),
            jnp.where(found.positive, centerness, 0.0),
        )

    labels, distances, centerness = jax.jit(jax.vmap(one))(anchors.valid, targets)
    np.testing.assert_array_equal(labels, arrays["labels"])
    np.testing.assert_allclose(distances, arrays["box_targets"], rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(centerness, arrays["ctr_targets"], rtol=1e-4, atol=2e-6)


@cases("fcos_predict")
def test_detections_agree_with_the_reference(case):
    objective, anchors = objective_of(case.params), locations_of(case)
    image_size = jnp.asarray(case.arrays["image_hw"])

    @jax.jit
    def predict(outputs):
        predictions = predictions_of(case, *outputs)
        candidates = heads.over_images(objective.decode, predictions, anchors, image_size)
        return jax.vmap(heads.detect_as(case.params))(candidates)

    heads.check_detections(predict(outputs_of(case)), case.arrays)
