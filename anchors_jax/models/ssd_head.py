"""SSD's head: one 3x3 convolution per map for classes and one for boxes.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Section 2.1.

Nothing is shared between levels, so each may have its own number of anchors per cell, or none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import conv, rows_of
from anchors_jax.types import DensePredictions


class SSDHead(nn.Module):
    """Softmax logits over the classes and, last, background; box codes; for every anchor.

    Attributes:
      num_classes: K; the logits have K + 1 columns.
      shapes_per_cell: anchors of one cell on each level. A level without anchors has no
        parameters and costs nothing.
      kernel_init: Xavier uniform; biases start at 0.
      dtype: of the computation; parameters and results are float32.
    """

    num_classes: int
    shapes_per_cell: tuple[int, ...] = (4, 6, 6, 6, 4, 4)
    kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w _c"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape; channel = shape * (K + 1) + class.

        Raises ValueError when the numbers of levels differ, or no level has anchors.
        """
        del train
        check_levels(self.shapes_per_cell, pyramid)
        logits, codes = [], []
        for level, (x, shapes) in enumerate(zip(pyramid, self.shapes_per_cell, strict=True)):
            if shapes:
                columns = self.num_classes + 1
                logits.append(rows_of(self._output(f"class{level}", shapes * columns)(x), columns))
                codes.append(rows_of(self._output(f"box{level}", shapes * 4)(x), 4))
        return DensePredictions(
            logits=jnp.concatenate(logits, 1),
            codes=jnp.concatenate(codes, 1),
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )

    def _output(self, name: str, features: int) -> nn.Conv:
        return conv(features, 3, kernel_init=self.kernel_init, dtype=self.dtype, name=name)


def check_levels(shapes_per_cell: Sequence[int], pyramid: Sequence[Array]) -> None:
    """One number of anchors per map, and some of them not 0."""
    if len(shapes_per_cell) != len(pyramid) or not any(shapes_per_cell):
        raise ValueError(
            f"the head has shapes_per_cell {tuple(shapes_per_cell)} for {len(pyramid)} maps: "
            "it needs one number per map, not all of them 0"
        )
