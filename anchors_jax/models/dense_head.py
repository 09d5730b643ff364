"""The dense head of RetinaNet (Lin et al., ICCV 2017, section 4) and of its descendants.

Two towers of 3x3 convolutions, one for classes and one for boxes, shared by all levels. ATSS, PAA
and FCOS add group normalisation, a learned factor per level on the box output, and a third output
that predicts the quality of each box.
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
from anchors_jax.models.norms import Norm
from anchors_jax.types import DensePredictions


class DenseHead(nn.Module):
    """Class logits, box codes and, where asked for, a quality logit for every anchor.

    A `parts.PrunableHead`.

    Attributes:
      num_classes: K; background is no class.
      prior: score of every class at the start.
      depth, width: of both towers.
      norm: class or partial of `norms`, inside the towers, or None.
      tower_bias: whether tower convolutions have a bias; None: only without a norm.
      shapes_per_cell: anchors of one cell, S.
      quality: None, or the tower ("box" or "class") whose output also gives one logit per anchor
        (centerness, IoU).
      level_scale: multiply the codes of each level by a learned number that starts at 1.
      slots: for pruned heads, which of the shapes_per_cell shapes each level has; a level without
        any is skipped, and costs nothing. None: all shapes on all levels.
      kernel_init: of all convolutions; normal with std 0.01.
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for an unknown quality tower, a prior outside (0, 1) or slots without any shape.
    """

    num_classes: int
    prior: float = 0.01
    depth: int = 4
    width: int = 256
    norm: Norm | None = None
    tower_bias: bool | None = None
    shapes_per_cell: int = 9
    quality: str | None = None
    level_scale: bool = False
    slots: tuple[tuple[int, ...], ...] | None = None
    kernel_init: Callable[..., Array] = nn.initializers.normal(0.01)
    dtype: Any = jnp.float32

    per_level: ClassVar[bool] = False  # one set of output layers for all

    def __post_init__(self) -> None:
        super().__post_init__()
        parts.check_prior(self.prior)
        if self.quality not in (None, "box", "class"):
            raise ValueError(f"quality {self.quality!r} is not None, 'box' or 'class'")
        if self.slots is not None and not any(self.slots):
            raise ValueError("slots leave no level with a shape")

    @nn.compact
    def __call__(
        self, pyramid: Sequence[Float[Array, "B _h _w C"]], *, train: bool = False
    ) -> DensePredictions:
        """Anchors in the order level, row, column, shape; channel = shape * K + class."""
        shapes = self.shapes_per_cell
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        tower = functools.partial(
            parts.tower, self.depth, self.width, norm=self.norm, bias=self.tower_bias, **options
        )
        towers = {name: tower(name=f"{name}_tower") for name in ("class", "box")}
        output = functools.partial(conv, size=3, **options)
        prior = parts.prior_bias(self.prior)
        class_output = output(shapes * self.num_classes, bias_init=prior, name="class_output")
        box_output = output(shapes * 4, name="box_output")
        quality_output = output(shapes, name="quality_output") if self.quality else None
        scales = jnp.ones(len(pyramid), jnp.float32)
        if self.level_scale:
            scales = self.param("level_scale", nn.initializers.ones, scales.shape, jnp.float32)

        def level(number: int, x: Array) -> dict[str, Array] | None:
            chosen = None if self.slots is None else self.slots[number]
            if chosen == ():
                return None
            features = {name: part(x, train=train) for name, part in towers.items()}
            rows_of = functools.partial(parts.rows_of, chosen=chosen)
            rows = {
                "logits": rows_of(class_output(features["class"]), self.num_classes),
                "codes": rows_of(box_output(features["box"]), 4) * scales[number],
            }
            if quality_output is not None:
                rows["quality"] = rows_of(quality_output(features[self.quality]))
            return rows

        return DensePredictions(**parts.on_levels(level, pyramid), maps=parts.maps_of(pyramid))

    def sliced(self, kept: parts.Kept) -> dict[str, Any]:
        """The output layers keep every shape that some level keeps."""
        own = self._own(kept)
        union = _union(own)
        slots = [[union.index(slot) for slot in level] for level in own]
        everything = all(len(level) == len(union) for level in slots)
        return {"shapes_per_cell": len(union), "slots": None if everything else slots}

    def sliced_params(self, params: Mapping[str, Any], kept: parts.Kept) -> dict[str, Any]:
        """Towers stay as they are."""
        union, result = _union(self._own(kept)), dict(params)
        sizes = {"class_output": self.num_classes, "box_output": 4, "quality_output": 1}
        for name in sizes.keys() & params.keys():
            result[name] = parts.sliced_output(params[name], sizes[name], union)
        if "level_scale" in result:
            result["level_scale"] = result["level_scale"][: len(kept)]
        return result

    def multiply_adds(
        self, cells: Sequence[int], counts: Sequence[int], channels: Sequence[int]
    ) -> int:
        """Levels without anchors run nothing, every other one predicts the most A_l of any.

        That is the least: levels that keep different shapes predict all of them.
        """
        outputs = max(counts) * (self.num_classes + 4 + (self.quality is not None))
        total = 0
        for area, count, width in zip(cells, counts, channels, strict=True):
            if count:
                inputs = [width, *[self.width] * self.depth]  # of tower convolutions, and outputs
                total += 9 * area * (2 * self.width * sum(inputs[:-1]) + outputs * inputs[-1])
        return total

    def _own(self, kept: parts.Kept) -> parts.Kept:
        """The slots, counted among the `shapes_per_cell` shapes of the output layers."""
        if self.slots is None:
            return kept
        pairs = zip(self.slots[: len(kept)], kept, strict=True)
        return [[own[slot] for slot in level] for own, level in pairs]


def _union(kept: parts.Kept) -> list[int]:
    return sorted({slot for level in kept for slot in level})
