"""Convolution, pooling and upsampling with the geometry of the published networks.

Every padding is explicit. Flax's "SAME" pads an even map by (0, 1) before a stride of 2, which
moves all features by half a stride against the networks whose weights and anchors we use.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float


def conv(features: int, size: int, *, stride: int = 1, **keywords: Any) -> nn.Conv:
    """A square convolution padded by size // 2 on every side; call inside a linen module.

    `features` output channels, `size` odd, `keywords` as `nn.Conv` (name, dtype, use_bias, ...).
    """
    return nn.Conv(features, (size, size), (stride, stride), padding=size // 2, **keywords)


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """3x3 maximum with stride 2, padded by one pixel of -inf: h = ceil(H / 2)."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def upsample(x: Float[Array, "B H W C"], rows: int, columns: int) -> Float[Array, "B h w C"]:
    """Nearest neighbour, twice as large, cropped to (rows, columns).

    A map of n rows was made from one of 2n or 2n - 1 rows, so at most one row is cropped; the
    result then equals nearest interpolation to that size. Raises ValueError otherwise.
    """
    batch, height, width, channels = x.shape
    if (height, width) != (-(-rows // 2), -(-columns // 2)):
        raise ValueError(f"a {height} x {width} map is not half of {rows} x {columns}, rounded up")
    doubled = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
    ).reshape(batch, 2 * height, 2 * width, channels)
    return doubled[:, :rows, :columns]
