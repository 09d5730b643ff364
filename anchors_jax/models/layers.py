"""Convolution, pooling and upsampling with the geometry of the published networks, and the towers
that the heads share.

Every padding is explicit. Flax's "SAME" pads an even map by (0, 1) before a stride of 2, which
moves all features by half a stride against the networks whose weights and anchors we use.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.norms import Norm


def conv(features: int, size: int, *, stride: int = 1, **keywords: Any) -> nn.Conv:
    """A square convolution padded by size // 2 on every side; call inside a linen module.

    `features` output channels, `size` odd, `keywords` as `nn.Conv` (name, dtype, use_bias, ...).
    """
    return nn.Conv(features, (size, size), (stride, stride), padding=size // 2, **keywords)


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
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1, 1),
            padding=((2, 1), (2, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
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
            x = conv(
                self.width,
                3,
                use_bias=self.use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            if self.norm is not None:
                x = self.norm(dtype=self.dtype, name=f"norm{i}")(x, train=train)
            x = nn.relu(x)
        return x


class PriorHead(nn.Module):
    """What heads share whose scores start at a prior and whose outputs are 3x3 convolutions.

    A head calls `_output` inside its own compact `__call__`; the modules are the head's children,
    under the names given.

    Attributes:
      num_classes: K; background is no class.
      prior: score at the start, pi of RetinaNet (arXiv 1708.02002) section 4.1.
      kernel_init: of all convolutions; normal with std 0.01.
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int
    prior: float = 0.01
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.prior < 1.0:
            raise ValueError(f"prior {self.prior} is not between 0 and 1")

    def _output(self, name: str, features: int, **keywords: Any) -> nn.Conv:
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return conv(features, 3, name=name, **options, **keywords)

    def _prior_bias(self) -> Callable[..., Array]:
        """Initialiser whose sigmoid is the prior."""
        return nn.initializers.constant(-math.log((1.0 - self.prior) / self.prior))


class TowerHead(PriorHead):
    """What heads share that read towers of 3x3 convolutions through 3x3 outputs (`_tower`).

    Attributes beside those of `PriorHead`:
      depth, width: of every tower.
      norm: class or partial of `norms`, inside the towers, or None.
      tower_bias: whether tower convolutions have a bias; None: only without a norm (MMDetection's
        ATSS and PAA). The official FCOS and PAA codes have both.
    """

    depth: int = 4
    width: int = 256
    norm: Norm | None = None
    tower_bias: bool | None = None

    def _tower(self, name: str) -> Tower:
        return Tower(
            depth=self.depth,
            width=self.width,
            norm=self.norm,
            use_bias=self.norm is None if self.tower_bias is None else self.tower_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name=name,
        )


def rows_of(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B N n"]:
    """Float32 rows of `size` channels in the order row, column, group of channels: n = size."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1, size)
