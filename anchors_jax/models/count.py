"""Size and cost of a network, from shapes alone: nothing is initialised or run."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.extend import core

from anchors_jax.models.convolution import ordinary


@struct.dataclass(kw_only=True)
class Report:
    """What a network holds and what one forward pass costs."""

    total: int  # parameters
    trainable: int  # parameters that the optimiser updates
    parts: dict[str, int]  # parameters of each top-level submodule
    flops: float  # of one image; a multiply-add counts as two

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size:,}" for name, size in self.parts.items())
        return (
            f"{self.total:,} parameters ({parts}), {self.trainable:,} trainable; "
            f"{self.flops / 1e9:.2f} GFLOPs per image"
        )


def shapes(model: nn.Module, canvas: tuple[int, int], *, batch: int = 1) -> Any:
    """Variables of `model` for images of (height, width) `canvas`, as shapes without values."""
    image = jax.ShapeDtypeStruct((batch, *canvas, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def parameters(params: Any) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def flops(function: Callable[..., Any], *arguments: Any, compiled: bool = False) -> float:
    """Floating-point operations of one call, by XLA's analysis; arguments may be shapes.

    By default the program is analysed as written, with ordinary convolutions, which takes seconds.
    `compiled` analyses what the backend runs: slower, and operations hidden in library calls count
    as nothing.
    """
    with contextlib.nullcontext() if compiled else ordinary():
        lowered = jax.jit(function).lower(*arguments)
    cost = (lowered.compile() if compiled else lowered).cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return float((cost or {}).get("flops", float("nan")))


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-adds of the convolutions and matrix products of one call; arguments may be shapes.

    As papers count them: taps that lie in the padding count like any other, and nothing but
    products does (`flops` leaves out the padding and counts all operations). Bodies of loops count
    once.
    """
    with ordinary():
        return _products(jax.make_jaxpr(function)(*arguments).jaxpr)


def head_multiply_adds(model: nn.Module, canvas: tuple[int, int]) -> int:
    """Multiply-adds of the head alone on one image of (height, width) `canvas`.

    What anchors cost in the network, whatever its backbone: the whole of a network less its trunk.
    """
    variables = shapes(model, canvas)
    image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    whole = multiply_adds(model.apply, variables, image)
    return whole - multiply_adds(functools.partial(model.apply, method="trunk"), variables, image)


def _products(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, equation.invars
        if name == "conv_general_dilated":
            # Each output takes one product per tap and input channel of its group.
            kernel, features = (
                inputs[1].aval.shape,
                equation.params["dimension_numbers"].rhs_spec[0],
            )
            each = math.prod(kernel) // kernel[features]
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            each = math.prod(inputs[0].aval.shape[axis] for axis in contracted)
        else:
            total += sum(map(_products, core.jaxprs_in_params(equation.params)))
            continue
        total += each * math.prod(equation.outvars[0].aval.shape)
    return total


def report(model: nn.Module, canvas: tuple[int, int], *, mask: Any = None) -> Report:
    """Parameters and cost of `model` on a (height, width) `canvas`.

    `mask` is a function from parameters to a tree of bool, such as
    `functools.partial(one_stage.trainable_mask, model)`; without it every parameter is trainable.
    """
    variables = shapes(model, canvas)
    params = variables["params"]
    image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    kept = (
        jax.tree.map(lambda leaf, keep: leaf if keep else None, params, mask(params))
        if mask
        else params
    )
    return Report(
        total=parameters(params),
        trainable=parameters(kept),
        parts={name: parameters(tree) for name, tree in params.items()},
        flops=flops(model.apply, variables, image),
    )
