"""What every assigner may rely on: no crowd region among the objects, no anchor that cannot learn.

Invalid anchors (padding) and anchors inside crowd regions are as if they were not there: they are
marked as invalid before an assigner sees them, and as ignored afterwards. Crowd regions themselves
are no slots with an object. So an assigner is a function of anchors and objects alone.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Int

from anchors_jax import boxes as geometry
from anchors_jax import hooks
from anchors_jax.assign import primitives
from anchors_jax.types import END, Anchors, Assignment, Predicted, Targets

# Crowd regions per step.
_BLOCK = 4


def assigned(
    assign: Callable[..., Assignment],
    anchors: Anchors,
    targets: Targets,
    predicted: Predicted | None = None,
    *,
    step: Int[Array, ""] | int = END.step,
    ignore_iof: float | None = 0.5,
) -> Assignment:
    """The assignment of one image by an assigner, a constant for the gradient.

    Args:
        assign: (anchors, targets) -> Assignment; it may ask by name for `predicted` and `step`.
        anchors: A anchors.
        targets: G slots, crowd regions among them.
        predicted: what the network says about each anchor.
        step: batches trained before; by default so many that all warm-ups are over.
        ignore_iof: anchors with more than this share of their own area inside one crowd region are
            ignored; None: crowd regions say nothing (SSD).

    Raises:
        ValueError: the assigner asks for predictions, and there are none.
    """
    if predicted is None and hooks.asks(assign, "predicted"):
        raise ValueError("this assigner looks at predictions: it cannot be run without a network")
    usable = learnable(anchors, targets, ignore_iof=ignore_iof)
    # Reverse mode cannot pass the loops of assigners: the gradient stops before them already.
    told = hooks.asked(assign, predicted=lax.stop_gradient(predicted), step=step)
    objects = targets.replace(valid=targets.objects, crowd=jnp.zeros_like(targets.crowd))
    found = lax.stop_gradient(assign(anchors.replace(valid=usable), objects, **told))
    return found.replace(ignored=found.ignored | ~usable)


def learnable(
    anchors: Anchors, targets: Targets, *, ignore_iof: float | None = 0.5
) -> Bool[Array, "A"]:
    """Valid anchors outside of crowd regions. Arguments as in `assigned`."""
    if ignore_iof is None:
        return anchors.valid

    def body(found: Array, crowds: Array, slots: Int[Array, "b"], used: Array) -> Array:
        del slots
        share = geometry.iof(anchors.boxes[None], crowds[:, None])
        return found | jnp.any((share > ignore_iof) & used[:, None], axis=0)

    none = jnp.zeros(anchors.boxes.shape[0], bool)
    crowds = targets.valid & targets.crowd
    return anchors.valid & ~primitives.fold(body, none, targets.boxes, crowds, block=_BLOCK)
