"""From backbone maps to SSD's source maps: L2 normalisation of the first, extra layers at the end.

W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Section 3;
W. Liu, A. Rabinovich, A. Berg, "ParseNet", arXiv:1506.04579, Section 3.3 (L2 normalisation).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import conv_norm
from anchors_jax.models.norms import Norm

# (channels, kernel size, stride, padding) of the second convolution of each extra block; the first
# one is 1x1 with half as many channels. Names in the paper: conv8_2 and so on.
SSD300 = ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 1, 0), (256, 3, 1, 0))
SSD512 = ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 4, 1, 1))


class L2Norm(nn.Module):
    """Each pixel's channels at length 1, times a learned number per channel.

    Implementations differ in `eps` (MMDetection adds it to the length, torchvision floors the
    length with it); under the root, the gradient is finite at 0.
    """

    scale: float = 20.0
    eps: float = 1e-10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Computed in float32."""
        start = nn.initializers.constant(self.scale)
        scale = self.param("scale", start, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        length = jax.lax.rsqrt(jnp.sum(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * length * scale[None, None, None]).astype(self.dtype)


class SSDNeck(nn.Module):
    """The backbone's maps, the first of them normalised, and one more map per extra block.

    Attributes:
      extras: (channels, kernel size, stride, padding) of each block's second convolution.
      l2_scale: starting scale of the L2 normalisation of the first map; None: it stays as it is.
      norm: None as in the paper; class or partial of `norms`, after every extra convolution.
      kernel_init: Xavier uniform.
      dtype: of the computation; parameters are float32.
    """

    extras: tuple[tuple[int, int, int, int], ...] = SSD300
    l2_scale: float | None = 20.0
    norm: Norm | None = None
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "B _h _w _c"]], *, train: bool = False
    ) -> tuple[Float[Array, "B _h _w _c"], ...]:
        """Finest first. The extra blocks read the last of `maps`.

        Raises ValueError when a map is too small for a block.
        """
        sources = list(maps)
        if self.l2_scale is not None:
            sources[0] = L2Norm(self.l2_scale, dtype=self.dtype, name="l2_norm")(maps[0])
        x = maps[-1]
        for i, (features, size, stride, padding) in enumerate(self.extras):
            if min(x.shape[1:3]) + 2 * padding < size:
                raise ValueError(
                    f"extra layer {i} does not fit a map of {x.shape[1]} x {x.shape[2]}: the image "
                    "is too small for so many levels"
                )
            x = self._layer(f"extra{i}_1", x, features // 2, 1, 1, 0, train=train)
            x = self._layer(f"extra{i}_2", x, features, size, stride, padding, train=train)
            sources.append(x)
        return tuple(sources)

    def shortened(self, needed: Sequence[bool]) -> tuple[dict[str, Any], int]:
        """The attributes that change when only some of its maps are needed, as plain data.

        And how many maps it then returns, from the finest: all up to the last one in `needed`, and
        those of the backbone. A first map that nothing reads is not normalised.
        """
        maps = len(needed) - len(self.extras)
        live = max(maps, *(level + 1 for level, need in enumerate(needed) if need))
        changes: dict[str, Any] = {"extras": [list(extra) for extra in self.extras[: live - maps]]}
        if not needed[0]:
            changes["l2_scale"] = None
        return changes, live

    def _layer(
        self,
        name: str,
        x: Array,
        features: int,
        size: int,
        stride: int,
        padding: int,
        *,
        train: bool,
    ) -> Array:
        return conv_norm(
            x,
            features,
            size,
            stride=stride,
            padding=padding,
            name=name,
            norm=self.norm,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            train=train,
        )
