"""Quality targets: worked values, points on and beyond the rim, degenerate boxes."""

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax import anchors as make
from anchors_jax import quality

# Locations (4, 4), (12, 4), (4, 12), (12, 12).
ANCHORS = make.grid(make.locations(), maps=((2, 2),), strides=(8,))
ANYWHERE = jnp.zeros((4, 4))


def centerness(*objects):
    return quality.centerness(ANYWHERE, jnp.asarray(objects, jnp.float32), ANCHORS)


def test_centerness_by_hand():
    got = centerness(
        (-6, -16, 34, 14),  # distances 10, 20, 30, 10: sqrt(1/3 * 1/2)
        (2, -6, 22, 14),  # in the middle
        (-6, 2, 34, 22),  # 10, 10, 30, 10
        (11, 4, 15, 14),  # 1, 8, 3, 2: sqrt(1/3 * 1/4)
    )
    # The middle of the second object is (12, 4).
    np.testing.assert_allclose(got, [np.sqrt(1 / 6), 1, np.sqrt(1 / 3), np.sqrt(1 / 12)], rtol=1e-6)


def test_centerness_is_zero_on_the_rim_and_beyond():
    got = centerness((4, 0, 9, 9), (40, 40, 50, 50), (4, 12, 4, 12), (20, 20, 0, 0))
    np.testing.assert_array_equal(got, np.zeros(4))


def test_gradients_are_finite_everywhere():
    boxes = jnp.asarray([[4, 4, 4, 4], [4, 0, 9, 9], [0, 8, 8, 16], [90, 90, 10, 10.0]])
    for target in (quality.centerness, quality.iou):
        gradients = jax.grad(lambda b, o, t=target: t(b, o, ANCHORS).sum(), argnums=(0, 1))(
            boxes, boxes
        )
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_iou_compares_boxes_with_objects():
    objects = jnp.asarray([[0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 8, 8], [0, 0, 4, 4.0]])
    boxes = jnp.asarray([[5, 0, 15, 10], [0, 0, 0, 0], [0, 0, 8, 8], [6, 6, 9, 9.0]])
    np.testing.assert_allclose(quality.iou(boxes, objects, ANCHORS), [1 / 3, 0, 1, 0], rtol=1e-6)
