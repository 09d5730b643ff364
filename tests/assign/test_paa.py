"""Probabilistic assignment: reference values, and where a set of losses is cut."""

import functools

import golden_cases
import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import codecs, likelihoods, losses, mixture
from anchors_jax.assign import frame, paa
from anchors_jax.objectives import dense

MMDET = {"low_quality_owner": "claiming", "separation": "c_members", "min_candidates": 2}
SCHEMES = {"pos_a": "a", "pos_b": "b", "pos_c": "c", "pos_d": "d", "pos_mm": "c_members"}


@jax.jit
def cut_sets(loss, used):
    """{(scheme, min_candidates): (positive, ignored)}, compiled together."""

    def one(loss, used):
        fitted = mixture.fit(loss, used)
        return {
            (scheme, least): paa.separate(loss, used, fitted, scheme=scheme, min_candidates=least)
            for scheme in SCHEMES.values()
            for least in (1, 2)
        }

    return jax.vmap(one)(loss, used)


def cut(values, scheme="c", min_candidates=1):
    """Positive and ignored values of one set of losses, in float32."""
    loss = np.full((1, 8), np.nan, np.float32)
    loss[0, : len(values)] = sorted(values)
    used = jnp.arange(8)[None] < len(values)
    positive, ignored = cut_sets(jnp.asarray(loss), used)[scheme, min_candidates]
    loss = np.round(loss[0].astype(np.float64), 4)
    return set(loss[np.asarray(positive[0])]), set(loss[np.asarray(ignored[0])])


def has_clear_peaks(arrays):
    """Sets whose peaks float32 can tell: the two members of a pair are equally dense up to 1e-7."""
    clear = np.ones(len(arrays["n"]), bool)
    for component in (0, 1):
        density = np.where(arrays["component"] == component, arrays["log_density"], -np.inf)
        first, second = -np.sort(-density, axis=1)[:, :2].T
        clear &= (first > second + 1e-5) | np.isneginf(first)
    assert clear.mean() > 0.9
    return clear


@golden_cases.cases("paa_gmm")
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference_separation(case, name, dtype):
    arrays, scheme = case.arrays, SCHEMES[name]
    used = np.arange(arrays["x"].shape[1])[None] < arrays["n"][:, None]
    with jax.enable_x64(dtype is np.float64):
        loss = jnp.asarray(arrays["x"], dtype)
        found = cut_sets(loss, jnp.asarray(used))
    positive, ignored = found[scheme, 2 if name == "pos_mm" else 1]
    rows = slice(None) if dtype is np.float64 else arrays["stable"] & has_clear_peaks(arrays)
    np.testing.assert_array_equal(positive[rows], arrays[name][rows])
    expected = arrays.get(f"ign_{scheme}", np.zeros_like(used))
    np.testing.assert_array_equal(ignored[rows], expected[rows])


@functools.cache
def matched_image(prefix, topk, gate, stds, alpha, gamma, lambda_s):
    """Sets and assignment of one image under the rules behind the arrays with a prefix."""
    codec = codecs.deltas(stds=stds, limit_both_sides=not prefix)
    focal = functools.partial(losses.focal, alpha=alpha, gamma=gamma)
    keywords = {"topk": topk, "candidate_iou": gate}
    owner = {} if prefix else {"low_quality_owner": MMDET["low_quality_owner"]}

    @jax.jit
    def one(prediction, anchors, targets):
        likelihood = functools.partial(likelihoods.class_box, class_loss=focal, lambda_s=lambda_s)
        predicted = dense.predicted(prediction, anchors, codec=codec)
        pairs = likelihood(predicted, targets)
        sets = paa.candidate_sets(anchors, targets, pairs, **keywords, **owner)
        rules = {} if prefix else MMDET
        assign = functools.partial(paa.assign, likelihood=likelihood, **keywords, **rules)
        return sets, frame.assigned(assign, anchors, targets, predicted)

    return one


@golden_cases.cases("paa_loss")
@pytest.mark.parametrize("prefix", ["", "official_"])
def test_reference_candidates_and_positives(case, prefix):
    params, anchors = case.params, heads.anchors_of(case)
    if prefix:  # anchors in the padding are ordinary ones
        anchors = anchors.replace(valid=jnp.ones_like(anchors.valid))
    names = "topk", "gate", "stds", "focal_alpha", "focal_gamma"
    settings = [params[name] for name in (*names, "score_lambda" if prefix else "box_weight")]
    one = matched_image(prefix, *(tuple(x) if isinstance(x, list) else x for x in settings))
    predictions, targets = heads.predictions_of(case), heads.targets_of(case)

    def run(image):
        prediction, target = jax.tree.map(lambda leaf: leaf[image], (predictions, targets))
        return one(prediction, anchors.replace(valid=anchors.valid[image]), target)

    images = map(run, range(len(anchors.valid)))
    sets, assignment = jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    arrays, used = case.arrays, np.asarray(sets.used)
    index = arrays[f"{prefix}gmm_idx"]
    width = used.shape[2]  # theirs has topk slots also on levels with fewer anchors
    np.testing.assert_array_equal(np.where(used, sets.anchor, -1), index[..., :width])
    assert (index[..., width:] == -1).all()
    loss = arrays[f"{prefix}gmm_loss"][..., :width]
    np.testing.assert_allclose(np.asarray(sets.loss)[used], loss[used], rtol=1e-4, atol=2e-6)
    positive = np.asarray(assignment.positive)
    chosen = np.take_along_axis(positive[:, None], np.maximum(sets.anchor, 0), axis=2) & used
    np.testing.assert_array_equal(chosen, arrays[f"{prefix}gmm_pos"][..., :width])
    assert positive.sum() == arrays[f"{prefix}num_pos"]
    labels = np.take_along_axis(np.asarray(targets.labels), np.asarray(assignment.gt), axis=1)
    labels = np.where(positive, labels, case.params["num_classes"])
    np.testing.assert_array_equal(labels, arrays["official_labels" if prefix else "labels_after"])
    if prefix:
        np.testing.assert_array_equal(np.where(positive, assignment.gt, -1), arrays["official_gt"])
    np.testing.assert_array_equal(assignment.ignored, ~np.asarray(anchors.valid))


@pytest.mark.parametrize(
    ("values", "scheme", "positive", "ignored"),
    [
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "a", {0.9, 1.0, 1.05, 1.2}, set()),
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "b", {0.9, 1.0, 1.05}, {1.2, 3.0}),
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "c", {0.9, 1.0, 1.05}, set()),
        ((0.9, 1.0, 1.05, 1.2, 3.0, 3.3, 3.4), "d", {0.9, 1.0, 1.05}, {1.2}),
        ((0.7, 1.0, 1.3, 2.1, 2.3, 2.9, 3.4, 3.9), "c", {0.7, 1.0, 1.3}, set()),
        # The wide high component owns both ends: the cut is a prefix, not a component.
        ((0.5, 1.0, 1.1, 1.2, 1.25, 2.0), "c", {0.5, 1.0, 1.1}, set()),
        ((0.5, 1.0, 1.1, 1.2, 1.25, 2.0), "c_members", {1.0, 1.1}, set()),
        ((1.0, 3.0), "c", {1.0}, set()),
        ((4.0,), "c", {4.0}, set()),
        ((4.0,), "b", {4.0}, set()),
    ],
)
def test_sets_worked_out_by_hand(values, scheme, positive, ignored):
    assert cut(values, scheme=scheme) == (positive, ignored)


def test_degenerate_sets():
    equal = jnp.full((1, 8), 2.5)
    positive, _ = cut_sets(equal, jnp.arange(8)[None] < 4)["c", 1]
    np.testing.assert_array_equal(positive, [[True] + 7 * [False]])
    assert cut((4.0,), min_candidates=2) == (set(), set())
    nothing = cut_sets(equal, jnp.zeros(equal.shape, bool))
    assert not any(mask.any() for mask in jax.tree.leaves(nothing))


@pytest.mark.parametrize(
    ("keywords", "count"),
    [
        ({"scheme": "fixed_number", "fixed_number": 2}, 2),
        ({"scheme": "fixed_number", "fixed_number": 9}, 4),
        ({"scheme": "fixed_range", "least_score": 0.3}, 2),  # strictly above
        ({"scheme": "fixed_range", "least_score": 0.9}, 0),
        ({"scheme": "fixed_number", "fixed_number": 2, "min_candidates": 5}, 0),
    ],
)
def test_cuts_that_need_no_mixture(keywords, count):
    scores = jnp.asarray([0.8, 0.5, 0.3, 0.1, 1.0, 1.0])
    loss, used = -jnp.log(scores), jnp.arange(6) < 4
    positive, ignored = paa.separate(loss, used, mixture.fit(loss, used), **keywords)
    np.testing.assert_array_equal(positive, np.arange(6) < count)
    assert not ignored.any()


def test_without_a_low_component_all_are_positive():
    high = mixture.Mixture(
        origin=jnp.float32(0.0),
        mean=jnp.asarray([9.0, 1.0]),
        variance=jnp.ones(2),
        weight=jnp.asarray([0.5, 0.5]),
        iterations=jnp.int32(1),
    )
    loss, used = jnp.asarray([0.9, 1.0, 1.1, 0.0]), jnp.asarray([True, True, True, False])
    separate = jax.jit(paa.separate, static_argnames="scheme")
    for scheme in ("b", "c", "d"):
        positive, ignored = separate(loss, used, high, scheme=scheme)
        np.testing.assert_array_equal(positive, used)
        assert not ignored.any()
    for scheme in ("a", "c_members"):
        assert not separate(loss, used, high, scheme=scheme)[0].any()
