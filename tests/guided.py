"""Guided Anchoring in the tests: the grids of its two detectors, and its reference cases."""

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
from golden_cases import Case

from anchors_jax import anchors as make
from anchors_jax import codecs, losses, selection
from anchors_jax.assign import approx_iou, max_iou
from anchors_jax.objectives import guided_anchoring, guided_locations, terms
from anchors_jax.types import Anchors, GuidedPredictions

RPN = {"strides": (4, 8, 16, 32, 64), "base_scale": 8}
RETINA = {"strides": (8, 16, 32, 64, 128), "base_scale": 4}


def grid(side=256, *, strides, base_scale, offset=0.0) -> Anchors:
    """One square per cell of a square canvas; centres on cell corners, as in MMDetection."""
    return make.grid(
        make.octaves(base_scale=base_scale, scales_per_octave=1, ratios=(1.0,)),
        maps=[(-(-side // s), -(-side // s)) for s in strides],
        strides=strides,
        offset=offset,
    )


def maps_of(values, anchors) -> list[np.ndarray]:
    """[P] as one map per level."""
    ends = np.cumsum(anchors.level_counts)
    parts = np.split(np.asarray(values), ends[:-1])
    return [p.reshape(size[:2]) for p, size in zip(parts, anchors.level_sizes, strict=True)]


def predictions(anchors, *, classes=1, logits=0.0, location=0.0, shape=0.0) -> GuidedPredictions:
    """The same everywhere; no movement of boxes."""
    count = len(anchors.boxes)
    return GuidedPredictions(
        logits=jnp.full((count, classes), float(logits)),
        codes=jnp.zeros((count, 4)),
        cell_logits=jnp.full(count, float(location)),
        shape_codes=jnp.full((count, 2), float(shape)),
        maps=tuple((rows, columns) for rows, columns, _ in anchors.level_sizes),
    )


def mean(terms):
    """Each loss as the training step divides it."""
    return {
        name: term.total.sum() / jnp.maximum(term.count.sum(), 1.0) for name, term in terms.items()
    }


def anchors_of(case: Case) -> Anchors:
    """The squares of a case; `valid` has a leading axis of images."""
    sizes = tuple(tuple(int(n) for n in row) for row in case.arrays["level_sizes"])
    count = len(case.arrays["squares"])
    squares = Anchors(
        boxes=jnp.asarray(case.arrays["squares"]),
        cell=jnp.arange(count),
        shape=jnp.zeros(count, jnp.int32),
        valid=jnp.ones(count, bool),
        level_sizes=sizes,
        strides=tuple((float(s), float(s)) for s in case.params["strides"]),
    )
    valid = jax.vmap(functools.partial(make.inside, squares))(jnp.asarray(case.arrays["image_hw"]))
    if "valid" in case.arrays:
        np.testing.assert_array_equal(valid, case.arrays["valid"])
    return squares.replace(valid=valid)


def predictions_of(case: Case) -> GuidedPredictions:
    """The head's outputs of a case."""
    dense = heads.predictions_of(case)
    return GuidedPredictions(
        logits=dense.logits,
        codes=dense.codes,
        cell_logits=jnp.asarray(heads.flat(case, "loc")[..., 0]),
        shape_codes=jnp.asarray(heads.flat(case, "shape")),
        maps=dense.maps,
    )


def objective(params, *, number=None, centre_terms=True, gate=None, **keywords):
    """The objective with the settings of a case; `number` anchors are sampled, None: all."""
    sample = functools.partial(selection.expected, number=number)
    return guided_anchoring.objective(
        **{
            "assign": functools.partial(
                max_iou.assign,
                positive_iou=params["pos_iou_thr"],
                negative_iou=params["neg_iou_thr"],
                min_positive_iou=params["min_pos_iou"],
            ),
            "classify": terms.sigmoid(
                loss=losses.class_bce if params["kind"] == "rpn" else losses.focal
            ),
            "regress": terms.on_codes(
                codec=codecs.deltas(stds=tuple(params["stds"])),
                loss=functools.partial(losses.smooth_l1, beta=params["smooth_l1_beta"]),
            ),
            "locations": guided_anchoring.locations(
                find=functools.partial(
                    guided_locations.find,
                    centre=params["center_ratio"],
                    ignore=params["ignore_ratio"],
                    outside_weight=params["outside_weight"],
                ),
                gate=params["loc_filter_thr"] if gate is None else gate,
            ),
            "shapes": guided_anchoring.shapes(
                codec=codecs.shapes(std=params["shape_stds"][-1]),
                assign=shape_assigner(params),
                loss=functools.partial(losses.bounded_iou, beta=params["shape_beta"]),
                select=sample,
                centre_terms=centre_terms,
            ),
            "select": sample if params["kind"] == "rpn" else selection.everything,
            **keywords,
        }
    )


def shape_assigner(params):
    """The assigner of the shape branch with the settings of a case."""
    return functools.partial(
        approx_iou.assign,
        scales_per_octave=params["scales_per_octave"],
        ratios=tuple(params["ratios"]),
        positive_iou=params["ga_pos_iou_thr"],
        negative_iou=params["ga_neg_iou_thr"],
        min_positive_iou=params["ga_min_pos_iou"],
    )


# What the two detectors have in the reference.
RPN_SETTINGS = {
    "kind": "rpn", "shape_stds": (0.14, 0.14), "stds": (0.07, 0.07, 0.11, 0.11),
    "smooth_l1_beta": 1.0, "ga_pos_iou_thr": 0.7, "ga_neg_iou_thr": 0.3, "ga_min_pos_iou": 0.3,
    "pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3, "scales_per_octave": 3,
    "ratios": (0.5, 1.0, 2.0), "loc_filter_thr": 0.01, "shape_beta": 0.2, "center_ratio": 0.2,
    "ignore_ratio": 0.5, "outside_weight": 0.1,
}  # fmt: skip
RETINA_SETTINGS = RPN_SETTINGS | {
    "kind": "retina", "shape_stds": (1.0, 1.0), "stds": (1.0, 1.0, 1.0, 1.0),
    "smooth_l1_beta": 0.04, "ga_pos_iou_thr": 0.5, "ga_neg_iou_thr": 0.4, "ga_min_pos_iou": 0.4,
    "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.0,
}  # fmt: skip
