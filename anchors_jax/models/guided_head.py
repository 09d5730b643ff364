"""The head of Guided Anchoring: classes and boxes, and the anchors they refer to.

    J. Wang, K. Chen, S. Yang, C. C. Loy, D. Lin, "Region Proposal by Guided Anchoring", CVPR 2019,
    arXiv:1901.03278, Sections 3.1-3.3 and Figure 1; for one-stage detectors as in MMDetection's
    GA-RetinaNet: RetinaNet's two towers, the location read from the class tower, the shape from the
    box tower, and one feature adaption for each.

Initial weights as there. Its later versions start the offsets at 0; here, as first published, they
are N(0, 0.1^2) times shapes near 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float

from anchors_jax.deform import deform_conv
from anchors_jax.models.layers import TowerHead, conv, rows_of
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
            numbers = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers
            )
        if self.norm is not None:
            x = self.norm(dtype=self.dtype, name="norm")(x, train=train)
        return nn.relu(x)


class AdaptiveHead(TowerHead):
    """What heads share that predict anchors and adapt their features to them.

    Attributes beside those of `TowerHead` (where there is a norm, the adaptions have it, too):
      deform_groups: of the feature adaptions.
      adapt: False: ordinary convolutions in place of the deformable ones.
    """

    deform_groups: int = 4
    adapt: bool = True

    def _adaption(self, name: str) -> FeatureAdaption:
        return FeatureAdaption(
            width=self.width,
            groups=self.deform_groups,
            deform=self.adapt,
            norm=self.norm,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name=name,
        )

    def _anchor_outputs(self) -> tuple[nn.Conv, nn.Conv]:
        """1x1 convolutions: is there an anchor in a cell (at the start: the prior), its shape."""
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        location = conv(1, 1, name="location_output", bias_init=self._prior_bias(), **options)
        return location, conv(2, 1, name="shape_output", **options)


class GuidedHead(AdaptiveHead):
    """One anchor per cell: whether there is one, its shape, its classes and its box.

    Two towers; `prior` is the score of every class and of every location.
    """

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> GuidedPredictions:
        """Cells in the order level, row, column."""
        towers = {name: self._tower(f"{name}_tower") for name in ("class", "box")}
        adaptions = {name: self._adaption(f"{name}_adaption") for name in towers}
        prior = self._prior_bias()
        class_output = self._output("class_output", self.num_classes, bias_init=prior)
        box_output = self._output("box_output", 4)
        location_output, shape_output = self._anchor_outputs()
        logits, codes, cell_logits, shape_codes = [], [], [], []
        for x in pyramid:
            features = {name: tower(x, train=train) for name, tower in towers.items()}
            shapes = shape_output(features["box"])
            cell_logits.append(rows_of(location_output(features["class"]), 1))
            shape_codes.append(rows_of(shapes, 2))
            adapted = {
                name: adaption(features[name], shapes, train=train)
                for name, adaption in adaptions.items()
            }
            logits.append(rows_of(class_output(adapted["class"]), self.num_classes))
            codes.append(rows_of(box_output(adapted["box"]), 4))
        return GuidedPredictions(
            logits=jnp.concatenate(logits, 1),
            codes=jnp.concatenate(codes, 1),
            cell_logits=jnp.concatenate(cell_logits, 1)[..., 0],
            shape_codes=jnp.concatenate(shape_codes, 1),
            maps=tuple((x.shape[1], x.shape[2]) for x in pyramid),
        )
