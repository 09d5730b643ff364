"""Codecs: worked values, round trips, reference values, finite on degenerate input."""

import golden_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import boxes as geometry
from anchors_jax import codecs

ANCHOR = jnp.asarray([[0.0, 0.0, 32.0, 32.0]])
TWO_STAGE = (0.1, 0.1, 0.2, 0.2)
CODECS = {
    "deltas": codecs.deltas(stds=TWO_STAGE),
    "deltas with means": codecs.deltas(means=(0.1, -0.1, 0.2, 0.0), limit_both_sides=False),
    "distances": codecs.distances(),
    "relative distances": codecs.distances(relative=True, unit=2.0),
    "exponential distances": codecs.distances(relative=True, activation="exp"),
    "rectified distances": codecs.distances(activation="relu"),
    "tblr": codecs.tblr(),
    "yolo": codecs.yolo(stride=64.0),
}


clip = jax.jit(geometry.clip)


def close(got, expected, rtol=1e-5, atol=2e-4):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def close_boxes(got, expected):
    close(got, expected, rtol=5e-5, atol=1e-3)


def test_worked_values():
    box = jnp.asarray([[8.0, 4.0, 40.0, 52.0]])
    close(codecs.deltas().encode(box, ANCHOR)[0], [0.25, 0.375, 0, 0.405465], atol=1e-6)
    scaled = codecs.deltas(stds=TWO_STAGE).encode(box, ANCHOR)[0]
    close(scaled, [2.5, 3.75, 0, 2.027326], atol=1e-5)
    decoded = codecs.deltas().decode(jnp.asarray([[0.5, 0.25, 0.2, -0.1]]), ANCHOR)
    close(decoded[0], [12.457556, 9.522601, 51.542442, 38.477398])
    clipped = clip(decoded, jnp.asarray([20, 30]))
    close(clipped[0], [12.457556, 9.522601, 30, 20])


def test_activations_of_distances():
    box, codes = jnp.asarray([[8.0, 4.0, 24.0, 48.0]]), jnp.asarray([[-1.0, 0.0, 2.0, 20.0]])
    reach = codecs.distances(activation="exp").decode(codes, ANCHOR)[0] - 16.0
    close(reach, [-np.exp(-1), -1, np.exp(2), 1e4], atol=1e-3)
    in_strides = codecs.distances(relative=True, activation="relu")
    close(in_strides.encode(box, ANCHOR)[0], [0.25, 0.375, 0.25, 1.0])
    close(in_strides.decode(codes, ANCHOR)[0], [16, 16, 16 + 64, 16 + 640])

    def side(code, name):
        return codecs.distances(activation=name).decode(codes.at[0, 2].set(code), ANCHOR)[0, 2]

    slope = jax.grad(side)
    close(slope(2.0, "exp"), np.exp(2))
    assert slope(9.3, "exp") == 0  # beyond 1e4 pixels
    assert (slope(-1.0, "relu"), slope(0.0, "relu"), slope(3.0, "relu")) == (0, 0, 1)


def test_size_limits():
    extreme = jnp.asarray([[0.0, 0.0, 10.0, -10.0]])
    close_boxes(codecs.deltas().decode(extreme, ANCHOR)[0], [-984, 15.744, 1016, 16.256])
    upper_only = codecs.deltas(limit_both_sides=False).decode(extreme, ANCHOR)[0]
    # Subtracting two corners near 16 px leaves about 2e-6 px of rounding.
    close(upper_only[3] - upper_only[1], 32 * np.exp(-10), atol=4e-6)


def test_shapes_keep_the_centre():
    square = jnp.asarray([[-16.0, -16.0, 16.0, 16.0]])
    code = jnp.asarray([[1.0, -1.0]])
    small = codecs.shapes(std=0.14)
    close(small.decode(code, square)[0], [-18.4044, -13.9097, 18.4044, 13.9097])
    close(codecs.shapes().decode(code, square)[0], [-43.4925, -5.8861, 43.4925, 5.8861])
    moved = jnp.asarray([[100.0, 50.0, 130.0, 60.0]])  # where a box is does not matter
    close(small.encode(moved, square), np.log([[30 / 32, 10 / 32]]) / 0.14)
    close(small.decode(small.encode(moved, square), square)[0], [-15, -5, 15, 5])


@pytest.mark.parametrize("code", [1e4, -1e4, np.inf])
def test_extreme_shapes_have_finite_boxes_and_gradients(code):
    def side(code):
        return codecs.shapes().decode(jnp.stack([code, code])[None], ANCHOR)[0, 2]

    value, slope = jax.value_and_grad(side)(jnp.float32(code))
    assert np.isfinite(value)
    assert slope == 0.0
    flat = jnp.asarray([[3.0, 3.0, 3.0, 9.0]])
    assert np.isfinite(codecs.shapes().encode(flat, flat)).all()


@pytest.mark.parametrize("name", CODECS)
def test_round_trip(name):
    random = np.random.default_rng(3)
    centre, side = random.uniform(100, 200, (40, 2)), random.uniform(5, 90, (40, 2))
    anchors = np.concatenate([centre - side, centre + side], -1).astype(np.float32)
    other = random.uniform(5, 90, (40, 2))
    # Centres of anchors stay inside: activated distances know no others.
    shift = random.uniform(-0.9, 0.9, (40, 2)) * np.minimum(other, 22)
    boxes = np.concatenate([centre + shift - other, centre + shift + other], -1)
    codec, boxes = CODECS[name], jnp.asarray(boxes.astype(np.float32))
    around = jax.jit(lambda boxes, anchors: codec.decode(codec.encode(boxes, anchors), anchors))
    close(around(boxes, jnp.asarray(anchors)), boxes, atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_degenerate_input_is_finite_in_value_and_gradient(name):
    odd = jnp.asarray(
        [[5, 5, 5, 5], [0, 0, 0, 9], [0, 3, 9, 3], [9, 9, 0, 0], [0, 0, 9, 9]], jnp.float32
    )
    a, b = odd[:, None], odd[None]
    codec = CODECS[name]

    def total(boxes, anchors):
        codes = codec.encode(boxes, anchors)
        return codes.sum() + codec.decode(jnp.clip(codes, -100, 100), anchors).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(a, b)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def check_decoding(case, codec, codes, anchors):
    decoded = jax.jit(codec.decode)(jnp.asarray(case.arrays[codes]), anchors)
    close_boxes(decoded, case.arrays["out_decoded"])
    if "out_decoded_clipped" in case.arrays:
        clipped = clip(decoded, jnp.asarray(case.params["max_shape"]))
        close_boxes(clipped, case.arrays["out_decoded_clipped"])


def check_deltas(case, codec):
    anchors, boxes = jnp.asarray(case.arrays["in_anchors"]), jnp.asarray(case.arrays["in_gt"])
    encoded = np.asarray(jax.jit(codec.encode)(boxes, anchors))
    assert np.isfinite(encoded).all()
    usable = case.arrays.get("mask_encoded_finite", np.ones(len(encoded), bool))
    close(encoded[usable], case.arrays["out_encoded"][usable])
    check_decoding(case, codec, "in_deltas", anchors)
    if "in_deltas_multi" in case.arrays:
        codes = case.arrays["in_deltas_multi"].reshape(len(anchors), -1, 4)
        decoded = jax.jit(codec.decode)(jnp.asarray(codes), anchors[:, None])
        clipped = clip(decoded, jnp.asarray(case.params["max_shape"]))
        close_boxes(clipped.reshape(len(anchors), -1), case.arrays["out_decoded_multi"])


@golden_cases.cases("delta_coder")
def test_delta_reference(case):
    limit = abs(float(np.log(case.params["wh_ratio_clip"])))
    check_deltas(
        case,
        codecs.deltas(
            means=tuple(case.params["means"]),
            stds=tuple(case.params["stds"]),
            log_size_limit=limit,
        ),
    )


@golden_cases.cases("tv_box_coder")
def test_torchvision_reference(case):
    check_deltas(
        case,
        codecs.deltas(
            stds=tuple(1 / weight for weight in case.params["weights"]),
            log_size_limit=case.params["bbox_xform_clip"],
            limit_both_sides=False,
        ),
    )


@golden_cases.cases("distance_point_coder")
def test_distance_reference(case):
    points, boxes = case.arrays["in_points"], jnp.asarray(case.arrays["in_gt"])
    anchors = jnp.asarray(np.concatenate([points, points], axis=-1))
    codec = codecs.distances()
    close(codec.encode(boxes, anchors), case.arrays["out_encoded"])
    highest = case.params["max_dis"] - case.params["eps"]
    limited = codecs.distances(limits=(0.0, highest)).encode(boxes, anchors)
    close(limited, case.arrays["out_encoded_maxdis"])
    check_decoding(case, codec, "in_distances", anchors)


@golden_cases.cases("tblr_coder")
def test_tblr_reference(case):
    anchors, boxes = jnp.asarray(case.arrays["in_anchors"]), jnp.asarray(case.arrays["in_gt"])
    codec = codecs.tblr(
        relative=case.params["normalize_by_wh"], unit=float(case.params["normalizer"])
    )
    close(codec.encode(boxes, anchors), case.arrays["out_encoded"])
    check_decoding(case, codec, "in_codes", anchors)


@golden_cases.cases("yolo_coder")
def test_yolo_reference(case):
    anchors, boxes = jnp.asarray(case.arrays["in_anchors"]), jnp.asarray(case.arrays["in_gt"])
    codec = codecs.yolo(stride=jnp.asarray(case.arrays["in_stride"]), eps=case.params["eps"])
    close(codec.encode(boxes, anchors), case.arrays["out_encoded"])
    check_decoding(case, codec, "in_codes", anchors)
