"""Which anchors the Semi-Anchored detector keeps, and the rows of its tables as configs."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives.semi_anchored_problem import (
    ANCHORS,
    CODEC,
    TWO,
    decode,
    loss,
    plain,
    predictions,
)

from anchors_jax import options, spec

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "semi_anchored.py"


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
        found = decode(p, top_k=1000, min_score=tau)
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


def test_head_and_grid_must_agree():
    with pytest.raises(
        ValueError, match=r"2 anchors per cell on 6 cells and the grid 3 on 6: set .* = 3"
    ):
        plain().loss(predictions(shapes=2), ANCHORS, TWO)
    with pytest.raises(ValueError, match=r"2 anchors per cell on .* and the grid 3"):
        plain().decode(predictions(shapes=2), ANCHORS, jnp.asarray([32, 48]))


# The rows of the paper's tables, as they are asked for on the command line.
ROWS = {
    "1": ("", {"anchors.shapes.scales_per_octave": 2, "anchors.shapes.ratios": "(1.0,)",
               "model.head.shapes_per_cell": 2}),
    "2": ("", {"model.head.classify_anchors": False, "objective.choose.key": 7}),
    "3": ("_fcos", {}),
    "3 shrink": ("_fcos_shrink", {"objective.label.assign.shrink": 0.4}),
    "4": ("", {"objective.label.gamma": 0.05}),
    "5": ("", {"objective.sigma": 0.0}),
    "6 top": ("", {"objective.choose.top_k": 5}),
    "6 pos": ("", {"objective.choose.top_k": 25, "objective.choose.min_score": 0.2}),
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
    kept = (
        min(detector.objective.choose.top_k, shapes) if detector.model.head.classify_anchors else 1
    )
    assert found.boxes.shape == (cells * kept, 4)
