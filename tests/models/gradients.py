"""Which parameters of a whole network training moves."""

import jax
import jax.numpy as jnp
import numpy as np


def moving(model, params, image):
    """A tree like `params`: whether each gets any gradient; all gradients must be finite."""

    @jax.jit
    def gradient(params):
        def loss(params):
            out = model.apply({"params": params}, image, train=True)
            return jnp.square(out.logits).sum() + jnp.square(out.codes).sum()

        return jax.grad(loss)(params)

    gradients = gradient(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    return jax.tree.map(lambda g: bool(np.any(g)), gradients)
