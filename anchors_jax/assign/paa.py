"""Probabilistic anchor assignment: a mixture of two normals says where an object's positives end.

    K. Kim, H. S. Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object Detection",
    ECCV 2020, arXiv:2007.08103. Section 3.2 and Algorithm 1.

1. By geometry, every anchor becomes a candidate of one object at most: of the object it overlaps
   most, if their IoU reaches `candidate_iou` or if some object has no better anchor.
2. A candidate's loss is minus its log-likelihood. Each object keeps its `topk` best per level.
3. A mixture of two normals is fitted to the losses of each object's candidates.
4. With f the candidate at the density's peak among those that belong to the low component:
   positive are all candidates with a loss up to f's (`separation="c"`).

Differs from the paper: 1 is the rule of the authors' code (the text only says that each anchor
belongs to its best object); an object that meets no anchor has no candidate (there it makes every
anchor one). The text's first version describes "b", its last "c".
MMDetection: `low_quality_owner="claiming"`, `separation="c_members"`, `min_candidates=2`, and
`lambda_s=1.3` of the likelihood.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from anchors_jax import likelihoods, mixture
from anchors_jax.assign import primitives
from anchors_jax.types import Anchors, Assignment, Predicted, Targets

# (predicted, targets) -> (objects [A]) -> [A]: see `likelihoods`.
Likelihood = Callable[[Predicted, Targets], Callable[[Array], Array]]
Separation = Literal["a", "b", "c", "c_members", "d", "fixed_number", "fixed_range"]

# Objects per step when candidates are ranked.
_BLOCK = 4


class Sets(NamedTuple):
    """The candidates of every object by increasing loss, in C = sum of min(topk, A_l) slots."""

    anchor: Int[Array, "G C"]
    loss: Float[Array, "G C"]  # 0 in unused slots
    used: Bool[Array, "G C"]


def assign(
    anchors: Anchors,
    targets: Targets,
    predicted: Predicted,
    *,
    likelihood: Likelihood = likelihoods.class_box,
    topk: int = 9,
    candidate_iou: float = 0.1,
    low_quality_owner: Literal["own", "claiming"] = "own",
    separation: Separation = "c",
    min_candidates: int = 1,
    tie_tolerance: float = 1e-5,
    fixed_number: int = 10,
    least_score: float = 0.1,
    fit: Callable[..., mixture.Mixture] = mixture.fit,
) -> Assignment:
    """Positives by likelihood, and the anchors that the schemes "b" and "d" leave out.

    Args:
        anchors: A anchors.
        targets: G slots.
        predicted: boxes and logits of the A anchors.
        likelihood: (predicted, targets) -> a function `(objects [A]) -> [A]`, the log-likelihood of
            each anchor with its given object (see `likelihoods`).
        topk: candidates of an object per level.
        candidate_iou: at least this IoU makes an anchor a candidate.
        low_quality_owner: whose candidate an anchor is that some object claims: "own": of the
            object it overlaps most. "claiming": of the last one that claims it (MMDetection).
        separation: where a set is cut, with the components and the density of the mixture:
            "a": positive are the members of the low component.
            "b": positive up to the peak f of the low component; from there to the peak of the high
            component ignored.
            "c": positive up to f, whatever the component.
            "c_members": positive are members of the low component up to f (MMDetection).
            "d": positive up to f; members of the low component beyond it ignored.
            Where no candidate belongs to the low component, "b", "c" and "d" take all.
            "fixed_number", "fixed_range": without the mixture, the rules that the paper compares
            with: the `fixed_number` best, or all with a score exp(-loss) above `least_score`.
        min_candidates: objects with fewer candidates get no positive. A single one is positive
            without a mixture (MMDetection: 2).
        tie_tolerance: IoUs within this share of an object's largest count as equal to it. A small
            object inside many anchors of equal size needs them all as candidates.
        fixed_number, least_score: of the separations called after them; the paper's values are in
            tables that could not be read.
        fit: (losses [C], used [C]) -> Mixture.
    """
    sets = candidate_sets(
        anchors,
        targets,
        likelihood(predicted, targets),
        topk=topk,
        candidate_iou=candidate_iou,
        low_quality_owner=low_quality_owner,
        tie_tolerance=tie_tolerance,
    )
    fitted = jax.vmap(fit)(sets.loss, sets.used)
    cut = functools.partial(
        separate,
        scheme=separation,
        min_candidates=min_candidates,
        fixed_number=fixed_number,
        least_score=least_score,
    )
    chosen, left_out = jax.vmap(cut)(sets.loss, sets.used, fitted)
    # No anchor is a candidate twice, so the order of these writes does not matter.
    count = anchors.boxes.shape[0]
    rows = jnp.broadcast_to(jnp.arange(chosen.shape[0], dtype=jnp.int32)[:, None], chosen.shape)
    gt = jnp.full(count, -1, jnp.int32)
    gt = gt.at[jnp.where(chosen, sets.anchor, count)].set(rows, mode="drop")
    ignored = jnp.zeros(count, bool)
    ignored = ignored.at[jnp.where(left_out, sets.anchor, count)].set(True, mode="drop")
    return Assignment(
        gt=jnp.maximum(gt, 0),
        positive=gt >= 0,
        ignored=ignored,
        signals=signals(sets, fitted),
    )


def candidate_sets(
    anchors: Anchors,
    targets: Targets,
    log_likelihood: Callable[[Array], Array],
    *,
    topk: int = 9,
    candidate_iou: float = 0.1,
    low_quality_owner: Literal["own", "claiming"] = "own",
    tie_tolerance: float = 1e-5,
) -> Sets:
    """Steps 1 and 2: what the mixtures are fitted to. Arguments as in `assign`."""
    match = primitives.largest_iou(
        anchors.boxes, anchors.valid, targets, tie_tolerance=tie_tolerance
    )
    candidate = anchors.valid & ((match.iou >= candidate_iou) | match.claimed)
    owner = match.owner if low_quality_owner == "own" else match.claiming_owner
    return _best_of_each(
        candidate, owner, -log_likelihood(owner), targets, anchors.level_counts, topk
    )


def _best_of_each(
    candidate: Array,
    owner: Array,
    loss: Array,
    targets: Targets,
    level_counts: tuple[int, ...],
    topk: int,
) -> Sets:
    """The topk lowest losses of every object on every level, ties to the lower anchor."""
    ends = list(itertools.accumulate(level_counts))
    levels = [(end - count, end) for end, count in zip(ends, level_counts, strict=True)]

    def best_of(boxes: Array, objects: Array) -> tuple[Array, Array]:
        del boxes
        own = candidate[None] & (owner[None] == objects[:, None])
        score = jnp.where(own, -loss[None], -jnp.inf)
        best = [lax.top_k(score[:, low:high], min(topk, high - low)) for low, high in levels]
        scores = jnp.concatenate([value for value, _ in best], axis=1)
        anchor = [index + low for (_, index), (low, _) in zip(best, levels, strict=True)]
        return -scores, jnp.concatenate(anchor, axis=1)

    shape = (targets.valid.shape[0], sum(min(topk, count) for count in level_counts))
    none = jnp.full(shape, jnp.inf, loss.dtype), jnp.zeros(shape, jnp.int32)
    kept = primitives.per_object(best_of, none, targets.boxes, targets.objects, block=_BLOCK)
    # Stable: equal losses stay in the order of the levels.
    loss, anchor = lax.sort(kept, dimension=1, num_keys=1, is_stable=True)
    used = loss < jnp.inf
    return Sets(jnp.where(used, anchor, 0), jnp.where(used, loss, 0.0), used)


def separate(
    loss: Float[Array, "C"],
    used: Bool[Array, "C"],
    fitted: mixture.Mixture,
    *,
    scheme: Separation = "c",
    min_candidates: int = 1,
    fixed_number: int = 10,
    least_score: float = 0.1,
) -> tuple[Bool[Array, "C"], Bool[Array, "C"]]:
    """Positive and ignored candidates of one object, from losses in increasing order.

    Arguments as in `assign`. The peak of a component is the first of its members with the largest
    density of the whole mixture; a candidate equally likely under both belongs to the low one.
    """
    none, count = jnp.zeros_like(used), jnp.sum(used)
    rank = jnp.arange(used.shape[0])
    if scheme in ("fixed_number", "fixed_range"):
        chosen = rank < fixed_number if scheme == "fixed_number" else jnp.exp(-loss) > least_score
        return used & chosen & (count >= min_candidates), none
    joint = mixture.log_joint(loss, fitted)
    density = jnp.logaddexp(joint[0], joint[1])
    low = used & (joint[0] >= joint[1])
    high = used & ~low
    peak, other = (jnp.argmax(jnp.where(part, density, -jnp.inf)) for part in (low, high))
    upto = used & ((rank <= peak) | ~jnp.any(low))
    positive, ignored = {
        "a": (low, none),
        "b": (upto, used & ~upto & (rank < other) & jnp.any(high)),
        "c": (upto, none),
        "c_members": (upto & low, none),
        "d": (upto, low & ~upto),
    }[scheme]
    positive = jnp.where(count == 1, used, positive) & (count >= min_candidates)
    return positive, ignored & (count > 1)


def signals(
    sets: Sets, fitted: mixture.Mixture, *, largest: float = 10.0
) -> dict[str, Float[Array, ""]]:
    """What the method has to say about an image for the log, from its candidates and mixtures.

    `mixture_separation`: distance of the components' means in standard deviations, the mean over
    objects with two or more candidates, each counted up to `largest` (two candidates make two
    components without width). `mixture_iterations`: steps to convergence, the same mean.
    """
    several = jnp.sum(sets.used, axis=1) > 1
    objects = jnp.maximum(jnp.sum(several, dtype=jnp.float32), 1.0)
    values = {
        "mixture_separation": jnp.minimum(mixture.separation(fitted), largest),
        "mixture_iterations": fitted.iterations.astype(jnp.float32),
    }
    return {name: jnp.sum(jnp.where(several, v, 0.0)) / objects for name, v in values.items()}
