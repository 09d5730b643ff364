"""The Semi-Anchored detector: classify locations, regress anchors, choose among them.

    L. Chen, Q. Qian, H. Li, "Semi-Anchored Detector for One-Stage Object Detection".

A location i has one score per class and K anchors, each with a box and a class-agnostic score p_ik:

    loss = sum_{i not ignored} FL(x_i, y_i)          / #{positive locations}
         + 2 sum_{(i,k) regressed} -log IoU(b_ik, g) / #{regressed anchors}
         + sum_{i positive, k} L_s(p_ik, mu^_ik)     / #{positive anchors}

y_i and which anchors regress come from `locations.py`. An anchor of a positive location is
positive if its box *after* regression has mu_ik >= 0.5, mu_ik its largest IoU with an object of
class y_i; its soft target is mu^_ik = (mu_ik / max_k mu_ik)^sigma (Eqn 2), and L_s the smoothed
focal loss (Eqn 3). Focusing exponents are 1 for locations and 2 for anchors; weights 1, 2, 1.

At inference the score of anchor k for class c is P(c | x_i) p_ik, for the Top-k anchors of each
location by p_ik, or for those with p_ik > tau (Table 6). Without anchor scores, one random anchor
per location stands for it (Table 2).

The paper leaves open: mu uses boxes that are not clipped; sums are divided by counts over the whole
batch.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from anchors_jax import boxes, hooks, losses
from anchors_jax.objectives import locations
from anchors_jax.objectives.terms import Classify, Regress
from anchors_jax.types import (
    END,
    START,
    Anchors,
    Assignment,
    Candidates,
    Codec,
    LocationAssignment,
    Moment,
    Objective,
    SemiAnchoredPredictions,
    Targets,
    Term,
    Terms,
)

INFERENCE = ("choose",)  # keywords that training does not read


def choose(
    anchor_logits: Float[Array, "P S"] | None,
    cells: locations.Cells,
    *,
    top_k: int = 1,
    min_score: float = 0.0,
    key: int = 0,
) -> tuple[Int[Array, "P k"] | None, Float[Array, "P k"]]:
    """The anchors of each location that stand for it (None: all, in order), and their p_ik.

    Args:
      anchor_logits: of the anchors of every location; None: one random anchor stands for each.
      cells: the grid's anchors by cell.
      top_k: anchors kept per location, by their score. Not fewer than there are: all, in order.
      min_score: tau; anchors take part with p_ik > tau (Table 6, "Pos", with all kept).
      key: seed of the random anchors of a head without anchor scores. One draw for all images, so
        that detections do not depend on how images are batched.
    """
    if anchor_logits is None:
        count = len(cells.real)
        shapes = cells.real.sum(axis=1, keepdims=True) if cells.padded else cells.shapes
        chosen = jax.random.randint(jax.random.key(key), (count, 1), 0, shapes)
        return chosen, jnp.ones((count, 1), jnp.float32)
    if cells.padded:
        anchor_logits = jnp.where(cells.real, anchor_logits, -jnp.inf)
    if top_k >= cells.shapes:
        chosen = None
    elif top_k == 1:  # ties to the first, as in top_k
        chosen = jnp.argmax(anchor_logits, axis=1, keepdims=True)
        anchor_logits = jnp.max(anchor_logits, axis=1, keepdims=True)
    else:
        anchor_logits, chosen = lax.top_k(anchor_logits, top_k)
    scores = jax.nn.sigmoid(anchor_logits.astype(jnp.float32))
    return chosen, jnp.where(scores > min_score, scores, 0.0)


def objective(
    *,
    label: Callable[..., LocationAssignment],
    classify: Classify,
    regress: Regress,
    anchor_loss: Callable[..., Array] = losses.smoothed_focal,
    anchor_weight: float = 1.0,
    positive_iou: float = 0.5,
    sigma: float = 0.9,
    choose: Callable[..., tuple[Array | None, Array]] = choose,
) -> Objective:
    """A semi-anchored objective from its parts.

    Args:
      label: (anchors, targets) -> LocationAssignment: `locations.by_anchors` or `by_centres`.
      classify: of locations, `terms.sigmoid` (weight 1).
      regress: of anchors, `terms.on_boxes` (weight 2).
      anchor_loss: (logits [P, S], soft targets [P, S], positive [P, S]) -> [P, S].
      anchor_weight: factor of its term.
      positive_iou: mu from which an anchor is positive after regression.
      sigma: exponent of Eqn 2; 0 makes all soft targets 1 (Table 5, "FL").
      choose: the function above with its keywords bound.

    Raises:
      ValueError: (from loss and decode) the head and the grid differ in their anchors per cell,
        or a level has none.
    """

    def loss(
        predictions: SemiAnchoredPredictions,
        anchors: Anchors,
        targets: Targets,
        moment: Moment = START,
    ) -> tuple[Terms, dict[str, Array]]:
        cells = _cells(predictions, anchors)
        assignment = lax.stop_gradient(label(anchors, targets, step=moment.step))
        mu = regressed_overlaps(
            predictions.codes, anchors, assignment, targets, codec=regress.codec
        )
        after = assignment.positive[:, None] & (mu >= positive_iou)
        terms = {
            "class": _class_term(predictions, assignment, classify, moment),
            "box": _box_term(predictions, anchors, targets, assignment, regress, moment),
        }
        if predictions.anchor_logits is not None:
            each = anchor_loss(predictions.anchor_logits, soft_targets(mu, sigma=sigma), after)
            total = jnp.sum(each, where=cells.members(assignment.positive[:, None]), initial=0.0)
            terms["anchor"] = Term(total=anchor_weight * total, count=_count(after))
        return terms, _statistics(assignment, after, targets, cells)

    return Objective(
        loss=loss,
        decode=functools.partial(_decode, classify=classify, codec=regress.codec, choose=choose),
        match=functools.partial(_match, label=label),
        assign=hooks.keyword(label, "assign"),
        ignore_iof=hooks.keyword(label, "ignore_iof"),
    )


def _class_term(
    predictions: SemiAnchoredPredictions,
    assignment: LocationAssignment,
    classify: Classify,
    moment: Moment,
) -> Term:
    background = classify.background(predictions.logits.shape[-1])
    classes = jnp.where(assignment.positive, assignment.label, background)
    each = classify.loss(predictions.logits, classes, None, moment.step)
    total = jnp.sum(each, where=~assignment.ignored[:, None], initial=0.0)
    return Term(total=classify.weight * total, count=_count(assignment.positive))


def _box_term(
    predictions: SemiAnchoredPredictions,
    anchors: Anchors,
    targets: Targets,
    assignment: LocationAssignment,
    regress: Regress,
    moment: Moment,
) -> Term:
    regressed = assignment.regressed.reshape(-1)
    anchor_boxes = locations.cells_of(anchors).rows(anchors.boxes).reshape(-1, 4)
    # The anchor's own box stands in where there is no object: it encodes to zeros.
    matched = targets.boxes[assignment.gt.reshape(-1)]
    matched = jnp.where(regressed[:, None], matched, anchor_boxes)
    codes = predictions.codes.reshape(-1, 4)
    total = jnp.sum(regress.loss(codes, anchor_boxes, matched, regressed, moment.step))
    return Term(total=regress.weight * total, count=_count(regressed))


def _match(
    predictions: SemiAnchoredPredictions,
    anchors: Anchors,
    targets: Targets,
    moment: Moment = END,
    *,
    label: Callable[..., LocationAssignment],
) -> Assignment:
    """The anchors that regress are the positives; ignored are all anchors of ignored locations."""
    del predictions
    found = label(anchors, targets, step=moment.step)
    cells = locations.cells_of(anchors)
    regressed = cells.flat(found.regressed)
    ignored = cells.flat(jnp.broadcast_to(found.ignored[:, None], found.regressed.shape))
    return Assignment(
        gt=jnp.where(regressed, cells.flat(found.gt), 0),
        positive=regressed,
        ignored=ignored & ~regressed,
    )


def regressed_overlaps(
    codes: Float[Array, "P S 4"],
    anchors: Anchors,
    assignment: LocationAssignment,
    targets: Targets,
    *,
    codec: Codec,
) -> Float[Array, "P S"]:
    """mu: the largest IoU of each regressed box with an object of its location's class.

    A constant for the gradient. Only positive locations are decoded; 0 elsewhere.
    """
    codes, cells = lax.stop_gradient(codes), locations.cells_of(anchors)
    prior = cells.rows(anchors.boxes)
    overlap, _ = locations.best_of_class(
        lambda part: codec.decode(codes[part], prior[part]),
        assignment.label,
        assignment.positive,
        targets,
        codes.shape[1],
    )
    return lax.stop_gradient(jnp.where(cells.real, overlap, 0.0) if cells.padded else overlap)


def soft_targets(mu: Float[Array, "*B P S"], *, sigma: float = 0.9) -> Float[Array, "*B P S"]:
    """Eqn 2: (mu_ik / max_k mu_ik)^sigma, in 0..1; 0 for locations whose boxes meet no object."""
    most = jnp.max(mu, axis=-1, keepdims=True)
    met = most > 0.0
    return jnp.where(met, (mu / jnp.where(met, most, 1.0)) ** sigma, 0.0)


def _statistics(
    assignment: LocationAssignment, after: Array, targets: Targets, cells: locations.Cells
) -> dict[str, Float[Array, ""]]:
    """What the log says about one image; positives and ignored are locations."""
    owned = jnp.zeros(targets.valid.shape, bool).at[assignment.gt].max(assignment.regressed)
    changed = assignment.positive[:, None] & (assignment.prior != after)
    candidates = _count(cells.members(assignment.positive[:, None]))
    return {
        "positives": _count(assignment.positive),
        "ignored": _count(assignment.ignored),
        "objects": _count(targets.objects),
        "objects_without_anchor": _count(targets.objects & ~owned),
        "anchors_regressed": _count(assignment.regressed),
        "anchors_positive_before": _count(assignment.prior),
        "anchors_positive_after": _count(after),
        "share_of_labels_changed": _count(changed) / jnp.maximum(candidates, 1.0),
    }


def _decode(
    predictions: SemiAnchoredPredictions,
    anchors: Anchors,
    image_size: Int[Array, "2"],
    *,
    classify: Classify,
    codec: Codec,
    choose: Callable[..., tuple[Array | None, Array]],
) -> Candidates:
    cells, codes = _cells(predictions, anchors), predictions.codes
    chosen, weight = choose(predictions.anchor_logits, cells)

    def of_chosen(values: Array) -> Array:
        """[P, S, ...] -> [P * k, ...]: only what is chosen is ever decoded."""
        if chosen is not None:
            index = chosen.reshape(*chosen.shape, *(1,) * (values.ndim - 2))
            values = jnp.take_along_axis(values, index, axis=1)
        return values.reshape(-1, *values.shape[2:])

    # An anchor is valid with its cell.
    weight = jnp.where(cells.rows(anchors.valid)[:, :1], weight, 0.0)
    scores = classify.scores(predictions.logits)
    decoded = codec.decode(of_chosen(codes), of_chosen(cells.rows(anchors.boxes)))
    return Candidates(
        boxes=boxes.clip(decoded, image_size),
        scores=(scores[:, None] * weight[..., None]).reshape(-1, scores.shape[-1]),
        shape=of_chosen(cells.rows(anchors.shape)),
        level_counts=tuple(
            rows * columns * weight.shape[1] for rows, columns, _ in anchors.level_sizes
        ),
    )


def _count(mask: Array) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)


def _cells(predictions: SemiAnchoredPredictions, anchors: Anchors) -> locations.Cells:
    """The grid's anchors by cell, if the head has as many."""
    cells, head = locations.cells_of(anchors), predictions.codes.shape[:2]
    if head != cells.anchor.shape:
        counts = tuple(shapes for _, _, shapes in anchors.level_sizes)
        raise ValueError(
            f"the head has {head[1]} anchors per cell on {head[0]} cells and the grid "
            f"{cells.shapes} on {len(cells.real)}: set detector.model.head.shapes_per_cell = "
            f"{counts if cells.padded else cells.shapes}"
        )
    return cells
