"""Overlaps against a slow reference and the stored values; bounds; degenerate boxes."""

import functools

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import boxes as geometry

OVERLAPS = (geometry.iou, geometry.iof, geometry.giou, geometry.diou, geometry.ciou)
DEGENERATE = jnp.asarray(
    [[3, 3, 3, 3], [0, 0, 0, 9], [0, 5, 9, 5], [0, 0, 9, 9], [-4, -4, -2, -2], [9, 9, 0, 0]],
    jnp.float32,
)


def random_boxes(seed: int, count: int, side: float = 50.0) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(-10, side, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=-1).astype(np.float32)


def slow_iou_and_giou(a, b):
    """One pair, in double precision, from the definitions."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = width * height / union
    return iou, iou - (hull - union) / hull


@functools.partial(jax.jit, static_argnums=0, static_argnames=("eps", "aspect_above", "clamp"))
def pairwise(overlap, a, b, **keywords):
    return geometry.pairwise(overlap, a, b, **keywords)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("eps", "aspect_above", "clamp"))
def aligned(overlap, a, b, **keywords):
    return overlap(a, b, **keywords)


def same(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)


def test_pairwise_overlaps_equal_the_slow_reference():
    a, b = random_boxes(0, 7), random_boxes(1, 5)
    expected = np.array([[slow_iou_and_giou(x, y) for y in b] for x in a])
    same(geometry.pairwise(geometry.iou, jnp.asarray(a), jnp.asarray(b)), expected[..., 0])
    same(geometry.pairwise(geometry.giou, jnp.asarray(a), jnp.asarray(b)), expected[..., 1])


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_bounds_identity_and_finite_gradients(overlap):
    a = jnp.concatenate([jnp.asarray(random_boxes(2, 8)), DEGENERATE])

    def total(boxes):
        values = geometry.pairwise(overlap, boxes, a)
        return values.sum(), values

    (_, values), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(a)
    lowest = 0.0 if overlap in (geometry.iou, geometry.iof) else -1.0
    assert np.isfinite(values).all()
    assert values.min() >= lowest - 1e-5
    assert values.max() <= 1 + 1e-5
    same(np.diagonal(values)[:8], 1.0)
    assert np.isfinite(gradient).all()


def test_area_centres_and_clipping():
    boxes = jnp.asarray([[-2.0, 1.0, 8.0, 5.0], [4.0, 4.0, 2.0, 9.0]])
    same(geometry.area(boxes), [40.0, 0.0])
    same(geometry.to_centres(boxes)[0], [3.0, 3.0, 10.0, 4.0])
    same(geometry.to_corners(geometry.to_centres(boxes)), boxes)
    clipped = geometry.clip(boxes, jnp.asarray([4, 6]))
    same(clipped, [[0.0, 1.0, 6.0, 4.0], [4.0, 4.0, 2.0, 4.0]])


@golden_cases.cases("iou_pairwise")
def test_pairwise_reference(case):
    a, b = jnp.asarray(case.arrays["in_boxes1"]), jnp.asarray(case.arrays["in_boxes2"])
    eps = case.params.get("eps", 1e-6)
    for name in ("iou", "iof", "giou"):
        if f"out_{name}" in case.arrays:
            overlap = getattr(geometry, name)
            same(pairwise(overlap, a, b, eps=eps), case.arrays[f"out_{name}"])
    torchvision = {
        "iou": {},
        "giou": {},
        "diou": {},
        "ciou": {"aspect_above": -1.0, "clamp": False},
    }
    for name, keywords in torchvision.items():
        if f"out_tv_{name}" in case.arrays:
            expected = case.arrays[f"out_tv_{name}"]
            got = np.asarray(pairwise(getattr(geometry, name), a, b, **keywords))
            usable = np.isfinite(expected)
            assert np.isfinite(got).all()
            same(got[usable], expected[usable])


@golden_cases.cases("iou_aligned")
def test_aligned_reference(case):
    a, b = jnp.asarray(case.arrays["in_boxes1"]), jnp.asarray(case.arrays["in_boxes2"])
    variants = {
        "out_ciou": {"eps": case.params["eps_ciou"]},
        "out_iou": {"eps": case.params["eps_iou"]},
        "out_giou": {"eps": case.params["eps_giou"]},
        "out_diou": {"eps": case.params["eps_diou"]},
        "out_tv_giou": {"eps": case.params["eps_giou"]},
        "out_tv_diou": {"eps": case.params["eps_diou"]},
        "out_tv_ciou": {"eps": case.params["eps_ciou"], "aspect_above": -1.0, "clamp": False},
    }
    for array, keywords in variants.items():
        if array in case.arrays:
            expected = case.arrays[array]
            got = np.asarray(aligned(getattr(geometry, array.split("_")[-1]), a, b, **keywords))
            usable = np.isfinite(expected)
            assert np.isfinite(got).all()
            same(got[usable], expected[usable])
