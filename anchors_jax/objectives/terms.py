"""The terms that objectives are made of: class scores, boxes and box quality, each with its loss.

Each reads one kind of output: what its loss is for training, and what it means at inference.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import hooks, losses
from anchors_jax.types import Anchors, Codec


class Classify(NamedTuple):
    """Class logits with C columns: K classes, or K and background.

    `loss(logits [A, C], labels [A], score [A] or None, step) -> [A, C] or [A, 1]`, with the label
    K for background; `scores(logits [A, C]) -> [A, K]`, float32 in 0..1;
    `background(C) -> K`; `weight`: of the term.
    """

    loss: Callable[..., Array]
    scores: Callable[[Array], Array]
    background: Callable[[int], int]
    weight: float


def sigmoid(*, loss: Callable[..., Array] = losses.focal, weight: float = 1.0) -> Classify:
    """One independent score per class; background has no column.

    Args:
      loss: (logits [A, K], labels [A]) -> [A, K]; the label K is background. It may ask by name for
        `score` [A], the target of an anchor's own class where an assigner gives one (1 elsewhere),
        and for `step`.
      weight: factor of the term.
    """
    return Classify(
        loss=_class_loss(loss),
        scores=lambda logits: jax.nn.sigmoid(logits.astype(jnp.float32)),
        background=lambda columns: columns,
        weight=weight,
    )


def softmax(*, loss: Callable[..., Array] = losses.cross_entropy, weight: float = 1.0) -> Classify:
    """Scores that sum to 1 over the classes and, in the last column, background.

    Args:
      loss: (logits [A, K + 1], labels [A]) -> [A]; the label K is background. As in `sigmoid` it
        may ask for `score` and `step`.
      weight: factor of the term.
    """
    of_anchor = _class_loss(loss)
    return Classify(
        loss=lambda *arguments: of_anchor(*arguments)[:, None],
        scores=lambda logits: jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[:, :-1],
        background=lambda columns: columns - 1,
        weight=weight,
    )


def _class_loss(loss: Callable[..., Array]) -> Callable[..., Array]:
    """The loss with what it asks for."""

    def told(
        logits: Float[Array, "A C"],
        labels: Int[Array, "A"],
        score: Float[Array, "A"] | None,
        step: Int[Array, ""] | int,
    ) -> Array:
        if score is not None and not hooks.asks(loss, "score"):
            raise ValueError(
                "the assigner gives soft scores, and the class loss takes none: it has no argument "
                "'score'"
            )
        soft = jnp.ones(labels.shape) if score is None else score
        return loss(logits, labels, **hooks.asked(loss, score=soft, step=step))

    return told


class Regress(NamedTuple):
    """Box codes [A, 4] and what they mean.

    `loss(codes, anchor boxes, object boxes, positive [A], step) -> [A]`, 0 (with zero gradient)
    where an anchor is not positive; `weight`: of the term.
    """

    codec: Codec
    loss: Callable[..., Float[Array, "A"]]
    weight: float


def on_codes(
    *, codec: Codec, loss: Callable[..., Array] = losses.l1, weight: float = 1.0
) -> Regress:
    """Boxes learned by comparing codes with the encoded objects.

    Args:
      codec: what the box branch regresses.
      loss: (codes [A, 4], codes [A, 4]) -> [A, 4], such as `losses.smooth_l1`. It may ask for
        `step`.
      weight: factor of the term.

    Raises:
      ValueError: the loss compares boxes, not numbers.
    """
    _check_rank(loss, 2, "regress = on_codes wants a loss of every code, such as losses.l1; this "
                "one gives a number per box: use on_boxes")  # fmt: skip

    def of_codes(
        codes: Float[Array, "A 4"],
        anchor_boxes: Float[Array, "A 4"],
        object_boxes: Float[Array, "A 4"],
        positive: Bool[Array, "A"],
        step: Int[Array, ""] | int,
    ) -> Float[Array, "A"]:
        targets = codec.encode(object_boxes, anchor_boxes)
        each = loss(codes, targets, **hooks.asked(loss, step=step))
        return jnp.where(positive[:, None], each, 0.0).sum(axis=-1)

    return Regress(codec=codec, loss=of_codes, weight=weight)


def on_boxes(
    *, codec: Codec, loss: Callable[..., Array] = losses.giou, weight: float = 1.0
) -> Regress:
    """Boxes learned by comparing decoded boxes with the objects.

    Args:
      codec: what the box branch regresses.
      loss: (boxes [A, 4], boxes [A, 4]) -> [A], such as `losses.giou`. It may ask for `step`.
      weight: factor of the term.

    Raises:
      ValueError: the loss compares numbers, not boxes.
    """
    _check_rank(loss, 1, "regress = on_boxes wants a loss of every box, such as losses.giou; this "
                "one gives a number per coordinate: use on_codes")  # fmt: skip

    def of_boxes(
        codes: Float[Array, "A 4"],
        anchor_boxes: Float[Array, "A 4"],
        object_boxes: Float[Array, "A 4"],
        positive: Bool[Array, "A"],
        step: Int[Array, ""] | int,
    ) -> Float[Array, "A"]:
        # Where an anchor is not positive the loss compares equal things: there is no singular
        # point under the mask, in value or in gradient.
        targets = codec.encode(object_boxes, anchor_boxes)
        decoded = codec.decode(jnp.where(positive[:, None], codes, targets), anchor_boxes)
        each = loss(decoded, object_boxes, **hooks.asked(loss, step=step))
        return jnp.where(positive, each, 0.0)

    return Regress(codec=codec, loss=of_boxes, weight=weight)


def _check_rank(loss: Callable[..., Array], rank: int, message: str) -> None:
    pair = (jax.ShapeDtypeStruct((3, 4), jnp.float32),) * 2
    told = hooks.asked(loss, step=jax.ShapeDtypeStruct((), jnp.int32))
    if len(jax.eval_shape(loss, *pair, **told).shape) != rank:
        raise ValueError(message)


class Quality(NamedTuple):
    """A branch that predicts how good a box is.

    `target(codes, anchors, object boxes, positive, codec) -> [A]` in 0..1, a constant, 0 where an
    anchor is not positive; `loss(logits [A], targets [A]) -> [A]` or None: the branch, if there is
    one, is not trained; `weight`: of the term; `weighs_boxes`: the box loss is a mean weighted by
    the target.
    """

    target: Callable[..., Float[Array, "A"]]
    loss: Callable[..., Array] | None
    weight: float
    weighs_boxes: bool


def branch(
    *,
    target: Callable[..., Array],
    loss: Callable[..., Array] | None = losses.bce,
    weight: float = 1.0,
    weighs_boxes: bool = False,
) -> Quality:
    """The quality branch of FCOS and ATSS (centerness) and of PAA (IoU).

    Args:
      target: a function of `anchors_jax.quality`.
      loss: (logits [A], targets [A]) -> [A], or None.
      weight: factor of the term.
      weighs_boxes: weigh each box loss with its quality target, and divide by their sum.
    """

    def of_positives(
        codes: Float[Array, "A 4"],
        anchors: Anchors,
        object_boxes: Float[Array, "A 4"],
        positive: Bool[Array, "A"],
        codec: Codec,
    ) -> Float[Array, "A"]:
        decoded = codec.decode(lax.stop_gradient(codes), anchors.boxes)
        return jnp.where(positive, lax.stop_gradient(target(decoded, object_boxes, anchors)), 0.0)

    return Quality(target=of_positives, loss=loss, weight=weight, weighs_boxes=weighs_boxes)
