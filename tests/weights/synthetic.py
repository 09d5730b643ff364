"""Small state dicts with torchvision's names, and the network that they are for."""

import jax
import jax.numpy as jnp
import numpy as np

from anchors_jax.models import resnet

CANVAS = (64, 64)


def resnet18(width=8, seed=0):
    """torchvision's names and layouts of a ResNet-18 of that width, with its classifier."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, out, inner, size):
        values = rng.standard_normal((out, inner, size, size)) / np.sqrt(inner * size * size)
        state[f"{name}.weight"] = values.astype(np.float32)

    def norm(name, channels):
        for leaf in ("weight", "running_var"):
            state[f"{name}.{leaf}"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        for leaf in ("bias", "running_mean"):
            values = 0.1 * rng.standard_normal(channels)
            state[f"{name}.{leaf}"] = values.astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.asarray(7, np.int64)

    conv("conv1", width, 3, 7)
    norm("bn1", width)
    inner = width
    for stage in range(1, 5):
        planes = width * 2 ** (stage - 1)
        for block in range(2):
            name = f"layer{stage}.{block}"
            conv(f"{name}.conv1", planes, inner, 3)
            norm(f"{name}.bn1", planes)
            conv(f"{name}.conv2", planes, planes, 3)
            norm(f"{name}.bn2", planes)
            if inner != planes:
                conv(f"{name}.downsample.0", planes, inner, 1)
                norm(f"{name}.downsample.1", planes)
            inner = planes
    state["fc.weight"] = np.zeros((10, inner), np.float32)
    state["fc.bias"] = np.zeros(10, np.float32)
    return state


def network(**options):
    """Variables of the network for it, under "backbone" as in a detector, as shapes."""
    model = resnet.ResNet(depth=18, width=8, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *CANVAS, 3)))
    return {kind: {"backbone": tree} for kind, tree in shapes.items()}
