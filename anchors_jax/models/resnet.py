"""ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017) as detection backbones.

Geometry and names follow torchvision, so that released weights fit: stem 7x7/2 and 3x3/2 maximum,
four stages with strides 1, 2, 2, 2 whose outputs are C2..C5 (strides 4, 8, 16, 32), projection
shortcut in the first block of a stage that changes the shape.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import StemConv, conv_norm, max_pool
from anchors_jax.models.norms import FrozenBatchNorm, Norm

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}  # blocks of the four stages, paper Table 1
BASIC_DEPTHS = (18, 34)  # two 3x3 convolutions per block instead of a bottleneck
STYLES = ("pytorch", "caffe")

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Layer(NamedTuple):
    """One convolution of a block."""

    features: int
    size: int
    stride: int = 1
    groups: int = 1


def basic(planes: int, stride: int) -> tuple[Layer, ...]:
    """Two 3x3 convolutions (depth 18 and 34)."""
    return Layer(planes, 3, stride), Layer(planes, 3)


def bottleneck(
    planes: int, stride: int, *, groups: int, base_width: int, style: str
) -> tuple[Layer, ...]:
    """1x1, 3x3 and 1x1 convolutions; the last has four times the planes."""
    inner = planes * base_width // 64 * groups
    first, second = (stride, 1) if style == "caffe" else (1, stride)
    return Layer(inner, 1, first), Layer(inner, 3, second, groups), Layer(4 * planes, 1)


class Block(nn.Module):
    """A residual block: convolutions in order, and the shortcut around them."""

    layers: tuple[Layer, ...]
    norm: Norm
    last_scale_init: Callable[..., Array]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B h w D"]:
        """`h = ceil(H / stride)`; ReLU after every convolution but the last, and after the sum."""
        features, stride = self.layers[-1].features, math.prod(x.stride for x in self.layers)
        shortcut = x
        if x.shape[-1] != features or stride != 1:
            shortcut = self._layer(
                x,
                Layer(features, 1, stride),
                name="downsample_conv",
                norm=self.norm,
                norm_name="downsample_norm",
                relu=False,
                train=train,
            )
        for i, layer in enumerate(self.layers, 1):
            last = i == len(self.layers)
            init = {"scale_init": self.last_scale_init} if last else {}
            x = self._layer(
                x,
                layer,
                name=f"conv{i}",
                norm=functools.partial(self.norm, **init),
                norm_name=f"norm{i}",
                relu=not last,
                train=train,
            )
        return nn.relu(x + shortcut)

    def _layer(self, x: Array, layer: Layer, **keywords: Any) -> Array:
        return conv_norm(
            x,
            layer.features,
            layer.size,
            stride=layer.stride,
            feature_group_count=layer.groups,
            kernel_init=he_normal,
            dtype=self.dtype,
            **keywords,
        )


class ResNet(nn.Module):
    """Maps of an image at the strides of `outputs`.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      width: channels of the stem; stage i has width * 2**i planes. 64 in the paper.
      groups, base_width: of the 3x3 convolutions; (32, 4), (32, 8), (64, 4) are ResNeXt.
      style: "pytorch" puts the stride of a bottleneck on its 3x3, "caffe" on its first 1x1
        convolution (the original MSRA weights).
      frozen_stages: 0 trains everything; n >= 1 freezes the stem and the first n stages: no
        gradient, no change of their statistics. Published detectors, all pretrained, take 1.
      outputs: which of C2..C5 to return; stages after the last of them are not built.
      norm: class or partial of `norms`.
      zero_init_residual: start each block as the identity (Goyal et al. 2017, section 5.1).
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for a depth, style or output that does not exist, or caffe style with groups.
    """

    depth: int = 50
    width: int = 64
    groups: int = 1
    base_width: int = 64
    style: str = "pytorch"
    frozen_stages: int = 0
    outputs: tuple[int, ...] = (3, 4, 5)
    norm: Norm = FrozenBatchNorm
    zero_init_residual: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth not in BLOCKS:
            raise ValueError(f"depth {self.depth} is not one of {sorted(BLOCKS)}")
        if self.style not in STYLES:
            raise ValueError(f"style {self.style!r} is not one of {STYLES}")
        if self.groups > 1 and (self.style == "caffe" or self.depth in BASIC_DEPTHS):
            raise ValueError("groups need bottlenecks in pytorch style (depth 50 or more)")
        if not self.outputs or not set(self.outputs) <= {2, 3, 4, 5}:
            raise ValueError(f"outputs {self.outputs} are not some of 2, 3, 4, 5 (C2..C5)")
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages {self.frozen_stages} is not in 0..4")

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"], *, train: bool = False
    ) -> tuple[Float[Array, "B _h _w _c"], ...]:
        """C_l of every level l in `outputs`, finest first: ceil(H / 2**l) rows.

        `image` is already normalised; sides need not be multiples of anything.
        """
        x = self._stem(image.astype(self.dtype), train=train and not self.frozen_stages)
        maps = []
        for stage in range(1, max(self.outputs)):
            frozen = stage <= self.frozen_stages
            x = self._stage(x, stage, train=train and not frozen)
            if stage == self.frozen_stages:
                x = jax.lax.stop_gradient(x)
            if stage + 1 in self.outputs:
                maps.append(x)
        return tuple(maps)

    def frozen_names(self) -> frozenset[str]:
        """Names of the top-level submodules whose parameters are never updated."""
        if not self.frozen_stages:
            return frozenset()
        stages = range(1, self.frozen_stages + 1)
        blocks = (f"layer{s}_{i}" for s in stages for i in range(BLOCKS[self.depth][s - 1]))
        return frozenset({"conv1", "norm1", *blocks})

    def _stem(self, x: Array, *, train: bool) -> Array:
        x = StemConv(self.width, kernel_init=he_normal, dtype=self.dtype, name="conv1")(x)
        x = self.norm(dtype=self.dtype, name="norm1")(x, train=train)
        return max_pool(nn.relu(x), size=3, stride=2)

    def _stage(self, x: Array, stage: int, *, train: bool) -> Array:
        last = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        for i in range(BLOCKS[self.depth][stage - 1]):
            x = Block(
                layers=self._layers(
                    self.width * 2 ** (stage - 1), 2 if stage > 1 and i == 0 else 1
                ),
                norm=self.norm,
                last_scale_init=last,
                dtype=self.dtype,
                name=f"layer{stage}_{i}",
            )(x, train=train)
        return x

    def _layers(self, planes: int, stride: int) -> tuple[Layer, ...]:
        if self.depth in BASIC_DEPTHS:
            return basic(planes, stride)
        options = {"groups": self.groups, "base_width": self.base_width, "style": self.style}
        return bottleneck(planes, stride, **options)


def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50 with 32 groups of width 4; `options` as `ResNet`."""
    return ResNet(depth=50, groups=32, base_width=4, **options)


def resnext101_32x4d(**options: Any) -> ResNet:
    """ResNeXt-101 with 32 groups of width 4; `options` as `ResNet`."""
    return ResNet(depth=101, groups=32, base_width=4, **options)


def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101 with 32 groups of width 8; `options` as `ResNet`."""
    return ResNet(depth=101, groups=32, base_width=8, **options)


def resnext101_64x4d(**options: Any) -> ResNet:
    """ResNeXt-101 with 64 groups of width 4; `options` as `ResNet`."""
    return ResNet(depth=101, groups=64, base_width=4, **options)
