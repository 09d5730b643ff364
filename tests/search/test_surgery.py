"""Masked network = sliced network = deleted anchors, detection by detection, for both heads."""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from anchors_jax import experiment, inference, nms, spec
from anchors_jax.detectors.one_stage import detector
from anchors_jax.search import candidates, incremental, prices, surgery
from anchors_jax.search.store import Store
from configs import atss, retinanet, semi_anchored, ssd
from configs.overanchorized import overanchorize


class Case(NamedTuple):
    """A run with its variables, a batch, and what the network says about it."""

    config: Any
    run: Any
    variables: Any
    batch: Any
    found: Any

    @property
    def parts(self):
        return self.run.detector.parts

    @property
    def layout(self):
        return candidates.layout_of(self.run.detector, self.variables, self.batch)

    def masked(self, removed):
        """Scores of removed prototypes are 0 before anything else happens."""
        keep = self.layout.keep_mask(removed)[np.asarray(self.found.shape)]
        return self.found.replace(scores=jax.numpy.where(keep[..., None], self.found.scores, 0.0))


def subject(module, seed=0):
    """A smoke-scale run with random weights that detects a lot, and a batch of its images."""
    config = module.get_config("smoke")
    config.detector.detect.score_threshold = 0.0
    config.detector.detect.max_detections = 20
    run = experiment.load(config)
    arrays = next(iter(run.eval_batches(run.source("eval"))))
    batch = inference.as_batch({name: value[:2] for name, value in arrays.items()})
    variables = run.detector.init(jax.random.key(seed), run.canvases[0])
    rng = np.random.default_rng(seed)

    def louder(path, leaf):  # so that scores and boxes differ from anchor to anchor
        names = [part.key for part in path]
        if names[1] != "head" or names[-1] != "kernel" or leaf.shape[0] != 3:
            return np.asarray(leaf)
        return np.asarray(leaf) + rng.normal(0, 0.05, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(louder, variables)
    return Case(config, run, variables, batch, jax.jit(run.detector.score)(variables, batch))


@pytest.fixture(scope="module", params=["retinanet", "ssd", "atss"])
def case(request):
    return subject({"retinanet": retinanet, "ssd": ssd, "atss": atss}[request.param])


def subset(layout, seed=3):
    """A random one, without any anchor on the first level."""
    gone = (np.random.default_rng(seed).random(layout.size) < 0.5) & (layout.level > 1)
    return frozenset(np.flatnonzero(gone | (layout.level == 0)).tolist())


def deleted(found, layout, removed):
    """The same with the rows of removed prototypes cut out."""
    keep = layout.keep_mask(removed)[np.asarray(found.shape)[0]]
    ends = np.cumsum((0, *found.level_counts))
    counts = tuple(int(keep[a:b].sum()) for a, b in itertools.pairwise(ends))
    return found.replace(
        boxes=found.boxes[:, keep],
        scores=found.scores[:, keep],
        quality=None if found.quality is None else found.quality[:, keep],
        shape=found.shape[:, keep],
        level_counts=counts,
    )


def compare(one, other):
    np.testing.assert_array_equal(one.valid, other.valid)
    assert np.asarray(one.valid).any()
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-4, atol=2e-3)


def test_masked_is_sliced_is_deleted(case):
    layout = case.layout
    removed = subset(layout)
    detect = jax.jit(jax.vmap(case.parts.detect))
    hidden = case.masked(removed)
    expected = detect(hidden)
    compare(expected, detect(deleted(hidden, layout, removed)))
    config = case.config.copy_and_resolve_references()
    config.detector.anchors.hidden = tuple(sorted(removed))
    compare(expected, jax.jit(experiment.load(config).detector.predict)(case.variables, case.batch))
    content = surgery.sliced_config(case.config, case.parts, layout, removed)
    smaller = experiment.load(surgery.variant(content))
    canvas = case.run.canvases[0]
    weights = surgery.sliced_variables(case.variables, case.parts, layout, removed, canvas=canvas)
    assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, smaller.variable_shapes())
    compare(expected, jax.jit(smaller.detector.predict)(weights, case.batch))


DEAD = {  # what goes: levels without anchors, and the neck's layers
    retinanet: ((1, 2, 3, 4), {"output1", "output2", "extra0", "extra1"}),
    ssd: ((0, 4), {"extra1_1", "extra1_2"}),
}


@pytest.mark.parametrize("module", DEAD)
def test_layers_that_no_anchor_needs_can_go(module):
    case, (empty, layers) = subject(module), DEAD[module]
    layout = case.layout
    removed = frozenset(np.flatnonzero(np.isin(layout.level, empty)).tolist())
    necks, detected = {}, {}
    for drop in (False, True):
        how = {"drop_dead": drop}
        content = surgery.sliced_config(case.config, case.parts, layout, removed, **how)
        smaller = experiment.load(surgery.variant(content))
        how["canvas"] = case.run.canvases[0]
        weights = surgery.sliced_variables(case.variables, case.parts, layout, removed, **how)
        detected[drop] = jax.jit(smaller.detector.predict)(weights, case.batch)
        necks[drop] = {name.removesuffix("_norm") for name in weights["params"]["neck"]}
    compare(detected[False], detected[True])
    assert necks[True] == necks[False] - layers
    assert layers < necks[False]


def test_the_evaluator_detects_what_the_masked_network_does(case):
    _, run, variables, batch, _ = case
    rule = candidates.followed(case.parts.detect)
    arrays = {
        "image": batch.image, "image_size": batch.image_size, "image_id": batch.image_id,
        "scale": batch.scale, "boxes": batch.targets.boxes, "labels": batch.targets.labels,
        "valid": batch.targets.valid, "crowd": batch.targets.crowd,
    }  # fmt: skip
    found = candidates.collect(run.detector, variables, [arrays], rule=rule, capacity=60_000)
    assert found.cut == 0
    source = run.source("eval")
    truth = source.ground_truth()
    ids = [int(i) for i in batch.image_id]
    truth["images"] = [image for image in truth["images"] if image["id"] in ids]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
    evaluate = incremental.Evaluator(found, truth, category_ids=tuple(source.category_ids))
    detect = jax.jit(jax.vmap(case.parts.detect))
    for removed in (frozenset(), subset(found.layout), frozenset({1})):
        expected = detect(case.masked(removed))
        table = evaluate.table(removed)
        for row, image in enumerate(ids):
            mine = table[table.image_id == image]
            valid = np.asarray(expected.valid[row])
            order = np.argsort(-mine.score, kind="stable")
            np.testing.assert_allclose(
                mine.score[order], np.asarray(expected.scores[row])[valid], rtol=1e-5
            )
            boxes = np.asarray(expected.boxes[row])[valid] / np.tile(batch.scale[row], 2)
            assert len(mine) == valid.sum()
            # Equal scores may come in another order: compare as sets.
            one = np.sort(np.round(mine.box, 2), axis=0)
            np.testing.assert_allclose(one, np.sort(np.round(boxes, 2), axis=0), atol=0.02)


def test_sliced_configs_survive_the_round_trip_and_can_be_sliced_again():
    case = subject(retinanet)
    config, run, variables, batch, _ = case
    layout, canvas = case.layout, run.canvases[0]
    first = frozenset(np.flatnonzero((layout.slot == 4) | (layout.level == 1)).tolist())
    content = surgery.sliced_config(config, case.parts, layout, first)
    once = surgery.variant(content)
    assert spec.plain(once) == content
    assert once.detector.model.head.shapes_per_cell == 8
    weights = surgery.sliced_variables(variables, case.parts, layout, first, canvas=canvas)
    run = experiment.load(once)
    parts = run.detector.parts
    smaller = candidates.layout_of(run.detector, weights, batch)
    assert smaller.shapes == (8, 0, 8, 8, 8)
    second = frozenset(np.flatnonzero(smaller.slot == 0).tolist())
    twice = surgery.variant(surgery.sliced_config(once, parts, smaller, second))
    weights = surgery.sliced_variables(weights, parts, smaller, second, canvas=canvas)
    final = experiment.load(twice)
    assert candidates.layout_of(final.detector, weights, batch).shapes == (7, 0, 7, 7, 7)
    both = first | frozenset(np.flatnonzero(layout.slot == 0).tolist())
    detect = jax.jit(jax.vmap(case.parts.detect))
    compare(detect(case.masked(both)), jax.jit(final.detector.predict)(weights, batch))


def test_fine_tuning_is_shorter_and_slower_and_mistakes_are_named():
    config = retinanet.get_config("bench")
    content = spec.plain(config)
    tuned = surgery.variant(content, "finetune")
    assert tuned.train.learning_rate == pytest.approx(config.train.learning_rate / 10)
    assert tuned.train.epochs == pytest.approx(config.train.epochs / 3)
    with pytest.raises(ValueError, match="no variant 'finetun'; did you mean 'finetune'"):
        surgery.variant(content, "finetun")
    with pytest.raises(ValueError, match="anchors are sliced from"):
        surgery.prunable_head(experiment.load(semi_anchored.get_config("smoke")).detector.parts)


def test_latency_is_of_what_the_smaller_network_hands_out(case, tmp_path):
    layout, rule = case.layout, case.parts.detect
    removed = subset(layout)
    first = jax.tree.map(lambda leaf: leaf[0], case.found)
    calls = []

    def detect(candidates):
        calls.append(candidates.level_counts)  # traced once per number of candidates
        return rule(candidates)

    def price():
        store = Store(tmp_path / "latencies.jsonl", {"device": "test"})
        return prices.Latency(first, detect, layout, store, repeats=3)

    latency = price()
    cut = latency.cut(removed)
    want = deleted(case.found, layout, removed)
    for one, other in zip(jax.tree.leaves(cut), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(one, np.asarray(other)[0])
    assert cut.level_counts == want.level_counts
    measured = latency(removed)
    assert measured > 0
    assert calls == [cut.level_counts]
    assert float(f"{measured:.1e}") == measured
    assert price()(removed) == measured  # from disk
    assert len(calls) == 1


@pytest.mark.parametrize("module", [retinanet, ssd])
def test_multiply_adds_of_both_heads_follow_the_kernels(module):
    """Every kernel runs at every cell of its levels."""
    config = module.get_config("smoke")
    run = experiment.load(config)
    arrays = next(iter(run.eval_batches(run.source("eval"))))
    batch = inference.as_batch({name: value[:2] for name, value in arrays.items()})
    variables = run.variable_shapes()
    layout = candidates.layout_of(run.detector, variables, batch)
    cost = prices.macs(run.detector.parts, layout, canvas=run.canvases[0])
    assert 0 < cost(frozenset(range(layout.shapes[0]))) < cost(frozenset())
    leaves = jax.tree_util.tree_flatten_with_path(variables["params"]["head"])[0]
    sizes = {"/".join(part.key for part in path): leaf.size for path, leaf in leaves}
    kernels = {name: size for name, size in sizes.items() if name.endswith("kernel")}
    if module is ssd:
        by_hand = sum(
            cells * (kernels[f"class{n}/kernel"] + kernels[f"box{n}/kernel"])
            for n, cells in enumerate(layout.cells)
        )
    else:
        by_hand = sum(layout.cells) * sum(kernels.values())
    assert cost(frozenset()) == by_hand


def test_rules_that_cannot_be_followed_are_named():
    with pytest.raises(ValueError, match=r"cannot follow detector.detect.voting"):
        candidates.followed(nms.Rule(voting=nms.score_voting))
    with pytest.raises(ValueError, match=r"pruning follows nms.Rule"):
        candidates.followed(detector)
    assert candidates.followed(nms.Rule()) == nms.Rule()
    assert candidates.followed(nms.Rule(top_k=7, voting=None)).top_k == 7


def test_overanchorized_heads_have_the_menu_on_every_level():
    for module, levels in ((retinanet, 5), (ssd, 5)):
        config = overanchorize(module.get_config("smoke"))
        shapes = experiment.load(config).detector.parts.anchors.prototypes
        assert [len(level) for level in shapes] == [15] * levels
    low, high = ssd.get_config("paper").detector.anchors.shapes.min_sizes[:2]
    config = overanchorize(ssd.get_config("paper"))
    shapes = experiment.load(config).detector.parts.anchors.prototypes
    sides = np.sqrt(shapes[0].prod(axis=1))
    np.testing.assert_allclose(
        np.unique(sides.round(4)), low * (high / low) ** (np.arange(3) / 3), rtol=1e-4
    )
    with pytest.raises(ValueError, match="overanchorize knows octaves and ssd"):
        overanchorize(atss.get_config("smoke"))
