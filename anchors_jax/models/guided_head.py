"""The head of Guided Anchoring: classes and boxes, and the anchors they refer to.

    J. Wang, K. Chen, S. Yang, C. C. Loy, D. Lin, "Region Proposal by Guided Anchoring", CVPR 2019,
    arXiv:1901.03278, Sections 3.1-3.3 and Figure 1; for one-stage detectors as in MMDetection's
    GA-RetinaNet: RetinaNet's two towers, the location read from the class tower, the shape from the
    box tower, and one feature adaption for each.

Initial weights as there. Its later versions start the offsets at 0; here, as first published, they
are N(0, 0.1^2) times shapes near 0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float

from anchors_jax.deform import deform_conv
from anchors_jax.models import parts
from anchors_jax.models.convolution import LAYOUT, convolve
from anchors_jax.models.layers import conv
from anchors_jax.models.norms import Norm
from anchors_jax.types import GuidedPredictions


class FeatureAdaption(nn.Module):
    """Features as the predicted anchor of each cell sees them (Section 3.3), any head's.

    A 3x3 deformable convolution whose offsets are a linear function of the anchor's shape code. The
    gradient reaches the offsets, not the shapes.

    Attributes:
      width: channels of the result.
      groups: deform groups, each with offsets of its own.
      deform: False: an ordinary convolution in its place (Table 4, without FA).
      norm: class or partial of `norms`, before the ReLU, or None.
      kernel_init: of the convolution.
      offset_init: of the offsets' weights.
      dtype: of the computation; parameters and positions are float32.
    """

    width: int = 256
    groups: int = 4
    deform: bool = True
    norm: Norm | None = None
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    offset_init: Callable[..., Array] = nn.initializers.normal(0.1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        shape_codes: Float[Array, "B H W 2"],
        *,
        train: bool = False,
    ) -> Float[Array, "B H W D"]:
        """Same rows and columns, `width` channels."""
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.deform:
            offset = conv(
                self.groups * 9 * 2, 1, use_bias=False, kernel_init=self.offset_init, name="offset"
            )
            # Channels are (group, tap, (dy, dx)).
            offsets = offset(lax.stop_gradient(shape_codes).astype(jnp.float32))
            x = deform_conv(x, offsets.reshape(*x.shape[:3], self.groups, 9, 2), kernel)
        else:
            x = convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)
        if self.norm is not None:
            x = self.norm(dtype=self.dtype, name="norm")(x, train=train)
        return nn.relu(x)


class GuidedHead(nn.Module):
    """One anchor per cell: whether there is one, its shape, its classes and its box.

    Attributes beside those that it has in common with `DenseHead` (two towers; where there is a
    norm, the feature adaptions have it, too):
      prior: score of every class and of every location at the start.
      deform_groups: of the feature adaptions.
      adapt: False: ordinary convolutions in place of the deformable ones.

    Raises:
      ValueError: for a prior outside (0, 1).
    """

    num_classes: int
    prior: float = 0.01
    depth: int = 4
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
        tower = functools.partial(
            parts.tower, self.depth, self.width, norm=self.norm, bias=self.tower_bias, **options
        )
        adaption = functools.partial(
            FeatureAdaption, self.width, self.deform_groups, self.adapt, self.norm, **options
        )
        towers = {name: tower(name=f"{name}_tower") for name in ("class", "box")}
        adaptions = {name: adaption(name=f"{name}_adaption") for name in towers}
        output, prior = functools.partial(conv, **options), parts.prior_bias(self.prior)
        class_output = output(self.num_classes, 3, bias_init=prior, name="class_output")
        box_output = output(4, 3, name="box_output")
        location_output = output(1, 1, bias_init=prior, name="location_output")
        shape_output = output(2, 1, name="shape_output")

        def level(_: int, x: Array) -> dict[str, Array]:
            features = {name: part(x, train=train) for name, part in towers.items()}
            shapes = shape_output(features["box"])
            adapted = {n: part(features[n], shapes, train=train) for n, part in adaptions.items()}
            return {
                "logits": parts.rows_of(class_output(adapted["class"]), self.num_classes),
                "codes": parts.rows_of(box_output(adapted["box"]), 4),
                "cell_logits": parts.rows_of(location_output(features["class"])),
                "shape_codes": parts.rows_of(shapes, 2),
            }

        return GuidedPredictions(**parts.on_levels(level, pyramid), maps=parts.maps_of(pyramid))
