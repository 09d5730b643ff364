"""Heads of region proposal networks: is there an object, of whatever class, and where.

    S. Ren, K. He, R. Girshick, J. Sun, "Faster R-CNN", NIPS 2015, arXiv:1506.01497, Section 3.1;
    on a pyramid: T.-Y. Lin et al., "Feature Pyramid Networks", CVPR 2017, arXiv:1612.03144, Section
    4.1; with anchors that the network predicts: J. Wang et al., "Region Proposal by Guided
    Anchoring", CVPR 2019, arXiv:1901.03278, Section 3 and Figure 1.

One tower for everything, shared by all levels, and 1x1 outputs. Initial weights as in MMDetection;
its later versions start the offsets of the guided head at 0 (see `guided_head`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models import parts
from anchors_jax.models.guided_head import FeatureAdaption
from anchors_jax.models.layers import conv
from anchors_jax.models.norms import Norm
from anchors_jax.types import DensePredictions, GuidedPredictions


class ProposalHead(nn.Module):
    """One logit per class, of which proposals have one, and one box for every anchor.

    Attributes beside those that it has in common with `DenseHead` (one tower):
      prior: score of every anchor at the start.
      shapes_per_cell: anchors of one cell, S.

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int = 1
    prior: float = 0.5
    depth: int = 1
    width: int = 256
    norm: Norm | None = None
    tower_bias: bool | None = None
    shapes_per_cell: int = 3
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    per_level: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parts.check_prior(self.prior)

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape."""
        shapes = self.shapes_per_cell
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        tower = parts.tower(
            self.depth, self.width, norm=self.norm, bias=self.tower_bias, name="tower", **options
        )
        output, prior = functools.partial(conv, size=1, **options), parts.prior_bias(self.prior)
        class_output = output(shapes * self.num_classes, bias_init=prior, name="class_output")
        box_output = output(shapes * 4, name="box_output")

        def level(_: int, x: Array) -> dict[str, Array]:
            features = tower(x, train=train)
            return {
                "logits": parts.rows_of(class_output(features), self.num_classes),
                "codes": parts.rows_of(box_output(features), 4),
            }

        return DensePredictions(**parts.on_levels(level, pyramid), maps=parts.maps_of(pyramid))


class GuidedProposalHead(nn.Module):
    """One anchor per cell: whether there is one, its shape, its logits and its box (GA-RPN).

    Attributes beside those that it has in common with `DenseHead` (one tower; where there is a
    norm, the feature adaption has it, too):
      prior: score of every location at the start; anchors start at 0.5.
      deform_groups: of the feature adaption.
      adapt: False: an ordinary convolution in place of the deformable one.

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int = 1
    prior: float = 0.01
    depth: int = 1
    width: int = 256
    norm: Norm | None = None
    tower_bias: bool | None = None
    deform_groups: int = 4
    adapt: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    per_level: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parts.check_prior(self.prior)

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> GuidedPredictions:
        """Cells in the order level, row, column."""
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        tower = parts.tower(
            self.depth, self.width, norm=self.norm, bias=self.tower_bias, name="tower", **options
        )
        adaption = FeatureAdaption(
            self.width, self.deform_groups, self.adapt, self.norm, name="adaption", **options
        )
        output, prior = functools.partial(conv, size=1, **options), parts.prior_bias(self.prior)
        location_output = output(1, bias_init=prior, name="location_output")
        shape_output = output(2, name="shape_output")
        class_output = output(self.num_classes, name="class_output")
        box_output = output(4, name="box_output")

        def level(_: int, x: Array) -> dict[str, Array]:
            features = tower(x, train=train)
            shapes = shape_output(features)
            adapted = adaption(features, shapes, train=train)
            return {
                "logits": parts.rows_of(class_output(adapted), self.num_classes),
                "codes": parts.rows_of(box_output(adapted), 4),
                "cell_logits": parts.rows_of(location_output(features)),
                "shape_codes": parts.rows_of(shapes, 2),
            }

        return GuidedPredictions(**parts.on_levels(level, pyramid), maps=parts.maps_of(pyramid))
