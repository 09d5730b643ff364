"""PAA's objective and inference against reference values, under both sets of rules."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import cases

from anchors_jax import codecs, likelihoods, losses, nms, quality, selection
from anchors_jax.assign import paa
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Anchors, DensePredictions, Targets

OFFICIAL, MMDET = "official_", ""
MMDET_RULES = {"low_quality_owner": "claiming", "separation": "c_members", "min_candidates": 2}


def objective_of(params, rules=OFFICIAL):
    codec = codecs.deltas(stds=tuple(params["stds"]), limit_both_sides=rules == MMDET)
    focal = heads.focal(params)
    lambda_s = params["box_weight"] if rules == MMDET else params.get("score_lambda", 1.0)
    return dense.objective(
        assign=functools.partial(
            paa.assign,
            likelihood=functools.partial(
                likelihoods.class_box, class_loss=focal, lambda_s=lambda_s
            ),
            topk=params["topk"],
            candidate_iou=params["gate"],
            **(MMDET_RULES if rules == MMDET else {}),
        ),
        classify=terms.sigmoid(loss=focal),
        regress=terms.on_boxes(codec=codec, weight=params["box_weight"]),
        select=functools.partial(selection.everything, floor=0.0),
        quality=terms.branch(
            target=quality.iou, weight=params["quality_weight"], weighs_boxes=True
        ),
    )


def setting(case, rules):
    """Predictions with quality, and anchors: official rules know no invalid ones."""
    anchors = heads.anchors_of(case)
    if rules == OFFICIAL:
        anchors = anchors.replace(valid=jnp.ones_like(anchors.valid))
    iou = jnp.asarray(heads.flat(case, "iou")[..., 0])
    return heads.predictions_of(case).replace(quality=iou), anchors


@functools.cache
def gradients_of_image(settings, rules):
    """Compiled once for all images of one shape: gradients of the weighted terms, and the terms."""
    objective = objective_of(dict(settings), rules)

    def weighted(predictions, weights, anchors, targets):
        terms, _ = objective.loss(predictions, anchors, targets)
        return sum(weights[name] * term.total for name, term in terms.items()), terms

    return jax.jit(jax.grad(weighted, has_aux=True))


@cases("paa_loss")
@pytest.mark.parametrize("rules", [MMDET, OFFICIAL], ids=["mmdet", "official"])
def test_losses_and_gradients_agree_with_the_reference(case, rules):
    arrays = case.arrays
    settings = {name: case.params[name] for name in (*DEFAULT, "score_lambda")}
    settings["stds"] = tuple(settings["stds"])
    function = gradients_of_image(tuple(settings.items()), rules)
    predictions, anchors = setting(case, rules)
    targets, images = heads.targets_of(case), range(len(anchors.valid))

    def run(weights):
        def one(image):
            prediction, target = jax.tree.map(lambda leaf: leaf[image], (predictions, targets))
            return function(
                prediction, weights, anchors.replace(valid=anchors.valid[image]), target
            )

        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(one, images))

    _, terms = run(dict.fromkeys(("class", "box", "quality"), 1.0))
    counts = {name: term.count.sum() for name, term in terms.items()}
    assert counts["class"] == counts["quality"] == arrays[f"{rules}num_pos"]
    np.testing.assert_allclose(counts["box"], arrays[f"{rules}sum_iou"], rtol=1e-5)
    # MMDetection divides class losses by at least one per image of the batch.
    least = {"class": float(len(images)) if rules == MMDET else 1.0}
    weights = {name: 1.0 / jnp.maximum(n, least.get(name, 1.0)) for name, n in counts.items()}
    for name, theirs in (("class", "cls"), ("box", "bbox"), ("quality", "iou")):
        stored = arrays[f"{rules}loss_{theirs}" + ("_f64" if rules == MMDET else "")]
        value = weights[name] * terms[name].total.sum()
        np.testing.assert_allclose(value, stored, rtol=1e-5, atol=1e-6)
    gradients, _ = run(weights)
    got = gradients.logits, gradients.codes, gradients.quality[..., None]
    for gradient, name in zip(got, ("cls", "box", "iou"), strict=True):
        want = heads.flat(case, f"{rules}grad_{name}")
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=5e-5 * np.abs(want).max())


@cases("paa_predict")
@pytest.mark.parametrize("rules", [MMDET, OFFICIAL], ids=["mmdet", "official"])
@pytest.mark.parametrize("voted", [False, True], ids=["nms", "voted"])
def test_detections_agree_with_the_reference(case, rules, voted):
    params, arrays = case.params, case.arrays
    predictions, anchors = setting(case, OFFICIAL)  # every cell of the canvas is scored
    image_size = jnp.asarray(arrays["image_hw"])
    voting = functools.partial(
        nms.score_voting, sigma=params["sigma_t"], min_iou=params["voting_min_iou"]
    )
    detect = nms.Rule(
        score_threshold=params["score_thr"],
        top_k=params["nms_pre"],
        iou_threshold=params["nms_iou"],
        max_detections=params["max_per_img"],
        voting=voting if voted else None,
        **({"threshold_on": "score", "top_k_of": "anchors"} if rules == MMDET else {}),
    )

    @jax.jit
    def run(predictions, image_size):
        decode = objective_of(params, rules).decode
        return jax.vmap(detect)(heads.over_images(decode, predictions, anchors, image_size))

    found = run(predictions, image_size)
    prefix = rules + ("voted_" if voted else "det_")
    number = arrays[f"{prefix}num"]
    np.testing.assert_array_equal(found.valid.sum(axis=1), number)
    for image, count in enumerate(number):

        def same(got, name, image=image, count=count, **tolerance):
            want = arrays[prefix + name][image, :count]
            np.testing.assert_allclose(got[image, :count], want, **tolerance)

        same(found.labels, "labels", rtol=0)
        same(found.scores, "scores", rtol=1e-5, atol=2e-6)
        same(found.boxes, "boxes", rtol=1e-5, atol=5e-3 if voted else 2e-3)


DEFAULT = {
    "stds": (0.1, 0.1, 0.2, 0.2), "focal_alpha": 0.25, "focal_gamma": 2.0, "topk": 9,
    "gate": 0.1, "box_weight": 1.3, "quality_weight": 0.5,
}  # fmt: skip


def miniature():
    """A 6 x 6 map of stride 8 with one 32 x 32 anchor per cell, and two objects in four slots."""
    y, x = np.meshgrid(*2 * [(np.arange(6) + 0.5) * 8.0], indexing="ij")
    centre = np.stack([x, y], -1).reshape(-1, 2)
    random = np.random.default_rng(0)
    anchors = Anchors(
        boxes=jnp.asarray(np.concatenate([centre - 16, centre + 16], 1), jnp.float32),
        cell=jnp.arange(36),
        shape=jnp.zeros(36, jnp.int32),
        valid=jnp.ones(36, bool),
        level_sizes=((6, 6, 1),),
        strides=((8.0, 8.0),),
    )
    predictions = DensePredictions(
        logits=jnp.asarray(random.normal(-2, 1, (36, 3)), jnp.float32),
        codes=jnp.asarray(random.normal(0, 1, (36, 4)), jnp.float32),
        quality=jnp.asarray(random.normal(0, 1, 36), jnp.float32),
        maps=((6, 6),),
    )
    targets = Targets(
        boxes=jnp.asarray([[1, 2, 30, 26], [20, 20, 44, 47], [0, 0, 0, 0], [0, 0, 0, 0]], float),
        labels=jnp.asarray([1, 2, 0, 0]),
        valid=jnp.asarray([True, True, False, False]),
        crowd=jnp.zeros(4, bool),
    )
    return predictions, anchors, targets


@jax.jit
def loss_and_gradients(predictions, anchors, targets):
    objective = objective_of(DEFAULT)

    def total(predictions):
        terms, statistics = objective.loss(predictions, anchors, targets)
        values = [t.total / jnp.maximum(t.count, 1e-6) for t in terms.values()]
        return sum(values), (terms, statistics)

    return jax.value_and_grad(total, has_aux=True)(predictions)


def test_an_image_without_objects_is_all_background():
    predictions, anchors, targets = miniature()
    nothing = targets.replace(valid=jnp.zeros(4, bool))
    (_, (terms, statistics)), gradients = loss_and_gradients(predictions, anchors, nothing)
    background = losses.focal(predictions.logits, jnp.full(36, 3)).sum()
    np.testing.assert_allclose(terms["class"].total, background, rtol=1e-5)
    assert statistics["positives"] == terms["box"].total == terms["quality"].total == 0.0
    assert np.isfinite(gradients.logits).all()
    assert not gradients.codes.any()
    assert not gradients.quality.any()


@pytest.mark.parametrize("padding", [np.nan, 0.0, 1e30])
def test_padding_matters_to_nothing(padding):
    predictions, anchors, targets = miniature()
    want = loss_and_gradients(predictions, anchors, targets)
    assert want[0][1][1]["positives"] >= 2
    padded = targets.replace(boxes=targets.boxes.at[2:].set(padding))
    got = loss_and_gradients(predictions, anchors, padded)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


def test_nothing_but_the_losses_themselves_is_differentiated():
    predictions, anchors, targets = miniature()
    objective = objective_of(DEFAULT)

    def totals(predictions):
        terms, _ = objective.loss(predictions, anchors, targets)
        return {name: term.total for name, term in terms.items()}

    gradients = jax.jit(jax.jacrev(totals))(predictions)
    box, iou, label = (gradients[name] for name in ("box", "quality", "class"))
    assert box.codes.any()
    assert iou.quality.any()
    assert label.logits.any()
    for gradient in (box.logits, box.quality, iou.codes, iou.logits, label.codes, label.quality):
        assert not gradient.any()


def test_degenerate_objects_give_finite_gradients():
    predictions, anchors, targets = miniature()
    flat = jnp.asarray([[4, 4, 4, 20], [3, 3, 3, 3], [-90, -90, -80, -70], [30, 30, 10, 10]], float)
    everything = targets.replace(boxes=flat, valid=jnp.ones(4, bool))
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(loss_and_gradients(predictions, anchors, everything))
    )
