"""The dense objective with a quality branch and with predictions: weights, gradients, gaps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import boxes as geometry
from anchors_jax import codecs, losses, quality
from anchors_jax.assign import fcos, max_iou
from anchors_jax.objectives import dense, terms
from anchors_jax.types import DensePredictions, Targets

ANCHORS = make.grid(make.locations(), maps=((4, 5), (2, 3)), strides=(8, 16))
COUNT = len(ANCHORS.boxes)
CODEC = codecs.distances(activation="exp")


def objective_of(*, target=quality.iou, loss=losses.bce, **keywords):
    parts = {
        "assign": functools.partial(fcos.assign, range_in_strides=2.0),
        "classify": terms.sigmoid(),
        "regress": terms.on_boxes(codec=CODEC, weight=1.3),
        "quality": terms.branch(target=target, loss=loss, weight=0.5, weighs_boxes=True),
    }
    return dense.objective(**parts | keywords)


def predictions_of(seed=0):
    random = np.random.default_rng(seed)
    return DensePredictions(
        logits=jnp.asarray(random.normal(size=(COUNT, 3)), jnp.float32),
        codes=jnp.asarray(random.normal(2.0, 0.5, (COUNT, 4)), jnp.float32),
        quality=jnp.asarray(random.normal(size=COUNT), jnp.float32),
        maps=((4, 5), (2, 3)),
    )


def targets_of(*objects):
    boxes = np.full((3, 4), np.nan, np.float32)
    boxes[: len(objects)] = np.reshape(objects, (-1, 4))
    return Targets(
        boxes=jnp.asarray(boxes),
        labels=jnp.asarray([2, 0, 1]),
        valid=jnp.arange(3) < len(objects),
        crowd=jnp.zeros(3, bool),
    )


def losses_of(objective, predictions):
    """The terms and statistics of `SCENE`."""
    return jax.jit(objective.loss)(predictions, ANCHORS, SCENE)


def slope_of(objective, term):
    """Gradient of one term's total with respect to the codes."""
    predictions = predictions_of()

    def total(codes):
        return objective.loss(predictions.replace(codes=codes), ANCHORS, SCENE)[0][term].total

    return jax.jit(jax.grad(total))(predictions.codes)


assign = jax.jit(functools.partial(fcos.assign, range_in_strides=2.0))
SCENE = targets_of((1, 2, 25, 18), (3, 1, 39, 31))


def test_terms_by_hand():
    predictions = predictions_of()
    terms, statistics = losses_of(objective_of(), predictions)
    found = assign(ANCHORS, SCENE)
    rows = np.flatnonzero(found.positive)
    assert statistics["positives"] == len(rows) > 4
    objects = SCENE.boxes[found.gt[rows]]
    decoded = CODEC.decode(predictions.codes[rows], ANCHORS.boxes[rows])
    overlap = geometry.iou(decoded, objects)
    want = {
        "box": (1.3 * (overlap * losses.giou(decoded, objects)).sum(), overlap.sum()),
        "quality": (0.5 * losses.bce(predictions.quality[rows], overlap).sum(), len(rows)),
    }
    assert set(terms) == {"class", "box", "quality"}
    for name, (total, count) in want.items():
        np.testing.assert_allclose(terms[name].total, total, rtol=1e-5)
        np.testing.assert_allclose(terms[name].count, count, rtol=1e-6)


def test_the_quality_target_is_a_constant():
    """No gradient from the quality term to the boxes, nor through the weights of the box term."""
    assert not slope_of(objective_of(), "quality").any()
    gradient = slope_of(objective_of(), "box")
    decoded = CODEC.decode(predictions_of().codes, ANCHORS.boxes)
    constants = objective_of(target=lambda boxes, objects, anchors: geometry.iou(decoded, objects))
    np.testing.assert_array_equal(gradient, slope_of(constants, "box"))
    np.testing.assert_array_equal(gradient.any(axis=1), assign(ANCHORS, SCENE).positive)


@pytest.mark.parametrize("target", [quality.iou, quality.centerness])
def test_without_objects_only_the_classes_learn(target):
    objective = objective_of(target=target)

    def total(predictions):
        terms, _ = objective.loss(predictions, ANCHORS, targets_of())
        return sum(term.total for term in terms.values()), terms

    gradients, terms = jax.jit(jax.grad(total, has_aux=True))(predictions_of())
    assert terms["box"].total == terms["quality"].total == 0
    assert not gradients.codes.any()
    assert not gradients.quality.any()
    assert np.isfinite(gradients.logits).all()
    assert gradients.logits.any()


def test_saturated_codes_are_finite():
    wild = predictions_of().replace(codes=jnp.full((COUNT, 4), 80.0).at[::2].set(-80.0))

    def total(predictions):
        terms, _ = objective_of().loss(predictions, ANCHORS, SCENE)
        return sum(term.total for term in terms.values())

    value, gradients = jax.jit(jax.value_and_grad(total))(wild)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_weight_without_a_trained_branch():
    objective = objective_of(loss=None)
    terms, _ = losses_of(objective, predictions_of().replace(quality=None))
    want, _ = losses_of(objective_of(), predictions_of())
    assert set(terms) == {"class", "box"}
    np.testing.assert_array_equal(terms["box"].total, want["box"].total)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="needs a head with a quality output"):
        losses_of(objective_of(), predictions_of().replace(quality=None))


def test_assigners_may_see_predictions_but_pass_no_gradient():
    def by_predictions(anchors, targets, predicted):
        """Max-IoU on the predicted boxes."""
        found = max_iou.assign(anchors.replace(boxes=predicted.boxes), targets)
        seen = predicted.boxes.sum()
        return found.replace(positive=found.positive & (seen != 0), signals={"seen": seen})

    objective = objective_of(assign=by_predictions)
    predictions = predictions_of()
    decoded = CODEC.decode(predictions.codes, ANCHORS.boxes)
    want = jax.jit(max_iou.assign)(ANCHORS.replace(boxes=decoded), SCENE)
    _, statistics = losses_of(objective, predictions)
    assert statistics["positives"] == want.positive.sum() > 0
    assert statistics["seen"] == pytest.approx(float(decoded.sum()), rel=1e-5)
    assert not slope_of(objective, "class").any()


@pytest.mark.parametrize("relative", [False, True])
def test_decoded_targets_are_the_objects(relative):
    codec = codecs.distances(relative=relative, activation="relu")
    found = assign(ANCHORS, SCENE)
    matched = dense.matched_boxes(found, ANCHORS, SCENE)
    codes = codec.encode(matched, ANCHORS.boxes)
    np.testing.assert_array_equal(codec.decode(codes, ANCHORS.boxes), matched)
    twice = codec.encode(2 * matched, 2 * ANCHORS.boxes)
    np.testing.assert_array_equal(twice, codes if relative else 2 * codes)


def test_candidates_carry_the_quality_apart():
    candidates = objective_of().decode(predictions_of(), ANCHORS, jnp.asarray([32, 40]))
    np.testing.assert_allclose(
        candidates.quality, jax.nn.sigmoid(predictions_of().quality), rtol=1e-6
    )
    plain = objective_of().decode(
        predictions_of().replace(quality=None), ANCHORS, jnp.asarray([32, 40])
    )
    assert plain.quality is None
    np.testing.assert_array_equal(plain.scores, candidates.scores)


def test_detections_can_be_judged_by_their_own_boxes():
    predictions = predictions_of()
    bare = predictions.replace(quality=None)
    size = jnp.asarray([32, 40])
    objective = objective_of(loss=None, box_quality=quality.centerness)
    found = objective.decode(bare, ANCHORS, size)
    distances = np.exp(np.asarray(bare.codes, np.float64)).reshape(-1, 2, 2)  # (l, t), (r, b)
    ratio = distances.min(axis=1) / distances.max(axis=1)
    np.testing.assert_allclose(found.quality, np.sqrt(ratio.prod(axis=1)), rtol=1e-5)
    # A head that predicts the quality knows better.
    predicted = objective.decode(predictions, ANCHORS, size)
    np.testing.assert_allclose(predicted.quality, jax.nn.sigmoid(predictions.quality), rtol=1e-6)
    assert objective_of(loss=None).decode(bare, ANCHORS, size).quality is None
