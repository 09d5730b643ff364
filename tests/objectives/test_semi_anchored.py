"""The Semi-Anchored objective against reference values."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
from golden_cases import cases

from anchors_jax import codecs, losses, nms
from anchors_jax.assign import max_iou
from anchors_jax.objectives import locations, semi_anchored, terms
from anchors_jax.types import SemiAnchoredPredictions

MODES = ("prior_positive", "all_at_positive")


def labeller(params, **keywords):
    return functools.partial(
        locations.by_anchors,
        assign=functools.partial(
            max_iou.assign, positive_iou=params["pos_iou_thr"], negative_iou=params["neg_iou_thr"]
        ),
        ignore_between=params["ignore_between"],
        **keywords,
    )


def objective(params, *, regress="prior_positive", **choice):
    return semi_anchored.objective(
        label=labeller(params, regress=regress),
        classify=terms.sigmoid(
            loss=functools.partial(
                losses.focal, alpha=params["cls_alpha"], gamma=params["cls_beta"]
            )
        ),
        regress=terms.on_boxes(
            codec=codecs.deltas(stds=tuple(params["stds"])),
            loss=functools.partial(losses.iou, form="log"),
            weight=params["lambda_reg"],
        ),
        anchor_loss=functools.partial(
            losses.smoothed_focal, alpha=params["ac_alpha"], gamma=params["ac_beta"]
        ),
        anchor_weight=params["lambda_ac"],
        positive_iou=params["post_iou_thr"],
        sigma=params["sigma"],
        choose=functools.partial(semi_anchored.choose, **choice),
    )


def predictions_of(case):
    sizes = case.arrays["level_sizes"]
    logits, codes = heads.flat(case, "cls"), heads.flat(case, "box")
    images, cells = logits.shape[:2]
    return SemiAnchoredPredictions(
        logits=jnp.asarray(logits),
        anchor_logits=jnp.asarray(heads.flat(case, "anc").reshape(images, cells, -1)),
        codes=jnp.asarray(codes.reshape(images, cells, -1, 4)),
        maps=tuple((int(rows), int(columns)) for rows, columns, _ in sizes),
    )


def mean(terms):
    """Each loss as the reference divides it."""
    return {
        name: term.total.sum() / jnp.maximum(term.count.sum(), 1.0) for name, term in terms.items()
    }


@cases("semi_loss")
def test_losses_and_gradients_agree_with_the_reference(case):
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)

    def total(predictions, mode):
        terms, _ = heads.over_images(
            objective(case.params, regress=mode).loss, predictions, anchors, targets
        )
        values = mean(terms)
        return sum(values.values()), (values, terms)

    @jax.jit
    def both(predictions):
        return {mode: jax.grad(total, has_aux=True)(predictions, mode) for mode in MODES}

    arrays = case.arrays
    gradients, (values, terms) = both(predictions_of(case))["prior_positive"]
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    for name, key in (("class", "loss_cls"), ("box", "loss_reg"), ("anchor", "loss_ac")):
        # The reference leaves its weights out of the parts.
        weight = {"box": case.params["lambda_reg"], "anchor": case.params["lambda_ac"]}
        compare(values[name] / weight.get(name, 1.0), arrays[key], err_msg=name)
    for name, key in (
        ("class", "num_pos_locations"),
        ("box", "num_reg"),
        ("anchor", "num_pos_anchors"),
    ):
        assert terms[name].count.sum() == arrays[key], name
    compare(sum(values.values()), arrays["loss_total"])
    for got, name in (
        (gradients.logits, "grad_cls"),
        (gradients.codes, "grad_box"),
        (gradients.anchor_logits, "grad_anc"),
    ):
        assert_gradient(got, heads.flat(case, name))
    gradients, (values, _) = both(predictions_of(case))["all_at_positive"]
    compare(values["box"] / case.params["lambda_reg"], arrays["all_loss_reg"])
    compare(sum(values.values()), arrays["all_loss_total"])
    assert_gradient(gradients.codes, heads.flat(case, "all_grad_box"))


def assert_gradient(got, want):
    tolerance = 5e-5 * np.abs(want).max() + 1e-12
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-3, atol=tolerance)


@cases("semi_loss")
def test_labels_after_regression_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    anchors, targets = heads.anchors_of(case), heads.targets_of(case)
    codec = codecs.deltas(stds=tuple(params["stds"]))

    def one(predictions, anchors, targets):
        found = labeller(params)(anchors, targets)
        mu = semi_anchored.regressed_overlaps(
            predictions.codes, anchors, found, targets, codec=codec
        )
        return found.positive, mu, semi_anchored.soft_targets(mu, sigma=params["sigma"])

    predictions = predictions_of(case)
    run = jax.jit(functools.partial(heads.over_images, one))
    positive, mu, mu_hat = run(predictions, anchors, targets)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6)
    compare(mu.reshape(len(mu), -1), arrays["mu"])
    compare(mu_hat.reshape(len(mu), -1), arrays["mu_hat"])
    label = np.where(positive[..., None], mu >= params["post_iou_thr"], -1)
    np.testing.assert_array_equal(label.reshape(len(mu), -1), arrays["anchor_label_post"])

    @jax.jit
    def anchor_loss(targets):
        smoothed = functools.partial(
            losses.smoothed_focal, alpha=params["ac_alpha"], gamma=params["ac_beta"]
        )
        each = smoothed(predictions.anchor_logits, targets, jnp.asarray(label == 1))
        return jnp.sum(each, where=positive[..., None]) / max(int((label == 1).sum()), 1)

    for sigma, want in zip(arrays["sigma_values"], arrays["loss_ac_sigma"], strict=True):
        got = anchor_loss(semi_anchored.soft_targets(mu, sigma=float(sigma)))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for got in (
        anchor_loss(jnp.ones_like(mu)),
        anchor_loss(semi_anchored.soft_targets(mu, sigma=0.0)),
    ):
        np.testing.assert_allclose(got, arrays["loss_ac_focal"], rtol=1e-5, atol=1e-6)


def strategies(params):
    """{prefix of the reference's arrays: keywords of the objective}."""
    everything = params["num_scales"] * len(params["ratios"])
    return {
        **{f"top{k}": {"top_k": k} for k in params["top_k"]},
        **{
            f"pos{round(100 * tau):03d}": {"top_k": everything, "min_score": tau}
            for tau in params["pos_tau"]
        },
        "all": {"top_k": everything},
    }


@cases("semi_predict")
def test_detections_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    sizes = jnp.asarray(arrays["image_hw"])
    anchors = heads.anchors_of(case)
    # The reference scores every cell of the canvas.
    anchors = anchors.replace(valid=jnp.ones_like(anchors.valid))
    detect = nms.Rule(
        score_threshold=params["score_thr"],
        top_k=params["nms_pre"],
        iou_threshold=params["nms_iou"],
        max_detections=params["max_per_img"],
    )

    @functools.partial(jax.jit, static_argnames=("top_k", "min_score"))
    def run(predictions, **keywords):
        decode = objective(params, **keywords).decode
        return jax.vmap(detect)(heads.over_images(decode, predictions, anchors, sizes))

    for prefix, keywords in strategies(params).items():
        found = run(predictions_of(case), **keywords)
        np.testing.assert_array_equal(found.valid.sum(axis=1), arrays[f"{prefix}_num"], prefix)
        for image, count in enumerate(arrays[f"{prefix}_num"]):
            for got, name, tolerance in (
                (found.labels, "labels", {}),
                (found.scores, "scores", {"rtol": 1e-5, "atol": 2e-6}),
                (found.boxes, "boxes", {"rtol": 1e-5, "atol": 2e-3}),
            ):
                want = arrays[f"{prefix}_{name}"][image, :count]
                np.testing.assert_allclose(got[image, :count], want, **tolerance, err_msg=prefix)
