"""The head of the Semi-Anchored detector: classes of locations, boxes and choice of anchors.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection", Figure 4.

RetinaNet's two towers. The class output has no anchors; the box tower also feeds a class-agnostic
output that says which anchors of a location are its object's. More anchors per location widen the
last layer of the box tower and nothing else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.dense_head import Tower
from anchors_jax.models.layers import conv
from anchors_jax.models.norms import GroupNorm, Norm
from anchors_jax.types import SemiAnchoredPredictions


class SemiAnchoredHead(nn.Module):
    """Class logits of every cell; a logit and box codes for each of its anchors.

    Attributes:
      num_classes: K; background is no class.
      shapes_per_cell: anchors of one cell, S.
      depth, width: of both towers.
      norm: class or partial of `norms`, inside the towers, or None.
      tower_bias: whether tower convolutions have a bias, as in the official code of FCOS, whose
        set-up the paper adopts.
      classify_anchors: False leaves out the anchor output (Table 2, "without AC").
      prior: score of every class and of every anchor at the start.
      kernel_init: normal with std 0.01, for towers and outputs.
      dtype: of the computation; parameters and results are float32.

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int
    shapes_per_cell: int = 25
    depth: int = 4
    width: int = 256
    norm: Norm | None = GroupNorm
    tower_bias: bool = True
    classify_anchors: bool = True
    prior: float = 0.01
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.prior < 1.0:
            raise ValueError(f"prior {self.prior} is not between 0 and 1")

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> SemiAnchoredPredictions:
        """Cells in the order level, row, column; channel = shape * 4 + coordinate."""
        class_tower, box_tower = self._tower("class_tower"), self._tower("box_tower")
        prior = nn.initializers.constant(-math.log((1.0 - self.prior) / self.prior))
        class_output = self._output("class_output", self.num_classes, bias_init=prior)
        box_output = self._output("box_output", 4 * self.shapes_per_cell)
        anchor_output = None
        if self.classify_anchors:
            anchor_output = self._output("anchor_output", self.shapes_per_cell, bias_init=prior)
        logits, codes, anchor_logits = [], [], []
        for x in pyramid:
            box_features = box_tower(x, train=train)
            logits.append(_per_cell(class_output(class_tower(x, train=train))))
            codes.append(_per_cell(box_output(box_features)))
            if anchor_output is not None:
                anchor_logits.append(_per_cell(anchor_output(box_features)))
        codes = jnp.concatenate(codes, 1)
        return SemiAnchoredPredictions(
            logits=jnp.concatenate(logits, 1),
            anchor_logits=jnp.concatenate(anchor_logits, 1) if anchor_logits else None,
            codes=codes.reshape(*codes.shape[:2], self.shapes_per_cell, 4),
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )

    def _tower(self, name: str) -> Tower:
        return Tower(
            depth=self.depth,
            width=self.width,
            norm=self.norm,
            use_bias=self.tower_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name=name,
        )

    def _output(self, name: str, features: int, **keywords: Any) -> nn.Conv:
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        return conv(features, 3, name=name, **options, **keywords)


def _per_cell(x: Float[Array, "B H W N"]) -> Float[Array, "B P N"]:
    """Float32 rows, one per cell, in the order row, column."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
