"""One-stage detectors: a network over a fixed grid of anchors, and one objective.

Functions of one image (objectives, anchor masks, NMS) are mapped over the batch here, once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array
from jaxtyping import Bool

from anchors_jax import images, nms
from anchors_jax.anchors import inside
from anchors_jax.models.one_stage import OneStageNetwork, trainable_mask
from anchors_jax.types import (
    Anchors,
    Assignment,
    Batch,
    Candidates,
    Detections,
    Detector,
    Moment,
    Objective,
    Parts,
    Targets,
    Terms,
)

# Collections of the variables: what is trained; what only a checkpoint writes (parameters of
# frozen stages: no gradient, no decay, no optimiser state); what the norms write while training.
PARAMETERS, FROZEN, STATISTICS = "params", "frozen", "batch_stats"
INFERENCE = ("detect",)  # keywords that training does not read
_RULE = nms.Rule()


def detector(
    *,
    model: OneStageNetwork,
    anchors: Callable[..., Anchors],
    objective: Objective,
    preprocess: Callable[..., Array] = images.normalize,
    detect: Callable[[Candidates], Detections] = _RULE,
    pad_divisor: int | None = 32,
) -> Detector:
    """A one-stage detector from its parts.

    Args:
      model: images [B, H, W, 3] -> predictions with static `maps`.
      anchors: (maps=, canvas=) -> Anchors, such as `anchors.Grid`, called while tracing: one
        constant per canvas.
      objective: loss and decoding of one image.
      preprocess: (image, image_size) -> normalised float image.
      detect: Candidates of one image -> Detections.
      pad_divisor: cells count as inside up to the image's size rounded up to this many pixels;
        None: all cells of the canvas do.
    """

    def init(key: Array, canvas: tuple[int, int]) -> Any:
        # Jitted: eager initialisation of a deep network compiles hundreds of small programs.
        variables = jax.jit(model.init)(key, jnp.zeros((1, *canvas, 3), jnp.float32))
        return split_frozen(variables, trainable_mask(model, variables[PARAMETERS]))

    def maps(canvas: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
        predictions, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
        return predictions.maps

    def grid(batch: Batch, predictions: Any) -> tuple[Anchors, Bool[Array, "B A"]]:
        canvas = batch.image.shape[1:3]
        grid_anchors = anchors(maps=predictions.maps, canvas=canvas)
        # A slot that only pads a batch may say size 0: all its anchors are invalid.
        valid = jax.vmap(lambda size: inside(grid_anchors, size, divisor=pad_divisor))(
            batch.image_size
        )
        return grid_anchors, valid

    def per_image(read: Callable[..., Any], batch: Batch, predictions: Any, *rest: Any) -> Any:
        """`read(prediction, anchors, *rest)` of every image, and the anchors."""
        grid_anchors, valid = grid(batch, predictions)

        def one_image(prediction: Any, valid: Bool[Array, "A"], *rest: Any) -> Any:
            return read(prediction, grid_anchors.replace(valid=valid), *rest)

        return jax.vmap(one_image)(predictions, valid, *rest), grid_anchors

    def forward(variables: Any, batch: Batch) -> Any:
        image = preprocess(batch.image, batch.image_size)
        return model.apply(join_frozen(variables), image, train=False)

    def loss(
        variables: Any, batch: Batch, key: Array, step: Array | int = 0
    ) -> tuple[Terms, dict[str, Array], Any]:
        # An image's draws depend on the image and the step, not on the device that it is on.
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch.image_id)
        predictions, updates = model.apply(
            join_frozen(variables),
            preprocess(batch.image, batch.image_size),
            train=True,
            mutable=[STATISTICS],
            rngs={"dropout": keys[0]},
        )

        def read(predictions: Any, anchors: Anchors, targets: Targets, key: Array) -> Any:
            return objective.loss(predictions, anchors, targets, Moment(step, key))

        (terms, statistics), _ = per_image(read, batch, predictions, batch.targets, keys)
        return terms, statistics, updates

    def score(variables: Any, batch: Batch) -> Candidates:
        predictions = forward(variables, batch)
        return per_image(objective.decode, batch, predictions, batch.image_size)[0]

    def predict(variables: Any, batch: Batch) -> Detections:
        return jax.vmap(detect)(score(variables, batch))

    def match(variables: Any, batch: Batch) -> tuple[Assignment, Anchors]:
        return per_image(objective.match, batch, forward(variables, batch), batch.targets)

    def place(variables: Any, batch: Batch) -> Anchors:
        return per_image(objective.place, batch, forward(variables, batch))[0]

    return Detector(
        init=init,
        loss=loss,
        score=score,
        predict=predict,
        match=match,
        place=place if objective.place is not None else None,
        parts=Parts(
            model=model,
            heads={"head": model.head},
            maps=maps,
            anchors=anchors,
            objective=objective,
            detect=detect,
            pad_divisor=pad_divisor,
        ),
    )


def split_frozen(variables: dict[str, Any], trainable: Any) -> dict[str, Any]:
    """Move the parameters that are not trainable to a collection of their own, if there are any."""
    params = traverse_util.flatten_dict(variables[PARAMETERS])
    mask = traverse_util.flatten_dict(trainable)
    trained = {path: value for path, value in params.items() if mask[path]}
    frozen = {path: value for path, value in params.items() if not mask[path]}
    split = {**variables, PARAMETERS: traverse_util.unflatten_dict(trained)}
    return {**split, FROZEN: traverse_util.unflatten_dict(frozen)} if frozen else split


def join_frozen(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables as the linen module knows them: the inverse of `split_frozen`."""
    if FROZEN not in variables:
        return variables
    params = traverse_util.flatten_dict(variables[PARAMETERS])
    frozen = traverse_util.flatten_dict(variables[FROZEN])
    rest = {name: value for name, value in variables.items() if name != FROZEN}
    return {**rest, PARAMETERS: traverse_util.unflatten_dict({**frozen, **params})}
