"""The Semi-Anchored objective: reference values, and what its paper says must hold."""

import functools
import pathlib

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import cases

from anchors_jax import anchors as make
from anchors_jax import codecs, losses, nms, options, spec
from anchors_jax.assign import locations, max_iou
from anchors_jax.objectives import semi_anchored
from anchors_jax.types import SemiAnchoredPredictions, Targets

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "semi_anchored.py"
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


def objective(params, *, regress="prior_positive", **keywords):
    return semi_anchored.objective(
        label=labeller(params, regress=regress),
        codec=codecs.deltas(stds=tuple(params["stds"])),
        class_loss=functools.partial(
            losses.focal, alpha=params["cls_alpha"], gamma=params["cls_beta"]
        ),
        anchor_loss=functools.partial(
            losses.smoothed_focal, alpha=params["ac_alpha"], gamma=params["ac_beta"]
        ),
        box_weight=params["lambda_reg"],
        anchor_weight=params["lambda_ac"],
        positive_iou=params["post_iou_thr"],
        sigma=params["sigma"],
        **keywords,
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
            f"pos{round(100 * tau):03d}": {"top_k": everything, "min_anchor_score": tau}
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
    detect = functools.partial(
        nms.detect,
        score_threshold=params["score_thr"],
        top_k=params["nms_pre"],
        iou_threshold=params["nms_iou"],
        max_detections=params["max_per_img"],
    )

    @functools.partial(jax.jit, static_argnames=("top_k", "min_anchor_score"))
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


# One level of 2 x 3 cells of 16 pixels with three anchors each: 16 x 16, 32 x 32 and 64 x 16.
MAPS = ((2, 3),)
SHAPES = make.explicit(sizes=(((16, 16), (32, 32), (64, 16)),))
ANCHORS = make.grid(SHAPES, maps=MAPS, strides=(16,))
CODEC = codecs.deltas()


def targets_of(boxes, labels, *, slots=4, padding=0.0):
    """Objects, then invalid slots that hold `padding`."""
    count = len(boxes)
    filled = np.full((slots, 4), padding, np.float32)
    filled[:count] = np.reshape(boxes, (-1, 4))
    return Targets(
        boxes=jnp.asarray(filled),
        labels=jnp.asarray(np.pad(labels, (0, slots - count)), jnp.int32),
        valid=jnp.arange(slots) < count,
        crowd=jnp.zeros(slots, bool),
    )


def predictions(seed=0, *, shapes=3, classes=2, cells=6):
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return SemiAnchoredPredictions(
        logits=leaf(cells, classes),
        anchor_logits=leaf(cells, shapes),
        codes=0.1 * leaf(cells, shapes, 4),
        maps=MAPS,
    )


label = jax.jit(functools.partial(locations.by_anchors, assign=max_iou.assign))


def plain(**keywords):
    return semi_anchored.objective(label=label, codec=CODEC, **keywords)


# 14 x 14 in the first cell, 34 x 30 over the last one.
TWO = targets_of([[1, 1, 15, 15], [24, 8, 58, 38]], [1, 0])


# One program for most tests: only shapes make another.
loss = jax.jit(plain().loss)


@jax.jit
def loss_and_gradients(predictions, targets):
    """Terms, and the gradient of each with respect to the predictions."""

    def total(predictions, name):
        terms, _ = plain().loss(predictions, ANCHORS, targets)
        return terms[name].total, terms

    found = {
        name: jax.grad(total, has_aux=True)(predictions, name)
        for name in ("class", "box", "anchor")
    }
    return found["class"][1], {name: gradient for name, (gradient, _) in found.items()}


@pytest.mark.parametrize(
    ("term", "taught"), [("class", "logits"), ("box", "codes"), ("anchor", "anchor_logits")]
)
def test_each_term_teaches_one_output(term, taught):
    # In particular the anchors' labels, though they come from the boxes, do not teach the boxes.
    found = loss_and_gradients(predictions(), TWO)[1][term]
    for name in ("logits", "codes", "anchor_logits"):
        assert np.any(getattr(found, name)) == (name == taught), name


def test_a_slow_reading_of_the_loss():
    """All three terms of one image from the module's docstring, in float64."""
    terms, statistics = loss(predictions(), ANCHORS, TWO)
    decoded = np.asarray(CODEC.decode(predictions().codes, ANCHORS.boxes.reshape(6, 3, 4)))
    p, found = jax.tree.map(np.asarray, (predictions(), label(ANCHORS, TWO)))
    objects, labels = np.asarray(TWO.boxes), np.asarray(TWO.labels)

    def iou(a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        w, h = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
        return w * h / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - w * h)

    def focal(z, yes, t=1.0, gamma=2):
        q = 1 / (1 + np.exp(-np.float64(z)))
        if yes:
            return -0.25 * abs(t - q) ** gamma * t * np.log(q)
        return -0.75 * q**gamma * np.log(1 - q)

    total = dict.fromkeys(("class", "box", "anchor"), 0.0)
    after = 0
    for i in np.flatnonzero(~found.ignored):
        for c in range(2):
            yes = bool(found.positive[i]) and found.label[i] == c
            total["class"] += focal(p.logits[i, c], yes, gamma=1)
        if not found.positive[i]:
            continue
        mine = [g for g in range(2) if labels[g] == found.label[i]]
        mu = np.array([max(iou(box, objects[g]) for g in mine) for box in decoded[i]])
        for k in range(3):
            if found.regressed[i, k]:
                total["box"] -= 2 * np.log(iou(decoded[i, k], objects[found.gt[i, k]]))
            after += mu[k] >= 0.5
            soft = (mu[k] / mu.max()) ** 0.9
            total["anchor"] += focal(p.anchor_logits[i, k], mu[k] >= 0.5, soft)
    counts = {"class": found.positive.sum(), "box": found.regressed.sum(), "anchor": after}
    assert counts["class"] >= 2
    assert after > 0
    for name, term in terms.items():
        np.testing.assert_allclose(term.total, total[name], rtol=1e-5, err_msg=name)
        assert term.count == counts[name], name
    assert statistics["positives"] == counts["class"]
    assert statistics["anchors_regressed"] == counts["box"]
    assert statistics["anchors_positive_after"] == after
    assert (statistics["objects"], statistics["objects_without_anchor"]) == (2, 0)


def test_labels_after_regression_can_differ_from_those_before():
    """A poor anchor regressed well becomes positive, a good one regressed badly negative."""
    box = [[1, 1, 15, 15]]
    target = targets_of(box, [1])
    found = label(ANCHORS, target)
    np.testing.assert_array_equal(found.prior[0], [True, False, False])
    prior = ANCHORS.boxes.reshape(6, 3, 4)
    exact = CODEC.encode(jnp.broadcast_to(target.boxes[0], prior.shape), prior)
    codes = exact.at[0, 0].add(jnp.asarray([1.0, 1.0, 0.0, 0.0])).at[0, 2].set(0.0)
    predicted = predictions().replace(codes=codes)
    mu = semi_anchored.regressed_overlaps(codes, ANCHORS, found, target, codec=CODEC)
    np.testing.assert_allclose(mu[0, 1], 1.0, rtol=1e-4)
    np.testing.assert_array_equal(mu[0] >= 0.5, [False, True, False])
    terms, statistics = loss(predicted, ANCHORS, target)
    assert terms["anchor"].count == 1
    assert statistics["positives"] == 1
    assert statistics["share_of_labels_changed"] == pytest.approx(2 / 3)


def test_soft_targets():
    mu = jnp.asarray([[0.8, 0.4, 0.0], [0.3, 0.3, 0.1], [0.0, 0.0, 0.0]])
    ratio = np.array([[1, 0.5, 0], [1, 1, 1 / 3], [0, 0, 0]])
    for sigma in (0.1, 0.9, 1.0):
        got = semi_anchored.soft_targets(mu, sigma=sigma)
        np.testing.assert_allclose(got, ratio**sigma, rtol=1e-5)
        np.testing.assert_array_equal(got[:2, 0], 1.0)  # the best of every location
    small = semi_anchored.soft_targets(mu, sigma=1e-6)
    np.testing.assert_allclose(small, ratio > 0, atol=1e-5)


@functools.partial(jax.jit, static_argnames=("top_k", "min_anchor_score", "key"))
def decode(predictions, anchors=ANCHORS, **keywords):
    return plain(**keywords).decode(predictions, anchors, jnp.asarray([32, 48]))


def test_what_each_strategy_keeps():
    p = predictions()
    place, choice = (
        np.asarray(jax.nn.sigmoid(p.logits)),
        np.asarray(jax.nn.sigmoid(p.anchor_logits)),
    )
    product = place[:, None] * choice[..., None]  # [P, S, K]
    everything = decode(p, top_k=3)
    assert everything.boxes.shape == (18, 4)
    np.testing.assert_allclose(everything.scores, product.reshape(18, 2), rtol=1e-6)
    np.testing.assert_array_equal(everything.shape, np.tile(np.arange(3), 6))
    want = CODEC.decode(p.codes.reshape(-1, 4), ANCHORS.boxes)
    limit = np.array([48, 32, 48, 32])
    np.testing.assert_allclose(everything.boxes, np.clip(want, 0, limit), rtol=1e-6, atol=1e-5)
    for tau in (0.0, 0.3, 0.6):
        found = decode(p, top_k=1000, min_anchor_score=tau)
        kept = np.where(choice[..., None] > tau, product, 0.0)
        np.testing.assert_allclose(found.scores, kept.reshape(18, 2), rtol=1e-6)
        np.testing.assert_array_equal(found.boxes, everything.boxes)
    for k in (1, 2):
        found = decode(p, top_k=k)
        order = np.argsort(-choice, axis=1)[:, :k]
        row = (np.arange(6)[:, None] * 3 + order).reshape(-1)
        assert found.level_counts == (6 * k,)
        np.testing.assert_array_equal(found.shape, order.reshape(-1))
        np.testing.assert_allclose(found.boxes, everything.boxes[row], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(found.scores, everything.scores[row], rtol=1e-6)


def test_random_anchors_without_anchor_scores():
    p = predictions().replace(anchor_logits=None)
    first, again, other = (decode(p, key=key) for key in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first.boxes.shape == (6, 4)
    assert np.any(first.shape != other.shape)
    np.testing.assert_allclose(first.scores, jax.nn.sigmoid(p.logits), rtol=1e-6)
    every = decode(predictions(), top_k=3)
    row = np.arange(6) * 3 + np.asarray(first.shape)
    np.testing.assert_allclose(first.boxes, every.boxes[row], rtol=1e-6, atol=1e-5)
    terms, _ = loss(p, ANCHORS, TWO)
    assert set(terms) == {"class", "box"}


def test_anchors_of_equal_score_go_in_order():
    tied = predictions().replace(anchor_logits=jnp.zeros((6, 3)))
    for k in (1, 2):
        np.testing.assert_array_equal(decode(tied, top_k=k).shape, np.tile(np.arange(k), 6))


def test_a_larger_canvas_changes_no_loss():
    """Cells to the right of and below the image, full of wild predictions, have no say."""
    p, larger = predictions(), make.grid(SHAPES, maps=((3, 5),), strides=(16,))
    cells = (np.arange(15) // 5 < 2) & (np.arange(15) % 5 < 3)

    def widen(values):
        wide = np.full((15, *values.shape[1:]), 40.0, np.float32)
        wide[cells] = values
        return jnp.asarray(wide)

    valid = make.inside(larger, jnp.asarray([32, 48]), divisor=16)
    np.testing.assert_array_equal(valid, np.repeat(cells, 3))
    # Slots are padding, too.
    far = targets_of([[1, 1, 15, 15], [24, 8, 58, 38]], [1, 0], padding=np.nan)
    want = loss(p, ANCHORS, TWO)
    got = loss(jax.tree.map(widen, p), larger.replace(valid=valid), far)
    for name, term in want[0].items():
        np.testing.assert_allclose(got[0][name].total, term.total, rtol=1e-5, err_msg=name)
        assert got[0][name].count == term.count
    assert got[1]["positives"] == want[1]["positives"]
    hidden = decode(jax.tree.map(widen, p), larger.replace(valid=valid))
    assert not np.asarray(hidden.scores)[~cells].any()
    np.testing.assert_allclose(np.asarray(hidden.scores)[cells], decode(p).scores, rtol=1e-6)


@pytest.mark.parametrize("boxes", [[], [[5, 5, 5, 20]], [[-90, -90, -80, -80]]])
def test_nothing_to_find_is_finite_and_teaches_no_boxes(boxes):
    target = targets_of(boxes, [0] * len(boxes))
    terms, gradients = loss_and_gradients(predictions(), target)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradients)))
    assert terms["box"].total == terms["anchor"].total == 0.0
    assert terms["class"].total > 0.0
    assert not np.any(gradients["box"].codes)
    assert not np.any(gradients["anchor"].anchor_logits)


def test_head_and_grid_must_agree():
    with pytest.raises(ValueError, match=r"2 anchors per cell and the grid 3: set .* = 3"):
        plain().loss(predictions(shapes=2), ANCHORS, TWO)
    with pytest.raises(ValueError, match=r"2 anchors per cell and the grid 3"):
        plain().decode(predictions(shapes=2), ANCHORS, jnp.asarray([32, 48]))


@jax.jit
def match(predictions, targets):
    return plain().match(predictions, ANCHORS, targets)


def test_the_match_is_the_anchors_that_regress():
    found, want = match(predictions(), TWO), label(ANCHORS, TWO)
    np.testing.assert_array_equal(found.positive, want.regressed.reshape(-1))
    np.testing.assert_array_equal(found.gt, want.gt.reshape(-1))
    ignored = np.repeat(want.ignored, 3) & ~np.asarray(found.positive)
    np.testing.assert_array_equal(found.ignored, ignored)


# The rows of the paper's tables, as they are asked for on the command line.
ROWS = {
    "1": ("", {"anchors.shapes.scales_per_octave": 2, "anchors.shapes.ratios": "(1.0,)",
               "model.head.shapes_per_cell": 2}),
    "2": ("", {"model.head.classify_anchors": False, "objective.key": 7}),
    "3": ("_fcos", {}),
    "3 shrink": ("_fcos_shrink", {"objective.label.assign.shrink": 0.4}),
    "4": ("", {"objective.label.gamma": 0.05}),
    "5": ("", {"objective.sigma": 0.0}),
    "6 top": ("", {"objective.top_k": 5}),
    "6 pos": ("", {"objective.top_k": 25, "objective.min_anchor_score": 0.2}),
    "switches": ("", {"objective.label.ignore_between": False,
                      "objective.label.regress": "all_at_positive"}),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_tables_is_a_config(row):
    variant, overrides = ROWS[row]
    words = [f"--config.detector.{key}={value}" for key, value in overrides.items()]
    detector = options.parse([f"--config={CONFIG}:smoke{variant}", *words]).config.detector
    for key, value in overrides.items():
        node = functools.reduce(getattr, key.split("."), detector)
        assert str(node) == str(value), key
    built = spec.build(detector.objective)
    grid = spec.build(detector.anchors)(maps=((2, 3), (1, 2), (1, 1), (1, 1), (1, 1)))
    shapes, cells = detector.model.head.shapes_per_cell, int(grid.cell.max()) + 1
    p = predictions(shapes=shapes, classes=5, cells=cells)
    if not detector.model.head.classify_anchors:
        p = p.replace(anchor_logits=None)
    terms, found = jax.eval_shape(
        lambda p, t: (built.loss(p, grid, t)[0], built.decode(p, grid, jnp.asarray([32, 48]))),
        p,
        TWO,
    )
    assert ("anchor" in terms) == detector.model.head.classify_anchors
    kept = min(detector.objective.top_k, shapes) if detector.model.head.classify_anchors else 1
    assert found.boxes.shape == (cells * kept, 4)
