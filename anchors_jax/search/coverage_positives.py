"""How many anchors each object gets from assigners that need no predictions, on sampled images."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from anchors_jax.anchors import inside
from anchors_jax.search.coverage_boxes import NetworkBoxes
from anchors_jax.types import Anchors, Assignment, Targets

Assign = Callable[[Anchors, Targets], Assignment]


class Positives(NamedTuple):
    """What the assigners gave to the objects of the sampled images."""

    images: Int[np.ndarray, "m"]  # positions in the data set
    rows: Int[np.ndarray, "o"]  # objects of these images, as rows of the table of annotations
    counts: dict[str, Int[np.ndarray, "o"]]  # positives of each object, by assigner


def sample_images(image: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "m"]:
    """At most `count` of the images that occur in `image`, spread evenly over them."""
    present = np.unique(image)
    if len(present) <= count:
        return present
    return present[np.linspace(0, len(present) - 1, count).round().astype(np.int64)]


def positives(
    boxes: NetworkBoxes,
    assigners: Mapping[str, tuple[Assign, Callable[[int], Anchors]]],
    *,
    images: int = 128,
    divisor: int | None = 32,
) -> Positives:
    """Positives per object on a sample of images.

    Args:
      boxes: objects and crowd regions of a data set.
      assigners: by name, the assigner in its frame (`frame.assigned`) and a function from the
        canvas's index to its anchors.
      images: of which to assign at most, spread evenly over those with objects.
      divisor: as `anchors.inside`.
    """
    chosen = sample_images(boxes.image[~boxes.crowd], images)
    spans = {
        int(image): slice(*np.searchsorted(boxes.image, [image, image + 1])) for image in chosen
    }
    slots = max((span.stop - span.start for span in spans.values()), default=1)
    slots = 1 << (int(slots) - 1).bit_length()
    rows = [boxes.row[span][~boxes.crowd[span]] for span in spans.values()]
    counts = {}
    for name, (assign, grid) in assigners.items():
        count = _counter(assign, divisor)
        found = []
        for image, span in spans.items():
            targets = _targets(boxes, span, slots)
            size = jnp.asarray(boxes.sizes[image])
            per_object = np.asarray(count(grid(int(boxes.canvas[image])), targets, size))
            found.append(per_object[: span.stop - span.start][~boxes.crowd[span]])
        counts[name] = np.concatenate(found) if found else np.zeros(0, np.int32)
    return Positives(chosen, np.concatenate(rows) if rows else np.zeros(0, np.int64), counts)


def _counter(assign: Assign, divisor: int | None) -> Callable[..., Array]:
    @jax.jit
    def count(anchors: Anchors, targets: Targets, size: Int[Array, "2"]) -> Int[Array, "G"]:
        here = anchors.replace(valid=inside(anchors, size, divisor=divisor))
        assignment = assign(here, targets)
        none = jnp.zeros(targets.valid.shape, jnp.int32)
        return none.at[assignment.gt].add(assignment.positive.astype(jnp.int32))

    return count


def _targets(boxes: NetworkBoxes, span: slice, slots: int) -> Targets:
    """The objects and crowd regions of one image, in slots."""
    count = span.stop - span.start

    def padded(values: Any, fill: Any) -> Array:
        rest = np.broadcast_to(np.asarray(fill, values.dtype), (slots - count, *values.shape[1:]))
        return jnp.asarray(np.concatenate([values, rest]))

    return Targets(
        boxes=padded(boxes.boxes[span], [0, 0, 1, 1]),
        labels=padded(boxes.labels[span], 0),
        valid=jnp.arange(slots) < count,
        crowd=padded(boxes.crowd[span], False),
    )


def summary(counts: Int[np.ndarray, "o"]) -> dict[str, float]:
    """Mean, quartiles and share without any, of positives per object."""
    if not len(counts):
        return {"mean": 0.0, "quartiles": [0.0, 0.0, 0.0], "share_without": 0.0}
    return {
        "mean": float(counts.mean()),
        "quartiles": [float(q) for q in np.percentile(counts, (25, 50, 75))],
        "share_without": float((counts == 0).mean()),
    }


def cumulative(counts: Int[np.ndarray, "o"], at: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """Share of objects with at least that many positives."""
    ascending = np.sort(counts)
    return 1.0 - np.searchsorted(ascending, at, side="left") / max(len(counts), 1)
