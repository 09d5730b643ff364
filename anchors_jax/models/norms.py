"""Normalisation layers with one interface: `norm(dtype=..., name=...)(x, train=train)`.

Networks take the class, or a partial of it, as their keyword `norm`. Parameters are always called
`scale` and `bias` and statistics `mean` and `var`; all are float32, and so is the arithmetic.

Collections: `params` is trained; `batch_stats` is written while training; `constants` is only ever
written by a checkpoint.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

Norm = Callable[..., nn.Module]


def _per_channel(values: Array, x: Array) -> Array:
    return values.reshape((1,) * (x.ndim - 1) + (-1,))


def _normalise(x: Array, mean: Array, var: Array, scale: Array, bias: Array, eps: float) -> Array:
    """One multiply-add per element: (x - mean) / sqrt(var + eps) * scale + bias, in float32."""
    slope = scale * jax.lax.rsqrt(var + eps)
    return x.astype(jnp.float32) * slope + (bias - mean * slope)


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with statistics that never change, not even in training.

    mean and var live in `constants`. With `trainable=False` so do scale and bias (Caffe-style
    models, torchvision detectors); otherwise they are ordinary parameters (MMDetection's
    PyTorch-style models). `eps` is 0 for weights with the statistics folded into the scale and for
    torchvision's first detectors.
    """

    eps: float = 1e-5
    trainable: bool = True
    scale_init: Callable[..., Array] = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B H W C"], *, train: bool = False
    ) -> Float[Array, "*B H W C"]:
        """`train` is accepted for the common interface and changes nothing."""
        del train
        shape = (x.shape[-1],)
        mean = self.variable("constants", "mean", jnp.zeros, shape).value
        var = self.variable("constants", "var", jnp.ones, shape).value
        scale, bias = self._affine(shape)
        values = (_per_channel(v, x) for v in (mean, var, scale, bias))
        return _normalise(x, *values, self.eps).astype(self.dtype)

    def _affine(self, shape: tuple[int]) -> tuple[Array, Array]:
        if self.trainable:
            scale = self.param("scale", self.scale_init, shape, jnp.float32)
            return scale, self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        # No key is needed: frozen values come from a checkpoint, and 1 is the only sensible start.
        scale = self.variable("constants", "scale", jnp.ones, shape).value
        return scale, self.variable("constants", "bias", jnp.zeros, shape).value


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015), optionally over the batches of all devices.

    With `axis_name="batch"` the statistics of a training step are averaged over that mapped axis,
    so every device normalises alike and stores the same running averages; it may be set only where
    training runs inside a map over an axis of that name. `momentum` is the share of the old
    running average. The stored variance is unbiased, as PyTorch's.
    """

    eps: float = 1e-5
    momentum: float = 0.9
    axis_name: str | None = None
    scale_init: Callable[..., Array] = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B H W C"], *, train: bool = False
    ) -> Float[Array, "*B H W C"]:
        """Normalise by the batch (`train`) or by the running averages."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train and not self.is_initializing():
            mean, var, count = self._moments(x)
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value += (1.0 - self.momentum) * (mean - running_mean.value)
            running_var.value += (1.0 - self.momentum) * (unbiased - running_var.value)
        values = (_per_channel(v, x) for v in (mean, var, scale, bias))
        return _normalise(x, *values, self.eps).astype(self.dtype)

    def _moments(self, x: Array) -> tuple[Array, Array, int]:
        """Mean and biased variance of each channel, and over how many values."""
        axes = tuple(range(x.ndim - 1))
        mean = self._average(jnp.mean(x, axes, dtype=jnp.float32))
        var = self._average(jnp.mean(jnp.square(x - _per_channel(mean, x)), axes))
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return mean, var, devices * (x.size // x.shape[-1])

    def _average(self, value: Array) -> Array:
        return value if self.axis_name is None else jax.lax.pmean(value, self.axis_name)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018): each image by itself, statistics per channel group.

    `groups` is the paper's 32; a layer whose channels it does not divide takes the greatest common
    divisor of both (48 channels: 16 groups of 3). Narrow networks do better with a `group_size`,
    the channels per group, which then replaces `groups` in the same way (8 is what 256 channels
    have): a group of one channel on a map of one pixel is normalised to nothing but its bias.
    """

    groups: int = 32
    group_size: int | None = None
    eps: float = 1e-5
    scale_init: Callable[..., Array] = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B H W C"]:
        """`train` is accepted for the common interface and changes nothing."""
        del train
        batch, channels = x.shape[0], x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        groups = math.gcd(self.groups, channels)
        if self.group_size is not None:
            groups = channels // math.gcd(self.group_size, channels)
        x32 = x.astype(jnp.float32)

        def average(values: Array) -> Array:  # over the group, given back to each channel
            # Pixels first, then channels: one pass over contiguous memory.
            by_group = values.mean((1, 2)).reshape(batch, groups, -1).mean(-1, keepdims=True)
            members = jnp.broadcast_to(by_group, (batch, groups, channels // groups))
            return members.reshape(batch, 1, 1, channels)

        mean = average(x32)
        var = average(jnp.square(x32 - mean))
        scale, bias = _per_channel(scale, x), _per_channel(bias, x)
        return _normalise(x32, mean, var, scale, bias, self.eps).astype(self.dtype)
