"""Convolution, pooling and upsampling with the geometry of the published networks, and the towers
that the heads share.

Every padding is explicit. Flax's "SAME" pads an even map by (0, 1) before a stride of 2, which
moves all features by half a stride against the networks whose weights and anchors we use.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.convolution import LAYOUT, convolve
from anchors_jax.models.norms import Norm


def conv(
    features: int,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    **keywords: Any,
) -> nn.Conv:
    """A square convolution through `convolve`; call inside a linen module.

    `features` output channels; `padding` on every side, None: dilation * (size // 2), which keeps
    the size of a map if `size` is odd; `keywords` as `nn.Conv` (name, dtype, use_bias, ...).
    """
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        kernel_dilation=dilation,
        padding=dilation * (size // 2) if padding is None else padding,
        conv_general_dilated=convolve,
        **keywords,
    )


def conv_norm(
    x: Float[Array, "B H W C"],
    features: int,
    size: int,
    *,
    name: str,
    norm: Norm | None,
    norm_name: str | None = None,
    relu: bool = True,
    dtype: Any,
    train: bool,
    **keywords: Any,
) -> Float[Array, "B h w D"]:
    """A convolution, then `norm` unless it is None, then ReLU if wanted; call as `conv`.

    The convolution is the calling module's `name`, the norm its `norm_name` (None: `name` and
    "_norm"). Without `use_bias` in `keywords`, which are those of `conv`, a norm replaces the bias.
    """
    keywords = {"use_bias": norm is None} | keywords
    x = conv(features, size, name=name, dtype=dtype, **keywords)(x)
    if norm is not None:
        x = norm(dtype=dtype, name=norm_name or f"{name}_norm")(x, train=train)
    return nn.relu(x) if relu else x


class StemConv(nn.Module):
    """7x7 convolution with stride 2, padded by 3, without bias: `conv(features, 7, stride=2)`.

    Computed as a 4x4 convolution with stride 1 on 2x2 blocks of pixels taken as channels (the
    kernel padded to 8x8, its taps regrouped in the same way): the same sums, but processors are
    four times faster with 12 input channels than with 3. The parameter keeps its 7x7 shape.
    """

    features: int
    kernel_init: Callable[..., Array]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """h = ceil(H / 2), w = ceil(W / 2)."""
        batch, height, width, channels = x.shape
        shape = (7, 7, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        # Output i takes rows 2i - 4 .. 2i + 3, that is blocks i - 2 .. i + 1; row 2i - 4 weighs 0.
        kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
        kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
        kernel = kernel.reshape(4, 4, 4 * channels, -1)
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        x = x.reshape(batch, rows, 2, columns, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows, columns, 4 * channels)
        return convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1, 1),
            padding=((2, 1), (2, 1)),
            dimension_numbers=LAYOUT,
        )


def max_pool(x: Float[Array, "B H W C"], *, size: int, stride: int) -> Float[Array, "B h w C"]:
    """Maximum of windows padded by (size - 1) // 2 of -inf: h = ceil(H / stride) (ceil mode).

    `size` is at least `stride`. Written as maxima of slices, rows first: the gradient of a window
    reduction is several times slower on CPUs. Equal maxima share the gradient (after a ReLU they
    are zeros, and have none).
    """
    low = (size - 1) // 2
    rows, columns = ((low, -length % stride + size - stride - low) for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        stop = x.shape[axis] - size + 1
        taps = (jax.lax.slice_in_dim(x, start, start + stop, stride, axis) for start in range(size))
        x = functools.reduce(jnp.maximum, taps)
    return x


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


class Tower(nn.Module):
    """`depth` times 3x3 convolution, optional norm, ReLU."""

    depth: int
    width: int
    norm: Norm | None
    use_bias: bool
    kernel_init: Callable[..., Array]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B H W D"]:
        """Same rows and columns, `width` channels."""
        for i in range(self.depth):
            x = conv_norm(
                x,
                self.width,
                3,
                name=f"conv{i}",
                norm=self.norm,
                norm_name=f"norm{i}",
                use_bias=self.use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                train=train,
            )
        return x
