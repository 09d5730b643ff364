"""Guided Anchoring by hand: worked losses, what stays constant, the gate, switches."""

import functools

import guided
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import targets_of

from anchors_jax import anchors as make
from anchors_jax import losses

BOX = [64, 64, 192, 192]
SLOTS = 4
RPN, RETINA = guided.grid(**guided.RPN), guided.grid(**guided.RETINA)
PRIOR = -np.log(99.0)
SETTINGS = {"rpn": (guided.RPN_SETTINGS, RPN), "retina": (guided.RETINA_SETTINGS, RETINA)}


@functools.cache
def compiled(kind):
    """(predictions, targets) -> (losses, statistics, gradients of each loss) of one image."""
    settings, anchors = SETTINGS[kind]
    built = guided.objective(settings, number=256)

    @jax.jit
    def run(predictions, targets, anchors):
        def loss(predictions):
            terms, statistics = built.loss(predictions, anchors, targets)
            values = guided.mean(terms)
            return values, (values, statistics)

        gradients, (values, statistics) = jax.jacrev(loss, has_aux=True)(predictions)
        return values, statistics, gradients

    return lambda predictions, targets: run(predictions, targets, anchors)


def one_object(*boxes):
    return targets_of(boxes, slots=SLOTS)


def test_worked_location_losses():
    positive, negative = jnp.array([True]), jnp.array([False])
    for logit, truth, want in (
        (-4.0, positive, 0.968727),
        (-4.0, negative, 4.40368e-6),
        (0.0, positive, 0.0433217),
        (0.0, negative, 0.129965),
    ):
        got = losses.binary_focal(jnp.array([logit]), truth)[0]
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "logit", "want"),
    [
        ((), PRIOR, 1.50755e-5),
        ((), 0.0, 2.599302),
        ((BOX,), PRIOR, 0.372281),
        ((BOX,), 0.0, 2.558807),
    ],
)
def test_the_location_loss_of_even_logits(boxes, logit, want):
    values, _, _ = compiled("rpn")(guided.predictions(RPN, location=logit), one_object(*boxes))
    np.testing.assert_allclose(values["location"], want, rtol=1e-5)


def test_divisors_of_one_object():
    values, _, gradients = compiled("rpn")(guided.predictions(RPN), one_object(BOX))
    np.testing.assert_allclose(values["class"], np.log(2.0), rtol=1e-5)
    np.testing.assert_allclose(values["box"], 4 * (16 / 128 / 0.07 - 0.5) / 256, rtol=1e-5)
    np.testing.assert_allclose(values["shape"], 4 * 0.3 / 256, atol=1e-6)
    assert np.abs(gradients["shape"].shape_codes).max() < 1e-6
    larger, _, _ = compiled("rpn")(guided.predictions(RPN, shape=1.0), one_object(BOX))
    np.testing.assert_allclose(larger["shape"], 0.0063544, rtol=1e-4)


def test_without_centre_terms_a_perfect_shape_costs_nothing():
    built = guided.objective(guided.RPN_SETTINGS, number=256, centre_terms=False)
    run = jax.jit(lambda p, t: guided.mean(built.loss(p, RPN, t)[0]))
    assert run(guided.predictions(RPN), one_object(BOX))["shape"] < 1e-8


@pytest.mark.parametrize("boxes", [(), ([40, 40, 40, 90],)])
@pytest.mark.parametrize("kind", SETTINGS)
def test_nothing_to_find_teaches_no_shapes_and_no_boxes(kind, boxes):
    anchors = SETTINGS[kind][1]
    values, statistics, gradients = compiled(kind)(guided.predictions(anchors), one_object(*boxes))
    assert values["shape"] == values["box"] == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, statistics)))
    if kind == "rpn":
        np.testing.assert_allclose(values["class"], 256 / 257 * np.log(2.0), rtol=1e-5)
    else:  # divided by 1
        each = losses.binary_focal(jnp.zeros(1), jnp.array([False]))[0]
        np.testing.assert_allclose(values["class"], len(anchors.boxes) * each, rtol=1e-4)


@pytest.mark.parametrize("code", [1e4, -1e4, 300.0])
def test_extreme_shapes_are_finite(code):
    result = compiled("retina")(guided.predictions(RETINA, shape=code), one_object(BOX))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


FAR = [[5000, 5000, 5050, 5060], [40, 40, 40, 90], [90, 90, 60, 60]]


@pytest.mark.parametrize("kind", SETTINGS)
def test_objects_that_meet_nothing_change_nothing(kind):
    random = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(0).normal(size=leaf.shape), jnp.float32),
        guided.predictions(SETTINGS[kind][1]),
    )
    want = compiled(kind)(random, one_object(BOX))
    for extra in FAR:
        got = compiled(kind)(random, one_object(BOX, extra))
        for one, other in zip(jax.tree.leaves(got[0]), jax.tree.leaves(want[0]), strict=True):
            np.testing.assert_array_equal(one, other)
        jax.tree.map(np.testing.assert_array_equal, got[2], want[2])


def test_classes_and_boxes_teach_neither_shapes_nor_places():
    random = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape), jnp.float32),
        guided.predictions(RETINA),
    )
    _, _, gradients = compiled("retina")(random, one_object(BOX))
    for name in ("class", "box"):
        assert not gradients[name].shape_codes.any()
        assert not gradients[name].cell_logits.any()
        assert gradients[name].logits.any() or gradients[name].codes.any()
    assert gradients["shape"].shape_codes.any()
    assert gradients["location"].cell_logits.any()


def test_statistics_say_what_shapes_gain():
    long = [40.0, 100.0, 216.0, 164.0]  # 2.75 : 1
    width, height = 176 / 128, 64 / 128
    fitting = guided.predictions(RETINA, location=PRIOR)
    codes = jnp.broadcast_to(jnp.log(jnp.array([width, height])), fitting.shape_codes.shape)
    _, before, _ = compiled("retina")(fitting, one_object(long))
    _, after, _ = compiled("retina")(fitting.replace(shape_codes=codes), one_object(long))
    assert before["best_iou_of_guided_anchors"] == before["best_iou_of_squares"]
    np.testing.assert_allclose(after["best_iou_of_squares"], before["best_iou_of_squares"])
    assert after["best_iou_of_guided_anchors"] > 0.8 > 0.6 > after["best_iou_of_squares"]
    half = jnp.where(jnp.arange(len(RETINA.boxes)) % 2 == 0, 5.0, -10.0)
    _, shares, _ = compiled("retina")(fitting.replace(cell_logits=half), one_object(long))
    np.testing.assert_allclose(shares["share_of_cells_kept"], 0.5, atol=1e-3)
    assert before["objects_without_anchor"] == 0


@jax.jit
def scores(predictions):
    built = guided.objective(guided.RETINA_SETTINGS)
    return built.decode(predictions, RETINA, jnp.array([256, 256])).scores


def test_the_gate_decides_and_does_not_score():
    open_wide = guided.predictions(RETINA, location=5.0)
    just = guided.predictions(RETINA, location=-4.59)  # 0.0101
    np.testing.assert_array_equal(scores(open_wide), scores(just))
    assert (scores(just) == 0.5).all()
    assert not scores(guided.predictions(RETINA, location=-10.0)).any()
    everything = guided.objective(guided.RETINA_SETTINGS, gate=0.0)
    closed = guided.predictions(RETINA, location=-100.0)
    found = everything.decode(closed, RETINA, jnp.array([256, 256]))
    assert (found.scores == 0.5).all()
    with pytest.raises(ValueError, match="gate 1"):
        guided.objective(guided.RETINA_SETTINGS, gate=1.0)


def test_training_sees_no_gate():
    targets = one_object(BOX)
    want, _, _ = compiled("retina")(guided.predictions(RETINA, location=5.0), targets)
    got, _, _ = compiled("retina")(guided.predictions(RETINA, location=-10.0), targets)
    assert got["class"] == want["class"]
    assert got["box"] == want["box"]
    assert got["shape"] == want["shape"]


def test_a_larger_canvas_changes_no_loss():
    size = jnp.array([256, 256])
    large = guided.grid(384, **guided.RETINA)
    valid = make.inside(large, size)
    built = guided.objective(guided.RETINA_SETTINGS, number=256)
    run = jax.jit(lambda p, a, t: guided.mean(built.loss(p, a, t)[0]))
    targets = one_object(BOX, [20, 30, 50, 90])
    small = run(guided.predictions(RETINA, location=-1.0, shape=0.2), RETINA, targets)
    wide = run(
        guided.predictions(large, location=-1.0, shape=0.2), large.replace(valid=valid), targets
    )
    for name, value in small.items():
        np.testing.assert_allclose(wide[name], value, rtol=1e-5, err_msg=name)


def test_switches_of_the_ablation():
    targets, p = one_object(BOX), guided.predictions(RETINA, location=-10.0, shape=0.5)
    built = {
        "L": guided.objective(guided.RETINA_SETTINGS, locations=None),
        "S": guided.objective(guided.RETINA_SETTINGS, shapes=None),
    }

    @jax.jit
    def run(p):
        return {
            name: (one.loss(p, RETINA, targets)[0], one.place(p, RETINA))
            for name, one in built.items()
        }

    found = run(p)
    assert set(found["L"][0]) == {"class", "box", "shape"}
    assert found["L"][1].valid.all()
    assert set(found["S"][0]) == {"class", "box", "location"}
    np.testing.assert_array_equal(found["S"][1].boxes, RETINA.boxes)
    assert not found["S"][1].valid.any()
