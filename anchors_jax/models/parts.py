"""What heads are put together from: towers, outputs that start at a prior, rows of all levels.

A head is a linen module of its own; these are functions that it calls inside its `__call__`, and
the questions that tools which take anchors away put to it (`PrunableHead`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from anchors_jax.models.layers import Tower
from anchors_jax.models.norms import Norm

Kept = Sequence[Sequence[int]]  # of each level, the slots (0..S_l-1) whose shapes stay


def check_prior(prior: float) -> None:
    """Raise ValueError for a score at the start outside (0, 1)."""
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior {prior} is not between 0 and 1")


def prior_bias(prior: float) -> Callable[..., Array]:
    """Initialiser whose sigmoid is the prior: pi of RetinaNet (arXiv 1708.02002), section 4.1."""
    return nn.initializers.constant(-math.log((1.0 - prior) / prior))


def tower(
    depth: int, width: int, *, norm: Norm | None, bias: bool | None, **keywords: Any
) -> Tower:
    """A `Tower`; call inside a linen module.

    `bias`: whether its convolutions have one; None: only without a norm (MMDetection's ATSS and
    PAA). The official FCOS and PAA codes have both. `keywords` as `Tower` (name, dtype, ...).
    """
    use_bias = norm is None if bias is None else bias
    return Tower(depth=depth, width=width, norm=norm, use_bias=use_bias, **keywords)


def rows_of(
    x: Float[Array, "B H W C"], *shape: int, chosen: Sequence[int] | None = None
) -> Float[Array, "B N *n"]:
    """Float32 rows of that shape, in the order row, column, group of channels.

    `chosen` are the groups of channels that become rows; None: all.
    """
    groups = x.reshape(*x.shape[:3], -1, math.prod(shape))
    if chosen is not None and tuple(chosen) != tuple(range(groups.shape[3])):
        groups = groups[..., tuple(chosen), :]
    return groups.astype(jnp.float32).reshape(x.shape[0], -1, *shape)


def on_levels(
    level: Callable[[int, Array], dict[str, Array] | None],
    pyramid: Sequence[Float[Array, "B _h _w _c"]],
) -> dict[str, Float[Array, "B N *_n"]]:
    """Rows of every level under each other, by name of the output.

    `level` maps the number and the map of a level to its rows [B, N_l, ...]; levels for which it
    returns None are left out.
    """
    found = [rows for rows in (level(*pair) for pair in enumerate(pyramid)) if rows is not None]
    return {name: jnp.concatenate([rows[name] for rows in found], 1) for name in found[0]}


def maps_of(pyramid: Sequence[Float[Array, "B _h _w _c"]]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of every level."""
    return tuple((x.shape[1], x.shape[2]) for x in pyramid)


@runtime_checkable
class PrunableHead(Protocol):
    """A head that says what it is, holds and costs with fewer anchor shapes.

    Bonnaerens et al., "Anchor pruning for object detection", CVIU 2022, arXiv:2104.00432. `kept`
    has the slots that stay of the shapes that a level has now, for each level that stays: levels at
    the end that nothing reads any more are simply not in it (`shortened` of the necks).
    """

    shapes_per_cell: int | tuple[int, ...]

    @property
    def per_level(self) -> bool:
        """Whether each level has output layers and a number of shapes of its own, as in SSD."""

    def sliced(self, kept: Kept) -> dict[str, Any]:
        """The attributes that change, as plain data; at least one slot is kept."""

    def sliced_params(self, params: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
        """The parameters of the head that `sliced` describes; `params` are this head's."""

    def multiply_adds(
        self, cells: Sequence[int], counts: Sequence[int], channels: Sequence[int]
    ) -> int:
        """Multiply-adds of the head's convolutions on one image; biases and norms do not count.

        Args:
          cells: H_l W_l of every level.
          counts: A_l, how many shapes of a cell are left on every level.
          channels: of every level's map; without meaning on levels that have no shapes.
        """


def sliced_output(
    params: Mapping[str, Array], size: int, slots: Sequence[int]
) -> dict[str, np.ndarray]:
    """The parameters of an output convolution with `size` channels of each of these slots only."""
    result = {}
    for name, value in params.items():  # of kernel and bias, the last axis are the channels
        value = np.asarray(value)
        groups = value.reshape(*value.shape[:-1], -1, size)[..., list(slots), :]
        result[name] = groups.reshape(*value.shape[:-1], -1)
    return result
