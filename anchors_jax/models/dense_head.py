"""The dense head of RetinaNet (Lin et al., ICCV 2017, section 4) and of its descendants.

Two towers of 3x3 convolutions, one for classes and one for boxes, shared by all levels. ATSS, PAA
and FCOS add group normalisation, a learned factor per level on the box output, and a third output
that predicts the quality of each box.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import TowerHead, rows_of
from anchors_jax.types import DensePredictions


class DenseHead(TowerHead):
    """Class logits, box codes and, where asked for, a quality logit for every anchor.

    Attributes beside those of `TowerHead` (two towers; `prior` is the score of every class):
      shapes_per_cell: anchors of one cell, S.
      quality: None, or the tower ("box" or "class") whose output also gives one logit per anchor
        (centerness, IoU).
      level_scale: multiply the codes of each level by a learned number that starts at 1.
      slots: for pruned heads, which of the shapes_per_cell shapes each level has; a level without
        any is skipped, and costs nothing. None: all shapes on all levels.

    Raises:
      ValueError: for an unknown quality tower, a prior outside (0, 1) or slots without any shape.
    """

    shapes_per_cell: int = 9
    quality: str | None = None
    level_scale: bool = False
    slots: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality not in (None, "box", "class"):
            raise ValueError(f"quality {self.quality!r} is not None, 'box' or 'class'")
        if self.slots is not None and not any(self.slots):
            raise ValueError("slots leave no level with a shape")

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape; channel = shape * K + class."""
        class_tower, box_tower = self._tower("class_tower"), self._tower("box_tower")
        shapes, classes = self.shapes_per_cell, self.num_classes
        prior = self._prior_bias()
        class_output = self._output("class_output", shapes * classes, bias_init=prior)
        box_output = self._output("box_output", shapes * 4)
        quality_output = self._output("quality_output", shapes) if self.quality else None
        scales = jnp.ones(len(pyramid), jnp.float32)
        if self.level_scale:
            scales = self.param("level_scale", nn.initializers.ones, scales.shape, jnp.float32)
        logits, codes, quality = [], [], []
        for level, x in enumerate(pyramid):
            chosen = None if self.slots is None else self.slots[level]
            if chosen == ():
                continue
            class_features = class_tower(x, train=train)
            box_features = box_tower(x, train=train)
            logits.append(self._rows(class_output(class_features), classes, chosen))
            codes.append(self._rows(box_output(box_features), 4, chosen) * scales[level])
            if quality_output is not None:
                features = box_features if self.quality == "box" else class_features
                quality.append(self._rows(quality_output(features), 1, chosen))
        return DensePredictions(
            logits=jnp.concatenate(logits, 1),
            codes=jnp.concatenate(codes, 1),
            quality=jnp.concatenate(quality, 1)[..., 0] if quality else None,
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )

    def _rows(
        self, x: Float[Array, "B H W C"], size: int, chosen: tuple[int, ...] | None
    ) -> Float[Array, "B N n"]:
        """Rows of `size` channels, one per anchor, of the chosen shapes."""
        if chosen is None or chosen == tuple(range(self.shapes_per_cell)):
            return rows_of(x, size)
        shapes = x.reshape(*x.shape[:3], self.shapes_per_cell, size)[..., chosen, :]
        return rows_of(shapes.reshape(*x.shape[:3], -1), size)
