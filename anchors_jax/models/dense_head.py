"""The dense head of RetinaNet (Lin et al., ICCV 2017, section 4) and of its descendants.

Two towers of 3x3 convolutions, one for classes and one for boxes, shared by all levels. ATSS, PAA
and FCOS add group normalisation, a learned factor per level on the box output, and a third output
that predicts the quality of each box.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import conv
from anchors_jax.models.norms import Norm
from anchors_jax.types import DensePredictions


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


class DenseHead(nn.Module):
    """Class logits, box codes and, where asked for, a quality logit for every anchor.

    Attributes:
      num_classes: K; background is no class.
      shapes_per_cell: anchors of one cell, S.
      depth, width: of both towers.
      norm: class or partial of `norms`, inside the towers.
      tower_bias: whether tower convolutions have a bias; None: only without a norm (MMDetection's
        ATSS and PAA). The official FCOS and PAA codes have both.
      quality: None, or the tower ("box" or "class") whose output also gives one logit per anchor
        (centerness, IoU).
      level_scale: multiply the codes of each level by a learned number that starts at 1.
      prior: class score of every anchor at the start, pi of section 4.1.
      kernel_init: normal with std 0.01, for towers and outputs.
      dtype: of the computation; parameters and results are float32.

    Raises:
      ValueError: for an unknown quality tower or a prior outside (0, 1).
    """

    num_classes: int
    shapes_per_cell: int = 9
    depth: int = 4
    width: int = 256
    norm: Norm | None = None
    tower_bias: bool | None = None
    quality: str | None = None
    level_scale: bool = False
    prior: float = 0.01
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality not in (None, "box", "class"):
            raise ValueError(f"quality {self.quality!r} is not None, 'box' or 'class'")
        if not 0.0 < self.prior < 1.0:
            raise ValueError(f"prior {self.prior} is not between 0 and 1")

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape; channel = shape * K + class."""
        class_tower, box_tower = self._tower("class_tower"), self._tower("box_tower")
        prior = nn.initializers.constant(-math.log((1.0 - self.prior) / self.prior))
        class_output = self._output("class_output", self.num_classes, bias_init=prior)
        box_output = self._output("box_output", 4)
        quality_output = self._output("quality_output", 1) if self.quality else None
        scales = jnp.ones(len(pyramid), jnp.float32)
        if self.level_scale:
            scales = self.param("level_scale", nn.initializers.ones, scales.shape, jnp.float32)
        logits, codes, quality = [], [], []
        for level, x in enumerate(pyramid):
            class_features = class_tower(x, train=train)
            box_features = box_tower(x, train=train)
            logits.append(_per_anchor(class_output(class_features), self.num_classes))
            codes.append(_per_anchor(box_output(box_features), 4) * scales[level])
            if quality_output is not None:
                features = box_features if self.quality == "box" else class_features
                quality.append(_per_anchor(quality_output(features), 1))
        return DensePredictions(
            logits=jnp.concatenate(logits, 1),
            codes=jnp.concatenate(codes, 1),
            quality=jnp.concatenate(quality, 1)[..., 0] if quality else None,
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )

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

    def _output(self, name: str, size: int, **keywords: Any) -> nn.Conv:
        features = self.shapes_per_cell * size
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return conv(features, 3, name=name, **options, **keywords)


def _per_anchor(x: Float[Array, "B H W SN"], size: int) -> Float[Array, "B A N"]:
    """Float32 rows of `size` values, one per anchor, in the order row, column, shape."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1, size)
