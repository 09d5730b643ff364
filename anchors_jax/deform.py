"""Deformable convolution: every kernel tap reads where a learned offset sends it.

    J. Dai et al., "Deformable Convolutional Networks", ICCV 2017, arXiv:1703.06211, Section 2.1;
    X. Zhu et al., "Deformable ConvNets v2", CVPR 2019, arXiv:1811.11168, Eq. 1 (with `mask`).

    y(p) = sum_t w(t) m_t(p) x(stride p + dilation t - padding + offset_t(p))

x is read by bilinear interpolation of a map that is 0 beyond its border: a value fades out over the
pixel next to the border and is 0 from one pixel outside on. Positions are float32 whatever the
features are. At whole positions, where interpolation has a kink, the derivative with respect to
an offset is the one towards larger coordinates; from one pixel outside on it is 0.

The values that a convolution by matrix product reads are taps times as large as the map. They are
made for a block of output cells at a time and made anew for the gradient: 100 x 168 cells of 256
channels, 3 x 3 taps, take 155 MB at once and 103 MB of temporaries for loss and gradient in blocks
of 4 MB. (Writing the gradient out by hand saved neither time nor memory on top.)
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int


@functools.partial(jax.jit, static_argnames=("stride", "padding", "dilation", "block_mb"))
def deform_conv(
    x: Float[Array, "B H W C"],
    offsets: Float[Array, "B h w Q T 2"],
    kernel: Float[Array, "kh kw c D"],
    *,
    mask: Float[Array, "B h w Q T"] | None = None,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    block_mb: int | float = 4.0,
) -> Float[Array, "B h w D"]:
    """A convolution whose taps are moved by `offsets`, at every output cell by its own.

    Args:
        x: features.
        offsets: (dy, dx) in pixels of x, for each of Q deform groups and T = kh * kw taps (row by
            row). Channel i of x belongs to deform group i // (C / Q).
        kernel: weights. Its c input channels divide C, which makes C / c weight groups.
        mask: factor of every tap (v2), or None (v1).
        stride: pixels of x from one output cell to the next.
        padding: zeros on every side of x. They decide how many cells there are, and where the
            first one is; what a tap reads outside x is 0 in any case.
        dilation: pixels of x from one tap to the next.
        block_mb: MB (1e6 bytes) of values read at a time. On CPUs more is slower.

    Returns:
        h = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1, w likewise; the type of x.

    Raises:
        ValueError: offsets or kernel do not fit x.
    """
    _check(x.shape, offsets.shape, kernel.shape, stride, padding, dilation)
    batch, height, width, groups, taps, _ = offsets.shape
    count = batch * height * width
    position, inside = _positions(offsets, x.shape, kernel.shape[1], stride, padding, dilation)
    weight = inside.astype(jnp.float32) if mask is None else jnp.where(inside, mask, 0.0)
    image = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), height * width)
    bordered = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    bordered = bordered.reshape(*bordered.shape[:3], groups, -1)

    @jax.checkpoint
    def read_and_multiply(cells: tuple[Array, Array, Array]) -> Float[Array, "n D"]:
        image, position, weight = cells
        values = interpolate(bordered, image, position, weight)
        return _product(values, kernel)

    cells = (image, position.reshape(count, groups, taps, 2), weight.reshape(count, groups, taps))
    each = taps * x.shape[-1] * x.dtype.itemsize
    block = min(max(int(block_mb * 1e6 / each), 1), count)
    blocks = -(-count // block)

    def split(values: Array) -> Array:
        # Cells beyond the last read the middle of the first image, and nobody reads them.
        padded = jnp.pad(values, ((0, blocks * block - count),) + ((0, 0),) * (values.ndim - 1))
        return padded.reshape(blocks, block, *values.shape[1:])

    if blocks == 1:
        y = read_and_multiply(cells)
    else:
        y = lax.map(read_and_multiply, jax.tree.map(split, cells))
        y = y.reshape(blocks * block, -1)[:count]
    return y.reshape(batch, height, width, -1)


def interpolate(
    bordered: Float[Array, "B Hb Wb Q c"],
    image: Int[Array, "n"],
    position: Float[Array, "n Q T 2"],
    weight: Float[Array, "n Q T"],
) -> Float[Array, "n Q T c"]:
    """Weighted values between pixels.

    Args:
        bordered: maps with a border of one pixel of zeros (H = Hb - 2), channels by deform group.
        image: which map each cell reads.
        position: (y, x) in -1..H and -1..W (without the upper end), pixels of the map without its
            border.
        weight: factor of each value.
    """
    low = jnp.floor(position)
    part = position - low
    corner = low.astype(jnp.int32) + 1
    shape = weight.shape
    start = jnp.stack(
        [
            jnp.broadcast_to(image[:, None, None], shape),
            corner[..., 0],
            corner[..., 1],
            jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32)[None, :, None], shape),
        ],
        axis=-1,
    )
    # A window of 2 x 2 pixels of one deform group: one gather instead of four.
    squares = lax.gather(
        bordered,
        start,
        lax.GatherDimensionNumbers(
            offset_dims=(3, 4, 5), collapsed_slice_dims=(0, 3), start_index_map=(0, 1, 2, 3)
        ),
        slice_sizes=(1, 2, 2, 1, bordered.shape[-1]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )  # [n, Q, T, 2, 2, c]
    rows, columns = (jnp.stack([1.0 - part[..., i], part[..., i]], -1) for i in (0, 1))
    share = weight[..., None, None] * rows[..., :, None] * columns[..., None, :]
    return jnp.sum(squares * share[..., None], axis=(3, 4)).astype(bordered.dtype)


def _positions(
    offsets: Float[Array, "B h w Q T 2"],
    size: tuple[int, ...],
    kernel_width: int,
    stride: int,
    padding: int,
    dilation: int,
) -> tuple[Float[Array, "B h w Q T 2"], Bool[Array, "B h w Q T"]]:
    """Where each tap reads, and whether that is less than a pixel outside; elsewhere (-1, -1)."""
    _, height, width, _, taps, _ = offsets.shape
    tap = jnp.stack(jnp.divmod(jnp.arange(taps), kernel_width), axis=-1)  # [T, 2]
    cell = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1)
    origin = cell[:, :, None] * stride - padding + tap[None, None] * dilation  # [h, w, T, 2]
    position = origin[None, :, :, None].astype(jnp.float32) + offsets.astype(jnp.float32)
    limit = jnp.asarray(size[1:3], jnp.float32).reshape((1,) * 5 + (2,))
    inside = jnp.all((position > -1.0) & (position < limit), axis=-1)
    return jnp.where(inside[..., None], position, -1.0), inside


def _product(values: Float[Array, "n Q T c"], kernel: Array) -> Float[Array, "n D"]:
    """The sum over taps and channels, one weight group at a time."""
    cells, taps, channels = values.shape[0], values.shape[2], kernel.shape[2]
    values = jnp.moveaxis(values, 1, 2).reshape(cells, taps, -1, channels)
    kernel = kernel.astype(values.dtype).reshape(taps, channels, values.shape[2], -1)
    return jnp.einsum("ntgc,tcgd->ngd", values, kernel).reshape(cells, -1)


def _check(
    x: tuple[int, ...],
    offsets: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int,
    padding: int,
    dilation: int,
) -> None:
    cells = tuple(
        (side + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for side, taps in zip(x[1:3], kernel[:2], strict=True)
    )
    if offsets[1:3] != cells or offsets[4] != kernel[0] * kernel[1]:
        raise ValueError(
            f"offsets of {offsets[1]} x {offsets[2]} cells and {offsets[4]} taps, but the "
            f"convolution has {cells[0]} x {cells[1]} cells and {kernel[0] * kernel[1]} taps"
        )
    if x[3] % offsets[3] or x[3] % kernel[2] or kernel[3] % (x[3] // kernel[2]):
        raise ValueError(
            f"{x[3]} channels do not divide into {offsets[3]} deform groups and weight groups of "
            f"{kernel[2]} channels with {kernel[3]} outputs"
        )
