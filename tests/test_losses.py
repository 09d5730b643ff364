"""Losses: published numbers, reference values and gradients, saturation, degenerate boxes."""

import functools

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import losses

BACKGROUND = 1  # with one class


def value_and_slope(loss):
    """Elementwise value and derivative of `loss(z)` for z [N]."""
    return jax.jit(jax.vmap(jax.value_and_grad(lambda z: loss(z[None])[0])))


@pytest.mark.parametrize(
    ("z", "label", "value", "slope"),
    [
        (0.0, 0, 0.0433217, -0.0745717),
        (0.0, BACKGROUND, 0.129965, 0.223715),
        (-4.59512, BACKGROUND, 7.5377e-7, None),
        (-4.59512, 0, 1.128382, -0.265142),
        (2.0, 0, 4.5089e-4, None),
        (2.0, BACKGROUND, 1.237559, None),
        (5.0, BACKGROUND, 3.704941, None),
        (-20.0, 0, 5.0, None),
    ],
)
def test_published_focal_numbers(z, label, value, slope):
    def loss(z):
        return losses.focal(z.reshape(1, 1), jnp.asarray([label]))[0, 0]

    got, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(z))
    np.testing.assert_allclose(got, value, rtol=2e-5)
    if slope is not None:
        np.testing.assert_allclose(gradient, slope, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.5, 1.0, 2.0, 3.7, 5.0])
@pytest.mark.parametrize("positive", [True, False])
def test_focal_equals_the_definition_and_survives_saturation(gamma, positive):
    z = np.concatenate([np.linspace(-8, 8, 33), [-100.0, -30.0, 30.0, 100.0]])
    truth = jnp.asarray([positive])
    loss = functools.partial(losses.binary_focal, positive=truth, alpha=0.3, gamma=gamma)
    value, slope = value_and_slope(loss)(jnp.asarray(z, jnp.float32))
    u = z if positive else -z
    wrong, surprise = 1 / (1 + np.exp(u)), np.logaddexp(0, -u)
    a = 0.3 if positive else 0.7
    expected = a * wrong**gamma * surprise
    expected_slope = -a * wrong**gamma * (wrong + gamma * (1 - wrong) * surprise)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(
        slope, expected_slope if positive else -expected_slope, rtol=2e-5, atol=1e-30
    )


def test_focal_without_focus_is_half_of_bce_and_keeps_the_type_of_the_gradient():
    logits = jnp.asarray([[-3.0, 0.5], [2.0, -1.0]], jnp.bfloat16)
    labels = jnp.asarray([1, 2])
    targets = losses.one_hot(labels, 2).astype(jnp.float32)
    value = losses.focal(logits, labels, alpha=0.5, gamma=0)
    np.testing.assert_allclose(value, losses.bce(logits, targets) / 2, rtol=1e-6)
    gradient = jax.grad(lambda z: losses.focal(z, labels).sum())(logits)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16


def test_focal_gradient_keeps_few_temporaries():
    shape = (2, 20_000, 40)
    labels = jnp.full(shape[:2], shape[-1])

    def total(logits, ignored):
        rows = jax.vmap(losses.focal)(logits, labels).sum(-1)
        return jnp.where(ignored, 0.0, rows).sum() / 3.0

    step = jax.jit(jax.value_and_grad(total))
    compiled = step.lower(jnp.zeros(shape), jnp.zeros(shape[:2], bool)).compile()
    gradient_bytes = 4 * np.prod(shape)
    # At most the elementwise loss itself; step-by-step differentiation needs three such arrays.
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * gradient_bytes


@pytest.mark.parametrize("gamma", [0, 0.5, 2.0])
def test_soft_focal_meets_focal_at_the_ends(gamma):
    z = jnp.asarray([-100.0, -2.0, 0.0, 3.0, 100.0])
    for target in (0.0, 1.0):
        hard = functools.partial(
            losses.binary_focal, positive=jnp.asarray([target > 0.5]), gamma=gamma
        )
        soft = functools.partial(losses.soft_focal, targets=jnp.asarray([target]), gamma=gamma)
        for got, expected in zip(value_and_slope(soft)(z), value_and_slope(hard)(z), strict=True):
            assert np.isfinite(got).all()
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("positive", [True, False])
def test_smoothed_focal(gamma, positive):
    """The definition; binary_focal at t = 1; and nothing is learned from positives with t = 0."""
    z = jnp.asarray([-100.0, -30.0, -2.0, -0.1, 0.3, 3.0, 30.0, 100.0])
    truth = jnp.asarray([positive])

    def smoothed(t):
        loss = functools.partial(
            losses.smoothed_focal, positive=truth, targets=jnp.asarray([t]), alpha=0.3, gamma=gamma
        )
        return value_and_slope(loss)(z)

    hard = functools.partial(losses.binary_focal, positive=truth, alpha=0.3, gamma=gamma)
    for got, expected in zip(smoothed(1.0), value_and_slope(hard)(z), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)
    for t in (0.0, 0.25, 0.8):
        value, slope = smoothed(t)
        assert np.isfinite(slope).all()
        u = np.asarray(z, np.float64)
        p, surprise = 1 / (1 + np.exp(-u)), np.logaddexp(0, -u)
        want = 0.3 * np.abs(t - p) ** gamma * t * surprise
        if not positive:
            want = 0.7 * p**gamma * (surprise + u)
        np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-6)
    if positive:
        np.testing.assert_array_equal(smoothed(0.0), 0.0)


def test_the_other_form_of_the_focal_loss():
    logits = jnp.asarray([[0.0, 2.0], [-80.0, 80.0]])
    got = losses.focal_star(logits, jnp.asarray([1, 0]), alpha=0.25, gamma=2.0, beta=1.0)
    # Row 0: background at x_t = 0, object at 2; row 1: both as wrong as they can be.
    want = [
        [0.75 * np.log1p(np.exp(-1.0)) / 2, 0.25 * np.log1p(np.exp(-5.0)) / 2],
        [0.25 * 159 / 2, 0.75 * 159 / 2],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # Steepness 1 without shift: weighted cross entropy.
    plain = losses.focal_star(logits, jnp.asarray([1, 0]), alpha=0.5, gamma=1, beta=0)
    np.testing.assert_allclose(
        plain, losses.focal(logits, jnp.asarray([1, 0]), alpha=0.5, gamma=0), rtol=1e-6
    )


def test_other_labels_are_background():
    np.testing.assert_array_equal(
        losses.one_hot(jnp.asarray([-1, 0, 2, 3]), 3),
        [[False] * 3, [True, False, False], [False, False, True], [False] * 3],
    )


BOX_LOSSES = {
    "loss_iou_log": functools.partial(losses.iou, form="log"),
    "loss_iou_linear": functools.partial(losses.iou, form="linear"),
    "loss_iou_square": functools.partial(losses.iou, form="square"),
    "loss_giou": losses.giou,
    "loss_diou": losses.diou,
    "loss_ciou": losses.ciou,
    "loss_bounded_iou": losses.bounded_iou,
}


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_losses_are_zero_for_equal_boxes_and_finite_for_degenerate_ones(name):
    boxes = jnp.asarray(
        [[0, 0, 8, 8], [3, 3, 3, 3], [0, 0, 0, 9], [9, 9, 0, 0], [40, 40, 44, 48]], jnp.float32
    )
    first = jnp.repeat(boxes, len(boxes), axis=0)
    second = jnp.tile(boxes, (len(boxes), 1))

    def total(a, b):
        value = BOX_LOSSES[name](a, b)
        return value.sum(), value

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, value), gradient = step(first, second)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(value[0], 0.0, atol=1e-4 if name == "loss_bounded_iou" else 1e-6)


def check_reductions(case, loss, rows=None):
    """`loss(pred)` elementwise against every stored value and gradient of the case."""
    arrays, atol = case.arrays, 2e-5 if "bounded" in case.op else 5e-6
    predictions = jnp.asarray(arrays["in_pred"])
    value, back = jax.vjp(jax.jit(loss), predictions)
    value, back = np.asarray(value), jax.jit(back)
    rows = np.ones(len(value), bool) if rows is None else rows
    mask = rows.reshape((-1,) + (1,) * (value.ndim - 1))
    value = np.where(mask, value, 0)
    count = value[rows].size
    if "out_none" in arrays:
        expected = arrays["out_none"]
        got = value.sum(-1) if value.ndim > expected.ndim else value
        np.testing.assert_allclose(got[rows], expected[rows], rtol=1e-5, atol=atol)
        count = expected[rows].size
    weights = {"sum": 1.0, "mean": 1.0 / max(count, 1)}
    if "in_weight" in arrays:
        weight = arrays["in_weight"]
        weight = weight.reshape(weight.shape + (1,) * (value.ndim - weight.ndim))
        weights["avg"] = weight / (case.params["avg_factor"] + 1.2e-7)
    for name, scale in weights.items():
        cotangent = np.broadcast_to(np.where(mask, scale, 0), value.shape).astype(np.float32)
        (gradient,) = back(jnp.asarray(cotangent))
        assert np.isfinite(gradient).all()
        if f"out_{name}" in arrays:
            total = np.sum(value * cotangent)
            np.testing.assert_allclose(total, arrays[f"out_{name}"], rtol=1e-5, atol=atol)
        if f"grad_{name}" in arrays:
            smooth = arrays.get("mask_smooth", np.ones(len(value), bool))
            np.testing.assert_allclose(
                np.asarray(gradient)[smooth],
                arrays[f"grad_{name}"][smooth],
                rtol=1e-3,
                atol=2e-5 if "bounded" in case.op else 2e-6,
            )


@golden_cases.cases("sigmoid_focal_loss")
def test_focal_reference(case):
    labels = jnp.asarray(case.arrays["in_labels"])
    check_reductions(
        case,
        lambda z: losses.focal(z, labels, alpha=case.params["alpha"], gamma=case.params["gamma"]),
    )


@golden_cases.cases("smooth_l1_loss", "l1_loss")
def test_l1_reference(case):
    targets = jnp.asarray(case.arrays["in_target"])
    beta = case.params.get("beta", 0)
    check_reductions(case, lambda p: losses.smooth_l1(p, targets, beta=beta))


@golden_cases.cases(*BOX_LOSSES)
def test_box_reference(case):
    targets = jnp.asarray(case.arrays["in_target"])
    keywords = {key: case.params[key] for key in ("eps", "beta") if key in case.params}
    check_reductions(
        case,
        lambda p: BOX_LOSSES[case.op](p, targets, **keywords),
        rows=case.arrays.get("mask_reduced"),
    )


@golden_cases.cases("bce_with_logits")
def test_bce_reference(case):
    targets = jnp.asarray(case.arrays["in_target"])
    used = targets >= 0
    check_reductions(
        case, lambda z: jnp.where(used, losses.bce(z, jnp.where(used, targets, 0.0)), 0.0)
    )


@golden_cases.cases("bce_onehot")
def test_bce_onehot_reference(case):
    labels = jnp.asarray(case.arrays["in_labels"])
    targets = losses.one_hot(labels, case.params["num_classes"]).astype(jnp.float32)
    used = (labels >= 0)[:, None]
    check_reductions(case, lambda z: jnp.where(used, losses.bce(z, targets), 0.0))


@golden_cases.cases("cross_entropy")
def test_cross_entropy_reference(case):
    labels = jnp.asarray(case.arrays["in_labels"])
    check_reductions(case, lambda z: losses.cross_entropy(z, labels))


@golden_cases.cases("gaussian_focal_loss")
def test_gaussian_focal_reference(case):
    targets = jnp.asarray(case.arrays["in_target"])
    keywords = {"alpha": case.params["alpha"], "gamma": case.params["gamma"]}

    def loss(p):  # the reference takes probabilities
        return losses.gaussian_focal(jnp.log(p) - jnp.log1p(-p), targets, **keywords)

    check_reductions(case, loss)


@golden_cases.cases("quality_focal_loss")
def test_quality_focal_reference(case):
    labels, quality = (jnp.asarray(case.arrays[name]) for name in ("in_labels", "in_quality"))
    check_reductions(
        case, lambda z: losses.quality_focal(z, labels, quality, beta=case.params["beta"])
    )
