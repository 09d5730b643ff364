"""Feature pyramid network (Lin et al., CVPR 2017) with the extra levels of RetinaNet.

RetinaNets differ in where P6 comes from (C5: paper, Detectron, MMDetection; P5: torchvision v1,
maskrcnn-benchmark, ATSS, PAA, FCOS) and in the ReLU between P6 and P7 (everywhere but in
MMDetection); both are keywords.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import conv_norm, upsample
from anchors_jax.models.norms import Norm

EXTRA_SOURCES = ("C5", "P5", "pool")


def caffe2_xavier() -> Callable[..., Array]:
    """Uniform in +-sqrt(3 / fan_in): what Caffe2, and the code that follows it, call Xavier."""
    return nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FPN(nn.Module):
    """Pyramid maps of one width from backbone maps.

    Attributes:
      width: channels of every level.
      levels: how many maps to return; those beyond the backbone's are made by stride 2. With fewer
        than those, coarser maps are merged downwards, but get no output of their own.
      extra_source: "C5" or "P5": the first extra level is a 3x3/2 convolution of the last backbone
        or the last pyramid map, further ones of the level before. "pool": every second pixel of
        the level before, without parameters (P6 of Faster R-CNN).
      relu_before_p7: ReLU on the input of the second and later extra levels.
      norm: class or partial of `norms`, after every convolution, which then has no bias.
      kernel_init: Xavier uniform, +-sqrt(6 / (fan_in + fan_out)); or `caffe2_xavier()`.
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for an unknown source, or no level at all.
    """

    width: int = 256
    levels: int = 5
    extra_source: str = "C5"
    relu_before_p7: bool = False
    norm: Norm | None = None
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extra_source not in EXTRA_SOURCES:
            raise ValueError(f"extra_source {self.extra_source!r} is not one of {EXTRA_SOURCES}")
        if self.levels < 1:
            raise ValueError(f"{self.levels} levels are no pyramid")

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "B _h _w _c"]], *, train: bool = False
    ) -> tuple[Float[Array, "B _h _w {self.width}"], ...]:
        """`maps` are finest first, each ceil(half) of the one before; so is the result."""
        merged = [
            self._conv(f"lateral{i}", x.astype(self.dtype), 1, train=train)
            for i, x in enumerate(maps)
        ]
        for i in reversed(range(len(merged) - 1)):
            merged[i] += upsample(merged[i + 1], *merged[i].shape[1:3])
        pyramid = [
            self._conv(f"output{i}", x, 3, train=train) for i, x in enumerate(merged[: self.levels])
        ]
        source = maps[-1].astype(self.dtype) if self.extra_source == "C5" else pyramid[-1]
        for i in range(self.levels - len(maps)):
            source = self._extra(i, source, train=train)
            pyramid.append(source)
        return tuple(pyramid)

    def shortened(self, needed: Sequence[bool]) -> tuple[dict[str, Any], int]:
        """The attributes that change when only some of its maps are needed, as plain data.

        And how many maps it then returns, from the finest: all up to the last one in `needed`.
        """
        live = max(level for level, need in enumerate(needed) if need) + 1
        return {"levels": live}, live

    def _extra(self, i: int, x: Array, *, train: bool) -> Array:
        if self.extra_source == "pool":
            return x[:, ::2, ::2]
        x = nn.relu(x) if i > 0 and self.relu_before_p7 else x
        return self._conv(f"extra{i}", x, 3, stride=2, train=train)

    def _conv(self, name: str, x: Array, size: int, *, stride: int = 1, train: bool) -> Array:
        return conv_norm(
            x,
            self.width,
            size,
            stride=stride,
            name=name,
            norm=self.norm,
            relu=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            train=train,
        )
