"""The one-stage detector: frozen parameters, precision, compilations, and empty slots."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, traverse_util

from anchors_jax import anchors, codecs, nms, optim, parallel, spec, train
from anchors_jax.assign import max_iou
from anchors_jax.detectors import one_stage
from anchors_jax.models.dense_head import DenseHead
from anchors_jax.models.fpn import FPN
from anchors_jax.models.one_stage import OneStageNetwork
from anchors_jax.objectives import dense, terms
from anchors_jax.types import Batch, Targets

B, G, K = 2, 4, 3
CANVAS = (64, 96)


class Backbone(linen.Module):
    """Maps at strides 8 and 16 by two convolutions, with a batch norm; the first is frozen."""

    frozen: bool = True

    @linen.compact
    def __call__(self, x, *, train=False):
        x = linen.Conv(8, (8, 8), strides=8, name="stem")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="norm")(x))
        return x, linen.Conv(8, (3, 3), strides=2, name="body")(x)

    def frozen_names(self):
        return frozenset({"stem"} if self.frozen else ())


def tiny(*, frozen=True, **keywords):
    """A detector whose every part is real but small."""
    return one_stage.detector(
        model=OneStageNetwork(
            backbone=Backbone(frozen=frozen),
            neck=FPN(width=8, levels=2),
            head=DenseHead(num_classes=K, shapes_per_cell=2, depth=1, width=8),
        ),
        anchors=anchors.Grid(
            shapes=anchors.relative(scales=(2.0, 3.0), ratios=(1.0,)), strides=(8, 16)
        ),
        objective=dense.objective(
            assign=max_iou.assign,
            classify=terms.sigmoid(),
            regress=terms.on_codes(codec=codecs.deltas()),
        ),
        detect=nms.Rule(score_threshold=0.0, max_detections=8),
        **keywords,
    )


def batch_of(*, canvas=CANVAS, count=2, sizes=None, seed=0):
    """Random pixels with `count` objects in every image."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 30, (B, G, 2))
    boxes = np.concatenate([corner, corner + random.uniform(12, 34, (B, G, 2))], axis=-1)
    return Batch(
        image=random.integers(0, 256, (B, *canvas, 3), dtype=np.uint8),
        image_size=np.array([canvas] * B if sizes is None else sizes, np.int32),
        image_id=np.arange(B, dtype=np.int32),
        scale=np.ones((B, 2), np.float32),
        targets=Targets(
            boxes=boxes.astype(np.float32),
            labels=random.integers(0, K, (B, G), dtype=np.int32),
            valid=np.broadcast_to(np.arange(G) < count, (B, G)),
            crowd=np.zeros((B, G), bool),
        ),
    )


def paths(tree):
    return {"/".join(path) for path in traverse_util.flatten_dict(tree)}


@pytest.fixture(scope="module")
def detector():
    return tiny()


@pytest.fixture(scope="module")
def variables(detector):
    return detector.init(jax.random.key(0), CANVAS)


def test_frozen_parameters_have_a_collection_of_their_own(variables):
    assert set(variables) == {"params", "frozen", "batch_stats"}
    assert paths(variables["frozen"]) == {"backbone/stem/kernel", "backbone/stem/bias"}
    assert not paths(variables["frozen"]) & paths(variables["params"])
    assert "frozen" not in tiny(frozen=False).init(jax.random.key(0), CANVAS)


def test_splitting_and_joining_are_inverse(variables):
    joined = one_stage.join_frozen(variables)
    assert set(joined) == {"params", "batch_stats"}
    is_trained = traverse_util.path_aware_map(lambda path, _: path[1] != "stem", joined["params"])
    again = one_stage.split_frozen(joined, is_trained)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    everything = jax.tree.map(lambda _: True, joined["params"])
    assert one_stage.split_frozen(joined, everything) == joined
    assert one_stage.join_frozen(joined) is joined


def test_starting_is_a_function_of_the_key(detector, variables):
    jax.tree.map(np.testing.assert_array_equal, detector.init(jax.random.key(0), CANVAS), variables)
    other = detector.init(jax.random.key(1), CANVAS)
    assert not np.array_equal(
        other["frozen"]["backbone"]["stem"]["kernel"],
        variables["frozen"]["backbone"]["stem"]["kernel"],
    )
    # Nothing depends on the canvas: the network is convolutional.
    jax.tree.map(
        np.testing.assert_array_equal, detector.init(jax.random.key(0), (32, 32)), variables
    )


def test_a_step_leaves_frozen_parameters_alone(detector):
    def rule(params):
        # Decay so strong that nothing it reaches stays as it was.
        return optim.create(
            params, rule=functools.partial(optim.sgd, weight_decay=0.5), schedule=lambda _: 0.1
        )

    state, update = train.create_state(detector, CANVAS, rule, seed=0, average=True)
    assert not any("stem" in jax.tree_util.keystr(path) for path in key_paths(state.optimizer))
    step = parallel.pmap(train.bound_step(detector, update, ema_decay=0.9, normaliser_group=None))
    after, scalars, _ = step(parallel.replicate(state), parallel.shard(batch_of()))
    after, scalars = parallel.unreplicate(after), parallel.unreplicate(scalars)
    assert np.isfinite(scalars["loss"])
    jax.tree.map(
        np.testing.assert_array_equal, after.variables["frozen"], state.variables["frozen"]
    )
    for collection in ("params", "batch_stats"):
        before = traverse_util.flatten_dict(state.variables[collection])
        for path, value in traverse_util.flatten_dict(after.variables[collection]).items():
            # A bias that starts at 0 is not decayed, but it has a gradient.
            assert not np.array_equal(value, before[path]), path
    # What is evaluated has the frozen parameters, too.
    found = jax.jit(detector.predict)(after.evaluated(), batch_of())
    assert np.isfinite(found.scores).all()


def key_paths(tree):
    return [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def test_programs_are_traced_once_per_canvas(detector, variables):
    traces = []

    @jax.jit
    def both(variables, batch, key):
        traces.append(batch.image.shape)
        return detector.loss(variables, batch, key)[0], detector.predict(variables, batch)

    for canvas in (CANVAS, (96, 64)):
        for count in range(G + 1):
            batch = batch_of(canvas=canvas, count=count, seed=count)
            terms, _ = both(variables, batch, jax.random.key(count))
            assert np.isfinite([term.total for term in terms.values()]).all()
    assert [shape[1:3] for shape in traces] == [CANVAS, (96, 64)]


def test_predict_detects_what_score_scores(detector, variables):
    batch = batch_of()
    candidates = jax.jit(detector.score)(variables, batch)
    assert candidates.scores.shape == (B, 2 * (8 * 12 + 4 * 6), K)
    want = jax.jit(jax.vmap(nms.Rule(score_threshold=0.0, max_detections=8)))(candidates)
    got = jax.jit(detector.predict)(variables, batch)
    assert np.asarray(got.valid).all()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, want)


def test_a_slot_without_image_yields_nothing(detector, variables):
    batch = batch_of(sizes=[CANVAS, (0, 0)])
    terms, statistics, _ = jax.jit(detector.loss)(variables, batch, jax.random.key(0))
    for term in terms.values():
        assert term.total[0] > 0
        assert term.total[1] == 0
    assert statistics["positives"][0] > statistics["positives"][1] == 0
    found = jax.jit(detector.predict)(variables, batch)
    assert np.asarray(found.valid)[0].all()
    assert not np.asarray(found.valid)[1].any()


def test_cells_beyond_the_image_take_no_part(detector, variables):
    # 40 x 40 pixels count up to 64 with the default divisor, up to 40 with 8.
    batch = batch_of(sizes=[(40, 40)] * B)
    strict = tiny(pad_divisor=8)
    for some, sides in ((detector, (8, 8)), (strict, (5, 5))):
        scores = np.asarray(jax.jit(some.score)(variables, batch).scores)[:, : 8 * 12 * 2]
        present = scores.reshape(B, 8, 12, 2, K).any(axis=(3, 4))
        rows, columns = np.nonzero(present[0])
        assert (rows.max() + 1, columns.max() + 1) == sides


def smoke(dtype):
    """The real network at smoke scale, and its terms as a function of (variables, batch)."""
    config = importlib.import_module("configs.retinanet").get_config("smoke")
    config.compute_dtype = dtype
    detector = spec.build(config.detector)
    return detector, jax.jit(lambda *inputs: detector.loss(*inputs, jax.random.key(0))[0])


def test_half_precision_computes_nearly_the_same():
    detector, full = smoke("float32")
    variables = detector.init(jax.random.key(0), (64, 64))
    detector_half, half = smoke("bfloat16")
    abstract = jax.eval_shape(lambda key: detector_half.init(key, (64, 64)), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}
    batch = batch_of(canvas=(64, 64))
    want, got = full(variables, batch), half(variables, batch)
    for name, term in got.items():
        assert term.total.dtype == term.count.dtype == jnp.float32
        np.testing.assert_array_equal(term.count, want[name].count)
        np.testing.assert_allclose(term.total, want[name].total, rtol=0.03)
        assert not np.array_equal(term.total, want[name].total)  # it was really computed in half
    candidates = jax.eval_shape(detector_half.score, variables, batch)
    assert candidates.boxes.dtype == candidates.scores.dtype == jnp.float32
