"""The Semi-Anchored head on SSD's maps (Chen et al., Table 8): no towers, nothing shared.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection".

One 3x3 convolution per map for each of the three outputs, as SSD has one for each of its two.
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
from anchors_jax.models.ssd_head import check_levels
from anchors_jax.types import SemiAnchoredPredictions


class SemiAnchoredSSDHead(nn.Module):
    """Class logits of every cell; a logit and box codes for each of its anchors.

    Attributes:
      num_classes: K; background is no class.
      prior: score of every class and of every anchor at the start.
      shapes_per_cell: anchors of one cell on each level, at least 1. S is the largest; other
        levels are padded to it.
      kernel_init: of all convolutions; normal with std 0.01.
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int
    prior: float = 0.01
    shapes_per_cell: tuple[int, ...] = (4, 6, 6, 6, 4, 4)
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    per_level: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        parts.check_prior(self.prior)

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w _c"]], *, train: bool = False
    ) -> SemiAnchoredPredictions:
        """Cells in the order level, row, column; channel = shape * 4 + coordinate.

        Raises ValueError when the numbers of levels differ, or a level has no anchors.
        """
        del train
        check_levels(self.shapes_per_cell, pyramid)
        if not all(self.shapes_per_cell):
            raise ValueError(f"a level without anchors in shapes_per_cell {self.shapes_per_cell}")
        output = functools.partial(conv, size=3, kernel_init=self.kernel_init, dtype=self.dtype)
        scored = functools.partial(output, bias_init=parts.prior_bias(self.prior))
        most = max(self.shapes_per_cell)

        def level(number: int, x: Array) -> dict[str, Array]:
            shapes = self.shapes_per_cell[number]
            classes = scored(self.num_classes, name=f"class{number}")(x)
            boxes = output(4 * shapes, name=f"box{number}")(x)
            chosen = scored(shapes, name=f"anchor{number}")(x)
            return {
                "logits": parts.rows_of(classes, self.num_classes),
                "codes": _widened(parts.rows_of(boxes, shapes, 4), most),
                "anchor_logits": _widened(parts.rows_of(chosen, shapes), most),
            }

        rows = parts.on_levels(level, pyramid)
        return SemiAnchoredPredictions(**rows, maps=parts.maps_of(pyramid))


def _widened(rows: Float[Array, "B P n *m"], size: int) -> Float[Array, "B P {size} *m"]:
    """Rows with zeros at their ends."""
    ends = ((0, 0), (0, 0), (0, size - rows.shape[2]), (0, 0))
    return jnp.pad(rows, ends[: rows.ndim])
