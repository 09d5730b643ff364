"""Everything a trained detector says about a data set, scored once, as sparse candidates.

Removing anchors only deletes candidates, so one pass of the network serves every configuration:
what is kept per image are the (anchor, class) pairs above the score threshold, best first.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Int32

from anchors_jax import boxes as geometry
from anchors_jax import files, inference, nms, parallel
from anchors_jax.search.layout import Layout
from anchors_jax.types import Batch, Candidates, Detector

CAPACITY = 4096  # candidates of an image; more are cut, before masking, and counted


# What a mask over prototypes cannot follow: its effect depends on suppressed boxes.
_FOLLOWED = {"voting": None, "rank_by": "score", "top_k_of": "pairs"}


def followed(detect: Callable[..., Any]) -> nms.Rule:
    """The rule by which a detector turns candidates into detections, if pruning can follow it.

    Raises:
      ValueError: it is none, or one whose outcome depends on suppressed boxes.
    """
    if not isinstance(detect, nms.Rule):
        raise ValueError(f"pruning follows nms.Rule, and this config has {detect}")
    for name, value in _FOLLOWED.items():
        if getattr(detect, name) != value:
            raise ValueError(
                f"pruning cannot follow detector.detect.{name} = {getattr(detect, name)}: "
                f"set --config.detector.detect.{name}={value}"
            )
    return detect


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateSet:
    """The candidates of I images in C slots each, by decreasing score.

    Equal scores are in the order of (anchor, class). Slots beyond `count` hold nothing: score -1,
    `anchor` M. Boxes are in pixels of the network's input, as NMS sees them.
    """

    boxes: Float32[np.ndarray, "I C 4"]
    scores: Float32[np.ndarray, "I C"]
    labels: Int32[np.ndarray, "I C"]
    anchor: Int32[np.ndarray, "I C"]  # prototype, 0..M-1
    usable: Bool[np.ndarray, "I C"]  # False: counts among the top_k, but is too small to detect
    count: Int[np.ndarray, "I"]
    image_id: Int[np.ndarray, "I"]
    scale: Float32[np.ndarray, "I 2"]  # (x, y): network pixels per original pixel
    cut: int  # images that had more candidates than slots
    layout: Layout
    rule: nms.Rule


def layout_of(detector: Detector, variables: Any, batch: Batch) -> Layout:
    """Levels, cells and prototypes of a detector on the canvas of `batch`; computes nothing."""
    _, anchors = jax.eval_shape(detector.match, variables, batch)
    return Layout.of_anchors(anchors.level_sizes)


def top_pairs(
    candidates: Candidates, *, rule: nms.Rule, capacity: int = CAPACITY
) -> dict[str, Array]:
    """The best pairs of one image above the threshold, and how many there are.

    Returns boxes [C, 4], scores, labels, anchor, usable [C], found (a scalar that may exceed C).
    """
    scores, quality = candidates.scores, candidates.quality
    passes, final = rule.keys(scores, None if quality is None else quality[:, None])
    size = min(capacity, scores.size)
    pairs = nms.top_candidates(
        jnp.where(passes, final, -1.0),
        jnp.ones(scores.shape[0], bool),
        score_threshold=-0.5,
        top_k=size,
    )
    box = candidates.boxes[pairs.anchor]
    return {
        "boxes": jnp.where(pairs.valid[:, None], box, 0.0),
        "scores": jnp.where(pairs.valid, pairs.score, -1.0),
        "labels": pairs.label.astype(jnp.int32),
        "anchor": jnp.where(pairs.valid, candidates.shape[pairs.anchor], -1).astype(jnp.int32),
        "usable": pairs.valid & jnp.all(geometry.sizes(box) > rule.min_size, axis=-1),
        "found": jnp.sum(passes, dtype=jnp.int32),
    }


def collect(
    detector: Detector,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    rule: nms.Rule,
    capacity: int = CAPACITY,
    on_batch: Callable[[int], None] | None = None,
) -> CandidateSet:
    """Score every image once. `on_batch` gets the number of images done so far.

    Images come out by id, which is COCO's order for equal scores. One process only.

    Raises:
      ValueError: no image, or canvases on which the detector has different levels or shapes.
    """

    def best(variables: Any, batch: Batch) -> dict[str, Array]:
        one = functools.partial(top_pairs, rule=rule, capacity=capacity)
        return jax.vmap(one)(detector.score(variables, batch))

    score, rows = parallel.pmap(best), []
    replicated, layout, done = parallel.replicate(variables), None, 0
    for arrays in batches:
        batch = inference.as_batch(arrays)
        if layout is None:
            layout = layout_of(detector, variables, batch)
        found = parallel.unshard(score(replicated, parallel.shard(batch)))
        found |= {name: np.asarray(arrays[name]) for name in ("image_id", "scale")}
        real = found["image_id"] >= 0  # the others only pad the batch
        rows.append({name: value[real] for name, value in found.items()})
        done += int(real.sum())
        if on_batch is not None:
            on_batch(done)
    if not rows or layout is None or not done:
        raise ValueError("the evaluation set has no image to score")
    return _joined(rows, layout, rule)


def _joined(rows: list[dict[str, np.ndarray]], layout: Layout, rule: nms.Rule) -> CandidateSet:
    found = np.concatenate([row["found"] for row in rows])
    size = max(1, min(int(found.max()), max(row["scores"].shape[1] for row in rows)))

    def column(name: str) -> np.ndarray:
        parts = []
        for row in rows:
            part = row[name]
            if part.ndim > 1 and name != "scale":  # to one number of slots
                part = part[:, :size]
                missing = size - part.shape[1]
                fill = -1 if name in ("scores", "anchor") else 0
                widths = ((0, 0), (0, missing), *((0, 0),) * (part.ndim - 2))
                part = np.pad(part, widths, constant_values=fill)
            parts.append(part)
        return np.concatenate(parts)

    order = np.argsort(column("image_id"), kind="stable")
    anchor = column("anchor")[order]
    return CandidateSet(
        boxes=column("boxes")[order].astype(np.float32),
        scores=column("scores")[order].astype(np.float32),
        labels=column("labels")[order].astype(np.int32),
        anchor=np.where(anchor < 0, layout.size, anchor).astype(np.int32),
        usable=column("usable")[order].astype(bool),
        count=np.minimum(found, size)[order].astype(np.int64),
        image_id=column("image_id")[order].astype(np.int64),
        scale=column("scale")[order].astype(np.float32),
        cut=int((found > size).sum()),
        layout=layout,
        rule=rule,
    )


def original_boxes(candidates: CandidateSet) -> Float[np.ndarray, "I C 4"]:
    """Boxes in pixels of the original images, as `evaluation.from_batch` computes them."""
    scale = np.tile(candidates.scale, 2).astype(np.float32)
    return candidates.boxes / scale[:, None, :]


def save(path: str | os.PathLike[str], candidates: CandidateSet, subject: dict[str, Any]) -> None:
    """Write a set and what it was scored with, atomically."""
    arrays = {name: getattr(candidates, name) for name in _ARRAYS}
    about = {
        "subject": subject,
        "cut": candidates.cut,
        "cells": candidates.layout.cells,
        "shapes": candidates.layout.shapes,
        "rule": dataclasses.asdict(candidates.rule),
    }
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, about=np.array(json.dumps(about)), **arrays)


def load(path: str | os.PathLike[str], subject: dict[str, Any]) -> CandidateSet | None:
    """The set that `save` wrote; None where there is none, or one of another subject."""
    if not os.path.exists(path):
        return None
    try:
        with np.load(path) as stored:
            about = json.loads(str(stored["about"]))
            if about["subject"] != json.loads(json.dumps(subject)):
                return None
            arrays = {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{os.fspath(path)}: not a candidate set: {error}") from None
    return CandidateSet(
        **arrays,
        cut=about["cut"],
        layout=Layout(tuple(about["cells"]), tuple(about["shapes"])),
        rule=nms.Rule(**about["rule"]),
    )


_ARRAYS = ("boxes", "scores", "labels", "anchor", "usable", "count", "image_id", "scale")
