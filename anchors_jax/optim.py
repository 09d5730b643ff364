"""Optimisers and schedules: optax, with the conventions of detection written down.

A learning rate belongs to a batch size. Configs give it for `reference_batch` images (16 in the
papers) and it is scaled linearly with the batch (P. Goyal et al., "Accurate, Large Minibatch SGD",
arXiv:1706.02677, section 2.1).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[Any], Any]


def step_decay(
    learning_rate: float,
    total_steps: int,
    *,
    milestones: tuple[float, ...] = (8 / 12, 11 / 12),
    factor: float = 0.1,
    warmup_steps: int = 500,
    warmup_factor: float = 1e-3,
    warmup: Literal["linear", "constant"] = "linear",
) -> Schedule:
    """Warm up, then multiply by `factor` at each milestone (a share of all steps).

    The defaults are the 1x schedule: 12 epochs, decay after 8 and 11, 500 steps of warm-up. The
    factor of the warm-up rises to 1, or stays ("constant") until it ends (maskrcnn-benchmark).
    """
    boundaries = {round(share * total_steps): factor for share in milestones}
    base = optax.piecewise_constant_schedule(learning_rate, boundaries)
    if warmup == "constant":
        return lambda step: base(step) * jnp.where(step < warmup_steps, warmup_factor, 1.0)
    return _warm(base, warmup_steps, warmup_factor)


def cosine(
    learning_rate: float,
    total_steps: int,
    *,
    final_factor: float = 0.0,
    warmup_steps: int = 500,
    warmup_factor: float = 1e-3,
) -> Schedule:
    """Warm up linearly, then follow half a cosine down to `final_factor` of the learning rate."""
    base = optax.cosine_decay_schedule(learning_rate, total_steps, alpha=final_factor)
    return _warm(base, warmup_steps, warmup_factor)


def _warm(base: Schedule, steps: int, factor: float) -> Schedule:
    def schedule(step: Any) -> Any:
        done = jnp.minimum(step / steps, 1.0) if steps else 1.0
        ramp = factor + (1.0 - factor) * done
        return base(step) * ramp

    return schedule


def sgd(
    learning_rate: Schedule,
    decayed: Any,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    bias_factor: float = 1.0,
) -> optax.GradientTransformation:
    """SGD as in PyTorch: the decay joins the gradient before the momentum.

    Biases, those of norms too, learn `bias_factor` times as fast (2 in maskrcnn-benchmark).
    """
    steps = [
        optax.add_decayed_weights(weight_decay, mask=decayed),
        optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
    ]
    if bias_factor != 1.0:
        steps.append(optax.masked(optax.scale(bias_factor), _biases))
    return optax.chain(*steps)


def _biases(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "bias", params)


def adamw(
    learning_rate: Schedule,
    decayed: Any,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
) -> optax.GradientTransformation:
    """AdamW (I. Loshchilov, F. Hutter, arXiv:1711.05101)."""
    return optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed
    )


def decay_mask(params: Any, *, decay_biases: bool = True, decay_norms: bool = True) -> Any:
    """True for the parameters that weight decay acts on.

    A norm's parameters are its `scale` and the `bias` beside it; all other biases are biases. The
    default decays everything, as MMDetection does.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        siblings = params
        for entry in path[:-1]:
            siblings = siblings[entry.key]
        if "scale" in siblings:
            return decay_norms
        return decay_biases or path[-1].key != "bias"

    return jax.tree_util.tree_map_with_path(decays, params)


def create(
    params: Any,
    *,
    rule: Callable[..., optax.GradientTransformation],
    schedule: Schedule,
    clip_norm: float | None = None,
    accumulate: int = 1,
    decay_biases: bool = True,
    decay_norms: bool = True,
) -> optax.GradientTransformation:
    """The whole update rule.

    Args:
      params: trainable parameters (frozen ones are not among them).
      rule: (learning_rate, decayed) -> transformation: `sgd` or `adamw` with its keywords.
      schedule: step -> learning rate.
      clip_norm: largest global norm of the gradient; None does not clip.
      accumulate: batches per update. Each batch is divided by its own count of positives, the
        gradients are averaged.
      decay_biases, decay_norms: see `decay_mask`.
    """
    decayed = decay_mask(params, decay_biases=decay_biases, decay_norms=decay_norms)
    update = rule(schedule, decayed)
    if clip_norm is not None:
        update = optax.chain(optax.clip_by_global_norm(clip_norm), update)
    if accumulate > 1:
        update = optax.MultiSteps(update, accumulate).gradient_transformation()
    return update
