"""SSD's loss and decoding by hand: mining, empty images and levels, thresholds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import anchors as make
from anchors_jax import codecs, losses, nms, selection
from anchors_jax.assign import bipartite
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Anchors, Candidates, DensePredictions, Targets

CODEC = codecs.deltas(stds=(0.1, 0.1, 0.2, 0.2))


def scene(anchor_boxes, objects, *, labels=None, slots=3, num_classes=2):
    """Anchors, indifferent predictions and targets of one image."""
    count = len(anchor_boxes)
    anchors = Anchors(
        boxes=jnp.asarray(anchor_boxes, jnp.float32),
        cell=jnp.arange(count),
        shape=jnp.zeros(count, jnp.int32),
        valid=jnp.ones(count, bool),
        level_sizes=((1, count, 1),),
        strides=((8, 8),),
    )
    predictions = DensePredictions(
        logits=jnp.zeros((count, num_classes + 1)), codes=jnp.zeros((count, 4)), maps=((1, count),)
    )
    boxes = np.full((slots, 4), np.nan, np.float32)
    boxes[: len(objects)] = np.reshape(objects, (-1, 4))
    targets = Targets(
        boxes=jnp.asarray(boxes),
        labels=jnp.asarray(np.resize(labels or [0], slots), jnp.int32),
        valid=jnp.arange(slots) < len(objects),
        crowd=jnp.zeros(slots, bool),
    )
    return predictions, anchors, targets


def ssd(floor=0.0):
    return dense.objective(
        assign=bipartite.assign,
        classify=terms.softmax(),
        regress=terms.on_codes(codec=CODEC, loss=functools.partial(losses.smooth_l1, beta=1.0)),
        select=functools.partial(selection.hard_negatives, floor=floor),
        ignore_iof=None,
    )


OBJECTIVE = ssd()
LOSS = jax.jit(OBJECTIVE.loss)
FAR = [[100 + 20 * i, 0, 110 + 20 * i, 10] for i in range(4)]
VARIED = [[0, 0, 10, 20], *FAR]


def test_codes_of_the_worked_example():
    anchor, box = jnp.float32([[0, 0, 10, 20]]), jnp.float32([[1, 2, 13, 22]])
    codes = CODEC.encode(box, anchor)
    np.testing.assert_allclose(codes, [[2, 1, 0.911608, 0]], atol=1e-5)
    np.testing.assert_allclose(CODEC.decode(codes, anchor), box, atol=1e-5)


def test_a_box_beyond_the_image_is_clipped():
    predictions, anchors, _ = scene([[0, 0, 10, 20]], [])
    predictions = predictions.replace(codes=jnp.float32([[0, 0, 100, 0]]))
    found = OBJECTIVE.decode(predictions, anchors, jnp.asarray([300, 300]))
    np.testing.assert_allclose(found.boxes, [[0, 0, 300, 20]], atol=1e-4)
    np.testing.assert_allclose(found.scores, 1 / 3, rtol=1e-6)
    assert found.scores.shape == (1, 2)  # background is no class


def test_the_loss_of_the_worked_example():
    """One positive and three of four negatives at zero logits: 4 ln 3; four codes at zero."""
    terms, statistics = LOSS(*scene(VARIED, [[1, 2, 13, 22]]))
    np.testing.assert_allclose(terms["class"].total, 4 * np.log(3), rtol=1e-6)
    np.testing.assert_allclose(terms["box"].total, 2.415514, rtol=1e-6)
    assert terms["class"].count == terms["box"].count == 1
    assert statistics["hard_negatives"] == 3


def test_fewer_negatives_than_wanted_are_all_taken():
    terms, statistics = LOSS(*scene(VARIED, [[1, 2, 13, 22], [100, 0, 110, 11]]))
    assert statistics["positives"] == 2
    assert statistics["hard_negatives"] == 3
    np.testing.assert_allclose(terms["class"].total, 5 * np.log(3), rtol=1e-6)


def test_an_image_without_objects_teaches_nothing():
    predictions, anchors, targets = scene(VARIED, [])

    def loss(predictions):
        terms, _ = OBJECTIVE.loss(predictions, anchors, targets)
        assert set(terms) == {"class", "box"}
        return terms["class"].total + terms["box"].total, terms["class"].count

    (value, count), gradient = jax.value_and_grad(loss, has_aux=True)(predictions)
    assert value == 0
    assert count == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    assert ssd(floor=1.0).loss(predictions, anchors, targets)[0]["class"].count == 1


def test_only_the_hardest_negatives_of_the_image_are_trained():
    predictions, anchors, targets = scene(VARIED, [[1, 2, 13, 22]])
    # The third negative is sure that it is background.
    predictions = predictions.replace(logits=predictions.logits.at[3, 2].set(9.0))

    def loss(logits):
        return OBJECTIVE.loss(predictions.replace(logits=logits), anchors, targets)[0][
            "class"
        ].total

    moved = np.abs(jax.grad(loss)(predictions.logits)).sum(axis=1) > 0
    np.testing.assert_array_equal(moved, [True, True, True, False, True])


def test_a_rich_image_does_not_lend_its_negatives():
    rich = scene(VARIED, [[1, 2, 13, 22]])
    poor = scene(VARIED, [])
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), (rich[0], rich[2]), (poor[0], poor[2])
    )
    both = jax.jit(jax.vmap(OBJECTIVE.loss, in_axes=(0, None, 0)))
    _, statistics = both(stacked[0], rich[1], stacked[1])
    np.testing.assert_array_equal(statistics["hard_negatives"], [3, 0])


def test_heads_that_do_not_fit_the_grid_are_named():
    predictions, anchors, targets = scene(VARIED, [])
    short = predictions.replace(logits=predictions.logits[1:], codes=predictions.codes[1:])
    with pytest.raises(
        ValueError, match=r"head has 4 anchors and the grid 5.*shapes_per_cell = \(1,"
    ):
        OBJECTIVE.loss(short, anchors, targets)


DETECT = jax.jit(nms.Rule(score_threshold=0.02, top_k=1000, iou_threshold=0.45, max_detections=200))


def candidates_of(boxes, scores, levels=None):
    count = len(boxes)
    return Candidates(
        boxes=jnp.asarray(boxes, jnp.float32),
        scores=jnp.asarray(scores, jnp.float32),
        shape=jnp.zeros(count, jnp.int32),
        level_counts=levels or (count,),
    )


def test_detections_obey_both_thresholds_exactly():
    # IoU with the first box: 0.45 exactly, 0.4501, and of another class 1.
    boxes = [[0, 0, 100, 100], [0, 0, 45, 100], [0, 0, 45.01, 100], [0, 0, 100, 100], [0, 0, 9, 9]]
    scores = [[0.9, 0], [0.8, 0], [0.7, 0], [0, 0.5], [np.float32(0.02), 0]]
    found = DETECT(candidates_of(boxes, scores))
    np.testing.assert_allclose(found.scores[:4], [0.9, 0.8, 0.5, 0.0])
    assert found.boxes.shape == (200, 4)
    np.testing.assert_array_equal(found.valid.sum(), 3)


def test_levels_without_anchors_detect_nothing():
    random = np.random.default_rng(0)
    low = random.uniform(0, 80, (12, 2))
    boxes, scores = np.concatenate([low, low + 10], 1), random.uniform(0.1, 1, (12, 3))
    whole = nms.Rule()(candidates_of(boxes, scores, (5, 7)))
    split = nms.Rule()(candidates_of(boxes, scores, (0, 5, 0, 7, 0)))
    jax.tree.map(np.testing.assert_array_equal, split, whole)


def test_a_pruned_level_is_as_if_its_anchors_were_not_there():
    shapes = ([(12, 12), (20, 10)], [], [(40, 40)])
    maps, strides = ((4, 4), (2, 2), (1, 1)), (8, 16, 32)
    anchors = make.grid(make.explicit(sizes=shapes), maps=maps, strides=strides)
    fewer = make.grid(make.explicit(sizes=shapes[::2]), maps=maps[::2], strides=strides[::2])
    np.testing.assert_array_equal(anchors.boxes, fewer.boxes)
    assert anchors.level_counts == (32, 0, 1)
    _, _, targets = scene(VARIED, [[1, 2, 13, 22], [4, 4, 30, 30]])
    random = np.random.default_rng(1)
    count = len(anchors.boxes)
    predictions = DensePredictions(
        logits=jnp.asarray(random.normal(size=(count, 3)), jnp.float32),
        codes=jnp.asarray(random.normal(size=(count, 4)), jnp.float32),
        maps=maps,
    )
    want = LOSS(predictions.replace(maps=maps[::2]), fewer, targets)
    got = LOSS(predictions, anchors, targets)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    np.testing.assert_array_equal(make.inside(anchors, jnp.asarray([20, 32])).sum(), 32 + 1)
