"""FreeAnchor at the edges: nothing to find, padding, crowds, saturated scores, several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assignments import anchors_of
from objectives.freeanchor_problems import (
    ANCHORS,
    OBJECTS,
    assert_close,
    evaluate,
    freeanchor_with,
    miniature,
    said,
    targets_of,
)

from anchors_jax import train
from anchors_jax.types import DensePredictions

NOTHING_SAID = [(0.5, 0.1, 0.1), (0.02, 0.02, 0.02), (0.9, 0.1, 0.1)]


@pytest.mark.parametrize("slots", [0, 4])
def test_an_image_without_objects(slots):
    anchors, nothing = anchors_of(ANCHORS[:3]), targets_of([], slots=slots)
    result = evaluate(freeanchor_with(), said(NOTHING_SAID), anchors, nothing)
    assert {name: float(term.count) for name, term in result.terms.items()} == {
        "positive": 0, "negative": 0,
    }  # fmt: skip
    assert result.values["positive"] == 0.0
    assert float(result.values["negative"]) == pytest.approx(1.021309, rel=1e-5)  # the sum itself
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    for slope in result.slopes.values():
        np.testing.assert_array_equal(slope.codes, np.zeros((3, 4)))
    np.testing.assert_array_equal(result.slopes["positive"].logits, np.zeros((3, 3)))


def test_fewer_anchors_than_the_bag_holds():
    few = evaluate(freeanchor_with(), *miniature())
    whole = evaluate(freeanchor_with(bag_size=6), *miniature())
    assert few.terms["negative"].count == 150
    assert_close(few.values["positive"], whole.values["positive"])


@pytest.mark.parametrize("box", [[5, 5, 5, 20], [7, 7, 7, 7], [20, 0, 4, 16], [0, 0, 9, 1e-4]])
def test_objects_without_an_area_do_not_count(box):
    predictions, anchors, targets = miniature()
    thin = targets_of([*OBJECTS, box], labels=(0, 2, 0, 1))
    run = functools.partial(evaluate, freeanchor_with(bag_size=2), predictions, anchors)
    assert_close(run(thin), run(targets), rtol=1e-6)


def with_masked_anchors(predictions, anchors):
    """Two more anchors, invalid, with the objects' own boxes and loud predictions."""
    more = anchors_of([*ANCHORS, *OBJECTS[:2]])
    louder = DensePredictions(
        logits=jnp.pad(predictions.logits, ((0, 2), (0, 0)), constant_values=9.0),
        codes=jnp.pad(predictions.codes, ((0, 2), (0, 0)), constant_values=9.0),
        maps=predictions.maps,
    )
    return louder, more.replace(valid=jnp.arange(8) < len(anchors.boxes))


@pytest.mark.parametrize("filler", [(np.nan,) * 4, (0.0, 0.0, 16.0, 16.0), (-1e30, 0.0, 1e30, 9.0)])
def test_padding_changes_nothing(filler):
    predictions, anchors, targets = miniature()
    objective = freeanchor_with(bag_size=2)
    want = evaluate(objective, predictions, anchors, targets)
    _, _, padded = miniature(slots=7, filler=filler)
    got = evaluate(objective, *with_masked_anchors(predictions, anchors), padded)
    assert not any(np.asarray(leaf)[6:].any() for leaf in jax.tree.leaves(got.slopes))
    got = got._replace(slopes=jax.tree.map(lambda leaf: leaf[:6], got.slopes))
    assert_close(got, want, rtol=1e-6)


def test_padding_may_count_as_in_the_references():
    predictions, anchors, targets = miniature()
    arguments = *with_masked_anchors(predictions, anchors), targets
    counted = evaluate(freeanchor_with(bag_size=2, mask_padding=False), *arguments)
    louder, more, _ = arguments
    everywhere = more.replace(valid=jnp.ones(8, bool))
    assert_close(counted, evaluate(freeanchor_with(bag_size=2), louder, everywhere, targets))
    assert (
        counted.values["negative"]
        > evaluate(freeanchor_with(bag_size=2), *arguments).values["negative"]
    )


def test_an_object_far_from_every_anchor_still_learns():
    anchors = anchors_of([[x, y, x + 16, y + 16] for x in range(0, 48, 8) for y in range(0, 48, 8)])
    target = targets_of([[0, 0, 40, 40]])
    predictions = said(np.full((36, 2), 0.1))
    result = evaluate(freeanchor_with(bag_size=10), predictions, anchors, target)
    assert result.statistics["positives"] == 0
    assert result.statistics["objects_without_box"] == 1
    assert np.isfinite(result.values["positive"])
    assert (np.asarray(result.slopes["positive"].logits)[:, 0] < 0).sum() == 10


def test_extreme_predictions_are_finite():
    rng = np.random.default_rng(0)
    _, anchors, targets = miniature()
    predictions = DensePredictions(
        logits=jnp.asarray(rng.choice([-90.0, 90.0], (6, 3)), jnp.float32),
        codes=jnp.asarray(rng.choice([-50.0, 50.0], (6, 4)), jnp.float32),
        maps=((1, 6),),
    )
    result = evaluate(freeanchor_with(bag_size=2), predictions, anchors, targets)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    assert result.values["positive"] > 10
    limited = evaluate(freeanchor_with(bag_size=2, log_limit=20.0), predictions, anchors, targets)
    assert float(limited.values["positive"]) == pytest.approx(10.0)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(limited.slopes["positive"]))


@pytest.mark.parametrize(("z", "value"), [(60.0, 30.0), (90.0, 45.0), (-90.0, 0.0)])
@pytest.mark.parametrize("limit", [None, 25.0])
def test_saturated_scores_of_the_background(z, value, limit):
    anchors, nothing = anchors_of([[0, 0, 16, 16]]), targets_of([])
    predictions = DensePredictions(
        logits=jnp.full((1, 1), z), codes=jnp.zeros((1, 4)), maps=((1, 1),)
    )
    result = evaluate(freeanchor_with(log_limit=limit), predictions, anchors, nothing)
    limited = limit is not None and z > 0
    want = 0.5 * limit if limited else value
    assert float(result.values["negative"]) == pytest.approx(want, rel=1e-6)
    want = 0.0 if limited or z < 0 else 0.5
    assert float(result.slopes["negative"].logits[0, 0]) == pytest.approx(want, abs=1e-6)


def test_anchors_in_a_crowd_take_no_part():
    predictions, anchors, targets = miniature()
    crowd = targets_of(OBJECTS, [[0, 38, 20, 60]], labels=(0, 2, 0, 1))
    without = anchors.replace(valid=anchors.valid.at[5].set(False))
    objective = freeanchor_with(bag_size=2)
    want = evaluate(objective, predictions, without, targets)
    assert_close(evaluate(objective, predictions, anchors, crowd), want)
    ordinary = evaluate(freeanchor_with(bag_size=2, ignore_iof=None), predictions, anchors, crowd)
    assert_close(ordinary, evaluate(objective, predictions, anchors, targets))


def test_groups_divide_by_their_objects():
    predictions, anchors, targets = miniature()

    def of(*masks):
        images = [targets.replace(valid=jnp.asarray(mask, bool)) for mask in masks]
        terms = [evaluate(freeanchor_with(bag_size=2), predictions, anchors, x) for x in images]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(x.terms for x in terms))

    divide = jax.pmap(train.divide, axis_name="batch", devices=jax.local_devices()[:2])

    def on_two_devices(terms):
        losses = divide(jax.tree.map(lambda x: x.reshape(2, 1), terms))
        return {name: float(value.mean()) for name, value in losses.items()}

    terms, nobody = of([1, 0, 0, 0], [1, 1, 1, 0]), of([0] * 4, [0] * 4)
    for name, n in (("positive", 1), ("negative", 2)):
        first, second = (float(x) for x in terms[name].total)
        together = (first + second) / (4 * n)
        assert float(train.divide(terms, group=2)[name]) == pytest.approx(together, rel=1e-6)
        assert on_two_devices(terms)[name] == pytest.approx(together, rel=1e-6)
        apart = (first / n + second / (3 * n)) / 2
        assert float(train.divide(terms, group=1)[name]) == pytest.approx(apart, rel=1e-6)
        raw = float(nobody[name].total.sum())  # a group without objects is divided by 1
        assert on_two_devices(nobody)[name] == pytest.approx(raw, rel=1e-6)
        assert float(train.divide(nobody, group=2)[name]) == pytest.approx(raw, rel=1e-6)
    assert float(nobody["positive"].total.sum()) == 0.0
