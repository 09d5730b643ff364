"""The head of the Semi-Anchored detector: classes of locations, boxes and choice of anchors.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection", Figure 4.

RetinaNet's two towers. The class output has no anchors; the box tower also feeds a class-agnostic
output that says which anchors of a location are its object's. More anchors per location widen the
last layer of the box tower and nothing else.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import TowerHead, rows_of
from anchors_jax.models.norms import GroupNorm, Norm
from anchors_jax.types import SemiAnchoredPredictions


class SemiAnchoredHead(TowerHead):
    """Class logits of every cell; a logit and box codes for each of its anchors.

    Attributes beside those of `TowerHead` (two towers; `prior` is the score of every class and of
    every anchor; norm and bias as in the official code of FCOS, whose set-up the paper adopts):
      shapes_per_cell: anchors of one cell, S.
      classify_anchors: False leaves out the anchor output (Table 2, "without AC").
    """

    norm: Norm | None = GroupNorm
    tower_bias: bool | None = True
    shapes_per_cell: int = 25
    classify_anchors: bool = True

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> SemiAnchoredPredictions:
        """Cells in the order level, row, column; channel = shape * 4 + coordinate."""
        class_tower, box_tower = self._tower("class_tower"), self._tower("box_tower")
        shapes, prior = self.shapes_per_cell, self._prior_bias()
        class_output = self._output("class_output", self.num_classes, bias_init=prior)
        box_output = self._output("box_output", 4 * shapes)
        anchor_output = None
        if self.classify_anchors:
            anchor_output = self._output("anchor_output", shapes, bias_init=prior)
        logits, codes, anchor_logits = [], [], []
        for x in pyramid:
            box_features = box_tower(x, train=train)
            features = class_tower(x, train=train)
            logits.append(rows_of(class_output(features), self.num_classes))
            codes.append(rows_of(box_output(box_features), 4 * shapes))
            if anchor_output is not None:
                anchor_logits.append(rows_of(anchor_output(box_features), shapes))
        codes = jnp.concatenate(codes, 1)
        return SemiAnchoredPredictions(
            logits=jnp.concatenate(logits, 1),
            anchor_logits=jnp.concatenate(anchor_logits, 1) if anchor_logits else None,
            codes=codes.reshape(*codes.shape[:2], shapes, 4),
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )
