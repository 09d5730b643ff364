"""SSD's head: one 3x3 convolution per map for classes and one for boxes.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325, Section 2.1.

Nothing is shared between levels, so each may have its own number of anchors per cell, or none.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models import parts
from anchors_jax.models.layers import conv
from anchors_jax.types import DensePredictions


class SSDHead(nn.Module):
    """Softmax logits over the classes and, last, background; box codes; for every anchor.

    A `parts.PrunableHead`.

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

    per_level: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w _c"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape; channel = shape * (K + 1) + class.

        Raises ValueError when the numbers of levels differ, or no level has anchors.
        """
        del train
        check_levels(self.shapes_per_cell, pyramid)
        output = functools.partial(conv, size=3, kernel_init=self.kernel_init, dtype=self.dtype)
        columns = self.num_classes + 1

        def level(number: int, x: Array) -> dict[str, Array] | None:
            shapes = self.shapes_per_cell[number]
            if not shapes:
                return None
            classes = output(shapes * columns, name=f"class{number}")(x)
            boxes = output(shapes * 4, name=f"box{number}")(x)
            return {"logits": parts.rows_of(classes, columns), "codes": parts.rows_of(boxes, 4)}

        return DensePredictions(**parts.on_levels(level, pyramid), maps=parts.maps_of(pyramid))

    def sliced(self, kept: parts.Kept) -> dict[str, Any]:
        """A level without shapes stays in the list, as 0."""
        return {"shapes_per_cell": [len(slots) for slots in kept]}

    def sliced_params(self, params: Mapping[str, Any], kept: parts.Kept) -> dict[str, Any]:
        """A level without shapes has no parameters."""
        return {
            f"{name}{level}": parts.sliced_output(params[f"{name}{level}"], size, slots)
            for level, slots in enumerate(kept)
            for name, size in (("class", self.num_classes + 1), ("box", 4))
            if slots
        }

    def multiply_adds(
        self, cells: Sequence[int], counts: Sequence[int], channels: Sequence[int]
    ) -> int:
        """Every anchor has its price."""
        outputs = self.num_classes + 1 + 4
        levels = zip(cells, counts, channels, strict=True)
        return sum(9 * area * width * count * outputs for area, count, width in levels)


def check_levels(shapes_per_cell: Sequence[int], pyramid: Sequence[Array]) -> None:
    """One number of anchors per map, and some of them not 0."""
    if len(shapes_per_cell) != len(pyramid) or not any(shapes_per_cell):
        raise ValueError(
            f"the head has shapes_per_cell {tuple(shapes_per_cell)} for {len(pyramid)} maps: "
            "it needs one number per map, not all of them 0"
        )
