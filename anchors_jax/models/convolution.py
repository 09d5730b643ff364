"""Convolution that is fast on CPUs too, where XLA's own is slow: above all the kernel's gradient.

Every convolution of the networks is a `convolve`. On accelerators that is
`lax.conv_general_dilated` and its own gradient: the platform is chosen where a program is lowered,
not by what this process runs on. On CPUs, part of it is a sum over the kernel's taps: the pixels
that a tap reads, a slice of the padded map, times its weights. The same products, in another order.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

LAYOUT = ("NHWC", "HWIO", "NHWC")

# Outputs from which the gradient of any kernel is a sum over its taps. GFLOP/s of that gradient on
# two idle cores (AVX-512), by XLA and by taps: 16-25 and 117-130 of 1x1 kernels, 61-93 and 168 of
# 3x3 kernels with 720 outputs; with 256 or fewer, taps gain nothing. Milliseconds of depthwise 3x3
# kernels on 2 maps of 128 x 128 x 64, busy cores: 127 and 3 for the value, 73 and 2.5 for the map's
# gradient, 123 and 44 for the kernel's.
WIDE = 512

_ordinary = jax.make_user_context(False)  # belongs to the key under which programs are cached


def ordinary() -> contextlib.AbstractContextManager[Any]:
    """A context in which `convolve` is `lax.conv_general_dilated` on every platform.

    It decides while programs are traced: for counting what a network computes, and for comparing.
    """
    return _ordinary(True)


def convolve(
    lhs: Float[Array, "B H W C"],
    rhs: Float[Array, "kh kw c D"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Float[Array, "B h w D"]:
    """What `lax.conv_general_dilated` returns; `nn.Conv` takes this function in its place.

    Arguments are those of `lax`. Another layout than `LAYOUT`, padding by name, a dilated input or
    any further option that is not None (precision, ...) mean the ordinary convolution. Where the
    gradient is our own (`_Geometry`), there is no forward-mode derivative.
    """
    if not isinstance(padding, str):
        padding = tuple((low, high) for low, high in padding)
    geometry = _Geometry(
        tuple(window_strides),
        padding,
        tuple(rhs_dilation) if rhs_dilation else (1,) * len(window_strides),
        feature_group_count,
    )
    plain = (
        lhs.ndim == 4
        and not isinstance(padding, str)
        and all(step == 1 for step in lhs_dilation or ())
        and all(value is None for value in options.values())
        and _numbers(lhs, rhs, dimension_numbers) == _numbers(lhs, rhs, LAYOUT)
    )
    if plain and not _ordinary.value and (geometry.is_sum(rhs) or geometry.is_wide(rhs)):
        return _convolve(geometry, lhs, rhs)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        **options,
    )


def _numbers(lhs: Array, rhs: Array, layout: Any) -> lax.ConvDimensionNumbers:
    return lax.conv_dimension_numbers(lhs.shape, rhs.shape, layout)


class _Geometry(NamedTuple):
    """How a kernel moves over a map, and both ways to compute the convolution."""

    strides: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int

    def is_sum(self, kernel: Array) -> bool:
        """Whether CPUs compute value and gradients by taps: 1x1 and depthwise kernels."""
        if self.groups > 1:
            return kernel.shape[2] == 1 and self.groups == kernel.shape[3]
        return kernel.shape[:2] == (1, 1)

    def is_wide(self, kernel: Array) -> bool:
        """Whether CPUs compute the gradient of the kernel by taps, and nothing else."""
        return self.groups == 1 and kernel.shape[3] >= WIDE

    def whole(self, x: Array, kernel: Array) -> Array:
        """The ordinary convolution."""
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=LAYOUT,
            feature_group_count=self.groups,
        )

    def by_taps(self, x: Array, kernel: Array) -> Array:
        """The sum over the taps of `kernel`."""
        shape = jax.eval_shape(self.whole, x, kernel).shape
        borders = ((0, 0, 0), *((*pair, 0) for pair in self.padding), (0, 0, 0))
        x = lax.pad(x, jnp.zeros((), x.dtype), borders)
        taps = kernel.shape[0] * kernel.shape[1]
        # Split rather than indexed: then the gradients of the taps are concatenated, not added.
        weights = lax.split(kernel.reshape(taps, *kernel.shape[2:]), (1,) * taps)
        products = []
        for tap, weight in enumerate(weights):
            at = divmod(tap, kernel.shape[1])
            start = [place * step for place, step in zip(at, self.dilation, strict=True)]
            last = [
                begin + (cells - 1) * step
                for begin, cells, step in zip(start, shape[1:3], self.strides, strict=True)
            ]
            stop = (x.shape[0], last[0] + 1, last[1] + 1, x.shape[3])
            read = lax.slice(x, (0, *start, 0), stop, (1, *self.strides, 1))
            products.append(_product(read, weight[0], depthwise=self.groups > 1))
        return functools.reduce(operator.add, products).astype(x.dtype)

    def gradients(self, of_map: Callable, of_kernel: Callable) -> Callable[..., Any]:
        """The gradients by map and kernel, of two ways to compute the convolution."""

        def both(x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
            (dx,) = jax.linear_transpose(lambda x: of_map(x, kernel), x)(slope)
            (dkernel,) = jax.linear_transpose(lambda kernel: of_kernel(x, kernel), kernel)(slope)
            return dx, dkernel

        return both


def _product(read: Array, weight: Array, *, depthwise: bool) -> Array:
    if depthwise:  # float32, because there are several of them to be added
        return read.astype(jnp.float32) * weight.astype(jnp.float32)[None, None]
    return lax.dot_general(read, weight, (((3,), (0,)), ((), ())))


# One derivative rule around both platforms: JAX would keep what either needs for its gradient.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(geometry: _Geometry, x: Array, kernel: Array) -> Array:
    if not geometry.is_sum(kernel):
        return geometry.whole(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=geometry.by_taps, default=geometry.whole)


def _forward(geometry: _Geometry, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(geometry, x, kernel), (x, kernel)


def _backward(geometry: _Geometry, kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    whole, by_taps = geometry.whole, geometry.by_taps
    of_map = by_taps if geometry.is_sum(kept[1]) else whole
    return lax.platform_dependent(
        *kept,
        slope,
        cpu=geometry.gradients(of_map, by_taps),
        default=geometry.gradients(whole, whole),
    )


_convolve.defvjp(_forward, _backward)
