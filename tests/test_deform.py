"""Deformable convolution: reference values, a slow loop, borders, whole positions, groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import cases
from jax import lax

from anchors_jax.deform import deform_conv

RAMP = jnp.arange(25.0).reshape(1, 5, 5, 1)


def random(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return jnp.asarray(values, jnp.float32)


def one_tap(tap):
    """A 3x3 kernel that passes on what one of its taps reads."""
    return jnp.zeros((9, 1, 1)).at[tap].set(1.0).reshape(3, 3, 1, 1)


@jax.jit
def ramp_taps(offset):
    """What each tap reads everywhere on the ramp when all are moved by `offset`: [9, 5, 5]."""
    offsets = jnp.broadcast_to(offset.reshape(1, 1, 1, 1, 1, 2), (1, 5, 5, 1, 9, 2))
    kernel = jnp.eye(9).reshape(3, 3, 1, 9)
    return jnp.moveaxis(deform_conv(RAMP, offsets, kernel)[0], -1, 0)


def offsets_of(case):
    """(B, Q*T*2, h, w) as [B, h, w, Q, T, 2]."""
    stored, groups = case.arrays["in_offset"], case.params["deform_groups"]
    batch, channels, height, width = stored.shape
    split = stored.reshape(batch, groups, channels // groups // 2, 2, height, width)
    return jnp.asarray(split.transpose(0, 4, 5, 1, 2, 3))


@cases("deform_conv2d")
def test_values_and_gradients_agree_with_the_reference(case):
    params, arrays = case.params, case.arrays
    settings = {name: params[name] for name in ("stride", "padding", "dilation")}
    x = jnp.asarray(arrays["in_x"].transpose(0, 2, 3, 1))
    kernel = jnp.asarray(arrays["in_weight"].transpose(2, 3, 1, 0))
    assert kernel.shape[2] == x.shape[-1] // params["groups"]
    cotangent = arrays["in_grad_out"].transpose(0, 2, 3, 1)
    offsets = offsets_of(case)
    y, pull = jax.vjp(functools.partial(deform_conv, **settings), x, offsets, kernel)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    close(y, arrays["out_y"].transpose(0, 2, 3, 1), atol=5e-5)
    found = pull(jnp.asarray(cotangent))
    close(found[0], arrays["grad_x"].transpose(0, 2, 3, 1), atol=1e-3)
    close(found[2], arrays["grad_weight"].transpose(2, 3, 1, 0), atol=1e-3)
    moved = found[1].transpose(0, 3, 4, 5, 1, 2).reshape(arrays["grad_offset"].shape)
    close(moved, arrays["grad_offset"], atol=1e-3)


def slow(x, offsets, kernel, mask, *, stride, padding, dilation):
    """The definition, value by value."""
    batch, height, width, groups, taps, _ = offsets.shape
    channels, (_, kw, part, outputs) = x.shape[-1], kernel.shape
    y = np.zeros((batch, height, width, outputs))

    def pixel(b, row, column, channel):
        inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
        return x[b, row, column, channel] if inside else 0.0

    for b, row, column, t, c in np.ndindex(batch, height, width, taps, channels):
        group = c // (channels // groups)
        dy, dx = offsets[b, row, column, group, t]
        py = row * stride - padding + (t // kw) * dilation + dy
        px = column * stride - padding + (t % kw) * dilation + dx
        y0, x0 = int(np.floor(py)), int(np.floor(px))
        value = 0.0
        for i, j in np.ndindex(2, 2):
            share = (1 - abs(py - y0 - i)) * (1 - abs(px - x0 - j))
            value += share * pixel(b, y0 + i, x0 + j, c)
        weights = np.zeros(outputs)
        mine = c // part
        each = outputs // (channels // part)
        own = slice(mine * each, (mine + 1) * each)
        weights[own] = kernel[t // kw, t % kw, c % part, own]
        y[b, row, column] += value * mask[b, row, column, group, t] * weights
    return y


@pytest.mark.parametrize(
    ("size", "kernel", "settings"),
    [
        ((5, 4), (3, 3, 8, 6), {"stride": 1, "padding": 1, "dilation": 1}),
        ((7, 6), (3, 3, 4, 4), {"stride": 2, "padding": 2, "dilation": 2}),  # two weight groups
        ((4, 6), (1, 3, 2, 4), {"stride": 1, "padding": 0, "dilation": 1}),  # four, one row of taps
    ],
)
def test_agrees_with_a_slow_loop(size, kernel, settings):
    cells = [
        (side + 2 * settings["padding"] - settings["dilation"] * (taps - 1) - 1)
        // settings["stride"]
        + 1
        for side, taps in zip(size, kernel, strict=False)
    ]
    taps = kernel[0] * kernel[1]
    x, weights = random(2, *size, 8), random(*kernel, seed=1)
    offsets = random(2, *cells, 2, taps, 2, seed=2, scale=2.0)
    mask = jnp.abs(random(2, *cells, 2, taps, seed=3))
    want = slow(*map(np.asarray, (x, offsets, weights, mask)), **settings)
    got = deform_conv(x, offsets, weights, mask=mask, **settings)
    np.testing.assert_allclose(got, want, atol=1e-4)
    # In blocks of a few cells that do not divide the map.
    blocks = deform_conv(
        x, offsets, weights, mask=mask, block_mb=8 * taps * 4 * 7 / 1e6, **settings
    )
    np.testing.assert_allclose(blocks, want, atol=1e-4)


def test_without_offsets_it_is_an_ordinary_convolution():
    x, kernel = random(2, 6, 7, 4), random(3, 3, 4, 5, seed=1)
    numbers = ("NHWC", "HWIO", "NHWC")
    pad = ((1, 1), (1, 1))
    want = lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=numbers)
    got = deform_conv(x, jnp.zeros((2, 6, 7, 2, 9, 2)), kernel)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_offsets_are_down_and_right():
    read = ramp_taps(jnp.array([0.25, 0.5]))
    assert read[4, 2, 2] == 13.75  # 5 per row, 1 per column
    still = ramp_taps(jnp.zeros(2))
    np.testing.assert_array_equal(still[1, 1:], RAMP[0, :-1, :, 0])  # the cell above
    np.testing.assert_array_equal(still[3, :, 1:], RAMP[0, :, :-1, 0])  # the cell to the left


def test_values_fade_out_over_one_pixel():
    centre = {dy: ramp_taps(jnp.array([dy, 0.0]))[4] for dy in (-1.5, -1.0, -0.5, 0.5, 1.0, 1.5)}
    assert centre[-0.5][0, 4] == 2.0  # half of 4
    assert centre[-1.0][0, 4] == centre[-1.5][0, 4] == 0.0
    assert centre[0.5][4, 4] == 12.0  # half of 24
    assert centre[1.0][4, 4] == centre[1.5][4, 4] == 0.0
    corner = ramp_taps(jnp.array([0.5, 0.5]))[4]
    assert corner[4, 4] == 6.0


def test_far_positions_read_nothing_and_have_no_gradient():
    x, kernel = random(1, 4, 4, 2), random(3, 3, 2, 2, seed=1)

    def total(x, offsets):
        return deform_conv(x, offsets, kernel).sum()

    for far in (1e9, -1e9, jnp.inf, 4.0 + 4):
        offsets = jnp.full((1, 4, 4, 1, 9, 2), far)
        value, (dx, doffsets) = jax.value_and_grad(total, argnums=(0, 1))(x, offsets)
        assert value == 0.0
        assert not dx.any()
        assert not doffsets.any()


def test_at_whole_positions_the_slope_is_that_ahead():
    def read(offset, row):
        offsets = jnp.zeros((1, 5, 5, 1, 9, 2)).at[0, row, 2, 0, 4].set(offset)
        return deform_conv(RAMP, offsets, one_tap(4))[0, row, 2, 0]

    slope = jax.jit(jax.grad(read))
    np.testing.assert_array_equal(slope(jnp.zeros(2), 2), [5.0, 1.0])
    np.testing.assert_array_equal(slope(jnp.zeros(2), 4), [-22.0, 1.0])  # ahead it fades from 22
    np.testing.assert_array_equal(slope(jnp.array([-1.0, 0.0]), 0), [0.0, 0.0])
    np.testing.assert_array_equal(slope(jnp.array([-0.5, 0.0]), 0), [2.0, 0.5])


def test_channels_follow_their_own_group():
    x, kernel = random(1, 4, 5, 8), jnp.eye(8).reshape(1, 1, 8, 8)
    offsets = jnp.zeros((1, 4, 5, 4, 1, 2)).at[:, :, :, 2, :, 1].set(1.0)
    got = deform_conv(x, offsets, kernel, padding=0)
    moved = jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, 1:]
    np.testing.assert_array_equal(got[..., 4:6], moved[..., 4:6])
    np.testing.assert_array_equal(got[..., :4], x[..., :4])
    np.testing.assert_array_equal(got[..., 6:], x[..., 6:])


def test_gradients_do_not_depend_on_the_blocks():
    x, kernel = random(2, 5, 6, 4), random(3, 3, 4, 3, seed=1)
    offsets = random(2, 5, 6, 2, 9, 2, seed=2)

    def gradients(block_mb):
        def total(*arguments):
            return jnp.sum(jnp.square(deform_conv(*arguments, block_mb=block_mb)))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(x, offsets, kernel)

    for one, other in zip(gradients(8.0), gradients(7 * 9 * 4 * 4 / 1e6), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_positions():
    # Positions beyond 256 are not whole numbers in bfloat16.
    x = jnp.arange(600.0).reshape(1, 1, 600, 1) % 2.0
    offsets = jnp.zeros((1, 1, 600, 1, 1, 2), jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    got = deform_conv(x.astype(jnp.bfloat16), offsets, kernel, padding=0)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32), x)


def test_memory_stays_far_below_all_columns_at_once():
    shapes = ((1, 100, 168, 256), (1, 100, 168, 4, 9, 2), (3, 3, 256, 256))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def total(*arguments):
        return jnp.sum(jnp.square(deform_conv(*arguments)))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    memory = gradient.lower(*arguments).compile().memory_analysis()
    columns = 100 * 168 * 9 * 256 * 4
    assert memory.temp_size_in_bytes < columns


@pytest.mark.parametrize(
    ("offsets", "kernel", "message"),
    [
        ((1, 4, 4, 1, 9, 2), (3, 3, 8, 8), "4 x 4 cells and 9 taps, but .* 5 x 5 cells"),
        ((1, 5, 5, 1, 4, 2), (3, 3, 8, 8), "and 4 taps, but .* 9 taps"),
        ((1, 5, 5, 3, 9, 2), (3, 3, 8, 8), "8 channels do not divide into 3 deform groups"),
        ((1, 5, 5, 1, 9, 2), (3, 3, 3, 8), "weight groups of 3 channels"),
    ],
)
def test_misfits_are_named(offsets, kernel, message):
    with pytest.raises(ValueError, match=message):
        deform_conv(jnp.zeros((1, 5, 5, 8)), jnp.zeros(offsets), jnp.zeros(kernel))
