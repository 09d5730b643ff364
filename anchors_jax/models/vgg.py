"""VGG16 (Simonyan and Zisserman, ICLR 2015) as the backbone of SSD.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Section 3.

Thirteen 3x3 convolutions in the ImageNet network's layout, without norms. The fifth pooling keeps
the resolution, and the two fully connected layers become a 3x3 convolution with dilation 6 and a
1x1 convolution. Maps are those of conv4_3 (stride 8) and of fc7 (stride 16).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import conv_norm, max_pool
from anchors_jax.models.norms import Norm

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of the five blocks: VGG16
DILATION = 6  # of fc6: nine taps cover 13 pixels


class VGG16(nn.Module):
    """The maps of conv4_3 and fc7, after their ReLUs: ceil(H / 8) and ceil(H / 16) rows.

    Attributes:
      width: channels of the first block; the others have 2, 4, 8 and 8 times as many, fc6 and fc7
        16 times. 64 in the paper.
      frozen_blocks: the first blocks that are not trained (torchvision: 1).
      norm: None as in the paper; class or partial of `norms`, after every convolution, to train
        from scratch.
      kernel_init: Xavier uniform, as fc6 and fc7 in Caffe; the other weights come from ImageNet.
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for a number of frozen blocks that there cannot be.
    """

    width: int = 64
    frozen_blocks: int = 0
    norm: Norm | None = None
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.frozen_blocks <= len(CONVOLUTIONS):
            raise ValueError(f"frozen_blocks {self.frozen_blocks} is not in 0..{len(CONVOLUTIONS)}")

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"], *, train: bool = False
    ) -> tuple[Float[Array, "B _h _w _c"], ...]:
        """`image` is normalised by the mean alone: ImageNet's VGG knows no deviation."""
        x, tap = image.astype(self.dtype), None
        for block, count in enumerate(CONVOLUTIONS, 1):
            frozen = block <= self.frozen_blocks
            for i in range(1, count + 1):
                features = self.width * min(2 ** (block - 1), 8)
                x = self._layer(f"conv{block}_{i}", x, features, 3, train=train and not frozen)
            if block == self.frozen_blocks:
                x = jax.lax.stop_gradient(x)
            if block == 4:
                tap = x
            x = max_pool(x, size=2, stride=2) if block < 5 else max_pool(x, size=3, stride=1)
        x = self._layer("fc6", x, 16 * self.width, 3, dilation=DILATION, train=train)
        return tap, self._layer("fc7", x, 16 * self.width, 1, train=train)

    def frozen_names(self) -> frozenset[str]:
        """Names of the top-level submodules whose parameters are never updated."""
        blocks = enumerate(CONVOLUTIONS[: self.frozen_blocks], 1)
        names = {f"conv{block}_{i}" for block, count in blocks for i in range(1, count + 1)}
        return frozenset(names | {f"{name}_norm" for name in names})

    def _layer(
        self, name: str, x: Array, features: int, size: int, *, dilation: int = 1, train: bool
    ) -> Array:
        return conv_norm(
            x,
            features,
            size,
            dilation=dilation,
            name=name,
            norm=self.norm,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            train=train,
        )


def dilated_classifier(
    fc6: Float[np.ndarray, "4096 512 7 7"], fc7: Float[np.ndarray, "4096 4096"]
) -> tuple[Float[np.ndarray, "3 3 512 1024"], Float[np.ndarray, "1 1 1024 1024"]]:
    """Kernels of the convolutions fc6 and fc7 from the fully connected layers of ImageNet's VGG16.

    Every third tap of 7x7 and every fourth unit (weiliu89/caffe, branch ssd; DeepLab). Weights are
    [out, in, ...] as PyTorch and Caffe store them; the biases are every fourth, too: `bias[::4]`.
    """
    first = fc6[::4, :, ::3, ::3].transpose(2, 3, 1, 0)
    return first, fc7[::4, ::4].T[None, None]
