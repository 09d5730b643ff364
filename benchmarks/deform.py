"""Deformable convolution at the size of a finest pyramid level: 100 x 168 cells, 256 channels."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anchors_jax.deform import deform_conv
from benchmarks import measure

ROWS, COLUMNS, CHANNELS, GROUPS = 100, 168, 256, 4


def deform() -> Iterator[dict[str, Any]]:
    """Forward and gradient in blocks of several sizes, beside an ordinary convolution."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, ROWS, COLUMNS, CHANNELS)), jnp.float32)
    offsets = jnp.asarray(rng.normal(size=(1, ROWS, COLUMNS, GROUPS, 9, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(0.0, 0.02, (3, 3, CHANNELS, CHANNELS)), jnp.float32)

    def ordinary(x: jax.Array, offsets: jax.Array, kernel: jax.Array) -> jax.Array:
        del offsets
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    functions = {"convolution": ordinary}
    for block_mb in (4.0, 8.0, 32.0):
        functions[f"deformable convolution, blocks of {block_mb:g} MB"] = (
            lambda *arguments, block_mb=block_mb: deform_conv(*arguments, block_mb=block_mb)
        )
    for name, function in functions.items():

        def total(*arguments: jax.Array, function=function) -> jax.Array:
            return jnp.sum(jnp.square(function(*arguments)))

        size = f"{ROWS} x {COLUMNS} x {CHANNELS}"
        for what, call in (
            ("forward", function),
            ("gradient", jax.grad(total, argnums=(0, 1, 2))),
        ):
            program, memory = measure.compiled(call, x, offsets, kernel)
            seconds = measure.seconds(program, repeats=5, warmup=1)
            yield {"name": f"{name}, {what}, {size}", **seconds, **memory}
