"""The head of the Semi-Anchored detector: classes of locations, boxes and choice of anchors.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection", Figure 4.

RetinaNet's two towers. The class output has no anchors; the box tower also feeds a class-agnostic
output that says which anchors of a location are its object's. More anchors per location widen the
last layer of the box tower and nothing else.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models import parts
from anchors_jax.models.layers import conv
from anchors_jax.models.norms import GroupNorm, Norm
from anchors_jax.types import SemiAnchoredPredictions


class SemiAnchoredHead(nn.Module):
    """Class logits of every cell; a logit and box codes for each of its anchors.

    Attributes beside those that it has in common with `DenseHead` (two towers; norm and bias as in
    the official code of FCOS, whose set-up the paper adopts):
      prior: score of every class and of every anchor at the start.
      shapes_per_cell: anchors of one cell, S.
      classify_anchors: False leaves out the anchor output (Table 2, "without AC").

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int
    prior: float = 0.01
    depth: int = 4
    width: int = 256
    norm: Norm | None = GroupNorm
    tower_bias: bool | None = True
    shapes_per_cell: int = 25
    classify_anchors: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    per_level: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parts.check_prior(self.prior)

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> SemiAnchoredPredictions:
        """Cells in the order level, row, column; channel = shape * 4 + coordinate."""
        shapes = self.shapes_per_cell
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        tower = functools.partial(
            parts.tower, self.depth, self.width, norm=self.norm, bias=self.tower_bias, **options
        )
        class_tower, box_tower = tower(name="class_tower"), tower(name="box_tower")
        output = functools.partial(conv, size=3, **options)
        scored = functools.partial(output, bias_init=parts.prior_bias(self.prior))
        class_output = scored(self.num_classes, name="class_output")
        box_output = output(4 * shapes, name="box_output")
        anchor_output = scored(shapes, name="anchor_output") if self.classify_anchors else None

        def level(_: int, x: Array) -> dict[str, Array]:
            logits, features = class_output(class_tower(x, train=train)), box_tower(x, train=train)
            rows = {
                "logits": parts.rows_of(logits, self.num_classes),
                "codes": parts.rows_of(box_output(features), shapes, 4),
            }
            if anchor_output is not None:
                rows["anchor_logits"] = parts.rows_of(anchor_output(features), shapes)
            return rows

        rows = parts.on_levels(level, pyramid)
        return SemiAnchoredPredictions(**rows, maps=parts.maps_of(pyramid))
