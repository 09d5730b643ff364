"""The Semi-Anchored head on SSD's maps (Chen et al., Table 8): no towers, nothing shared.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection".

One 3x3 convolution per map for each of the three outputs, as SSD has one for each of its two.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import PriorHead, rows_of
from anchors_jax.models.ssd_head import check_levels
from anchors_jax.types import SemiAnchoredPredictions


class SemiAnchoredSSDHead(PriorHead):
    """Class logits of every cell; a logit and box codes for each of its anchors.

    Attributes beside those of `PriorHead` (`prior` is the score of every class and of every
    anchor):
      shapes_per_cell: anchors of one cell on each level, at least 1. S is the largest; other
        levels are padded to it.
    """

    shapes_per_cell: tuple[int, ...] = (4, 6, 6, 6, 4, 4)

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
        prior = self._prior_bias()
        most = max(self.shapes_per_cell)
        logits, codes, anchor_logits = [], [], []
        for level, (x, shapes) in enumerate(zip(pyramid, self.shapes_per_cell, strict=True)):
            classes = self._output(f"class{level}", self.num_classes, bias_init=prior)(x)
            boxes = self._output(f"box{level}", 4 * shapes)(x)
            chosen = self._output(f"anchor{level}", shapes, bias_init=prior)(x)
            logits.append(rows_of(classes, self.num_classes))
            codes.append(_widened(rows_of(boxes, 4 * shapes), 4 * most))
            anchor_logits.append(_widened(rows_of(chosen, shapes), most))
        codes = jnp.concatenate(codes, 1)
        return SemiAnchoredPredictions(
            logits=jnp.concatenate(logits, 1),
            anchor_logits=jnp.concatenate(anchor_logits, 1),
            codes=codes.reshape(*codes.shape[:2], most, 4),
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )


def _widened(rows: Float[Array, "B P n"], size: int) -> Float[Array, "B P {size}"]:
    """Rows with zeros at their ends."""
    return jnp.pad(rows, ((0, 0), (0, 0), (0, size - rows.shape[-1])))
