"""Backbone, neck and head in one module: images in, a prediction for every anchor out."""

from typing import Any, ClassVar

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.types import DensePredictions, SemiAnchoredPredictions

Predictions = DensePredictions | SemiAnchoredPredictions


class OneStageNetwork(nn.Module):
    """The network of a one-stage detector.

    Parameters lie under the names of its `parts`. Each part takes the keyword `train`, which
    matters only to `norms.BatchNorm`; then `batch_stats` must be mutable.
    """

    backbone: nn.Module
    neck: nn.Module
    head: nn.Module

    parts: ClassVar[tuple[str, ...]] = ("backbone", "neck", "head")

    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool = False) -> Predictions:
        """What the head says. `image` is normalised; results are float32."""
        return self.head(self.trunk(image, train=train), train=train)

    def trunk(
        self, image: Float[Array, "B H W 3"], *, train: bool = False
    ) -> tuple[Float[Array, "B _h _w _c"], ...]:
        """The pyramid that the head reads, finest map first."""
        return self.neck(self.backbone(image, train=train), train=train)


def trainable_mask(model: OneStageNetwork, params: Any) -> Any:
    """A tree like `params` with False where the backbone is frozen: no update, no weight decay.

    Frozen are the submodules that the backbone lists in `frozen_names()`, if it has that method.
    """
    names = getattr(model.backbone, "frozen_names", frozenset)()

    def trainable(path: tuple[Any, ...], _: Any) -> bool:
        return path[0].key != "backbone" or path[1].key not in names

    return jax.tree_util.tree_map_with_path(trainable, params)
