"""Heads of region proposal networks: is there an object, of whatever class, and where.

    S. Ren, K. He, R. Girshick, J. Sun, "Faster R-CNN", NIPS 2015, arXiv:1506.01497, Section 3.1;
    on a pyramid: T.-Y. Lin et al., "Feature Pyramid Networks", CVPR 2017, arXiv:1612.03144, Section
    4.1; with anchors that the network predicts: J. Wang et al., "Region Proposal by Guided
    Anchoring", CVPR 2019, arXiv:1901.03278, Section 3 and Figure 1.

One tower for everything, shared by all levels, and 1x1 outputs. Initial weights as in MMDetection;
its later versions start the offsets of the guided head at 0 (see `guided_head`).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.guided_head import AdaptiveHead
from anchors_jax.models.layers import TowerHead, conv, rows_of
from anchors_jax.types import DensePredictions, GuidedPredictions


class ProposalHead(TowerHead):
    """One logit per class, of which proposals have one, and one box for every anchor.

    Attributes beside those of `TowerHead` (`prior` is the score of every anchor at the start):
      shapes_per_cell: anchors of one cell, S.
    """

    num_classes: int = 1
    prior: float = 0.5
    depth: int = 1
    shapes_per_cell: int = 3

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape."""
        tower = self._tower("tower")
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        class_output = conv(
            self.shapes_per_cell * self.num_classes,
            1,
            name="class_output",
            bias_init=self._prior_bias(),
            **options,
        )
        box_output = conv(4 * self.shapes_per_cell, 1, name="box_output", **options)
        features = [tower(x, train=train) for x in pyramid]
        return DensePredictions(
            logits=jnp.concatenate(
                [rows_of(class_output(x), self.num_classes) for x in features], 1
            ),
            codes=jnp.concatenate([rows_of(box_output(x), 4) for x in features], 1),
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )


class GuidedProposalHead(AdaptiveHead):
    """One anchor per cell: whether there is one, its shape, its logits and its box (GA-RPN).

    `prior` is the score of every location; anchors start at a score of 0.5.
    """

    num_classes: int = 1
    depth: int = 1

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> GuidedPredictions:
        """Cells in the order level, row, column."""
        tower = self._tower("tower")
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        location_output, shape_output = self._anchor_outputs()
        adaption = self._adaption("adaption")
        class_output = conv(self.num_classes, 1, name="class_output", **options)
        box_output = conv(4, 1, name="box_output", **options)
        rows = {"logits": [], "codes": [], "cell_logits": [], "shape_codes": []}
        for x in pyramid:
            features = tower(x, train=train)
            shapes = shape_output(features)
            adapted = adaption(features, shapes, train=train)
            rows["logits"].append(rows_of(class_output(adapted), self.num_classes))
            rows["codes"].append(rows_of(box_output(adapted), 4))
            rows["cell_logits"].append(rows_of(location_output(features), 1))
            rows["shape_codes"].append(rows_of(shapes, 2))
        rows = {name: jnp.concatenate(parts, 1) for name, parts in rows.items()}
        return GuidedPredictions(
            **rows | {"cell_logits": rows["cell_logits"][..., 0]},
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )
