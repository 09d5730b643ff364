"""The training step on one and two devices, resuming, averaging, and how a run stops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchors_jax import parallel, train
from anchors_jax.checkpoints import Checkpoints
from anchors_jax.logs import Logger, read_metrics
from anchors_jax.types import Batch, Detector, Targets, Term

B, G = 4, 3


def linear_detector(*, blow_up_at=None):
    """A detector in name only: fits `w . mean(image)` to the number of objects of an image."""

    def init(key, canvas):
        del canvas
        return {
            "params": {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())},
            "batch_stats": {"seen": jnp.zeros(())},
        }

    def loss(variables, batch, key, step):
        del key
        feature = batch.image.astype(jnp.float32).mean((1, 2)) / 255
        output = feature @ variables["params"]["w"] + variables["params"]["b"]
        count = batch.targets.valid.sum(1, dtype=jnp.float32)
        total = count * jnp.square(output - count)
        if blow_up_at is not None:
            total = jnp.where(batch.image_id == blow_up_at, jnp.nan, total)
        terms = {"fit": Term(total=total, count=count)}
        updates = {"batch_stats": {"seen": variables["batch_stats"]["seen"] + feature.mean()}}
        return terms, {"objects": count}, updates

    return Detector(init=init, loss=loss, score=None, predict=None, match=None)


class CountedBatches:
    """An endless, resumable stream of small random batches; the number of objects varies."""

    def __init__(self):
        self.position = 0

    def __next__(self):
        rng = np.random.default_rng(self.position)
        self.position += 1
        count = rng.integers(0, G + 1, B)
        return Batch(
            image=rng.integers(0, 255, (B, 2, 2, 3), dtype=np.uint8),
            image_size=np.full((B, 2), 2, np.int32),
            image_id=np.arange(B, dtype=np.int32) + B * (self.position - 1),
            scale=np.ones((B, 2), np.float32),
            targets=Targets(
                boxes=np.zeros((B, G, 4), np.float32),
                labels=np.zeros((B, G), np.int32),
                valid=np.arange(G) < count[:, None],
                crowd=np.zeros((B, G), bool),
            ),
        )

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def adam(params):
    del params
    return optax.adam(1e-2)


def fresh(detector, rule=adam, **keywords):
    keywords = {"seed": 0, "average": False} | keywords
    return train.create_state(detector, (2, 2), rule, **keywords)


def step_function(detector, update, **keywords):
    keywords = {"ema_decay": 0.0, "normaliser_group": None} | keywords
    return train.bound_step(detector, update, **keywords)


def run_on(devices, steps, **keywords):
    """Losses and parameters after some steps on the given number of devices."""
    detector = linear_detector()
    state, update = fresh(detector)
    mapped = jax.pmap(
        step_function(detector, update, **keywords),
        axis_name=parallel.AXIS,
        devices=jax.devices()[:devices],
    )
    state = jax.tree.map(lambda x: np.stack([x] * devices), state)
    losses, batches = [], CountedBatches()
    for _ in range(steps):
        batch = jax.tree.map(lambda x: np.reshape(x, (devices, -1, *x.shape[1:])), next(batches))
        state, scalars, _ = mapped(state, batch)
        losses.append(float(scalars["loss"][0]))
    for leaf in jax.tree.leaves(state.variables):
        np.testing.assert_array_equal(leaf[0], leaf[-1])  # devices never drift apart
    return losses, jax.tree.map(lambda x: x[0], state.variables["params"])


def test_two_devices_equal_one():
    one, two = run_on(1, 5), run_on(2, 5)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), one[1], two[1])


def test_groups_divide_like_separate_machines():
    # Groups of two images: the same on one device (two groups) and on two (one group each).
    one, two = run_on(1, 3, normaliser_group=2), run_on(2, 3, normaliser_group=2)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
    assert abs(one[0][0] - run_on(1, 1)[0][0]) > 1e-4


@pytest.mark.parametrize(
    ("group", "want"),
    [(None, (1 + 2 + 3 + 4) / 7), (2, ((1 + 2) / 1 + (3 + 4) / 6) / 2), (4, 10 / 7)],
)
def test_divisors_by_hand(group, want):
    terms = {"t": Term(total=jnp.array([1.0, 2, 3, 4]), count=jnp.array([0.0, 1, 2, 4]))}
    if group == 2:
        terms["t"] = terms["t"].replace(count=jnp.array([0.0, 0, 2, 4]))  # at least 1 per group
    divide = jax.pmap(
        functools.partial(train.divide, group=group), parallel.AXIS, devices=jax.devices()[:1]
    )
    got = divide(jax.tree.map(lambda x: x[None], terms))["t"]
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_no_positives_anywhere_divides_by_one():
    terms = {"t": Term(total=jnp.ones((2, 1)), count=jnp.zeros((2, 1)))}
    np.testing.assert_allclose(jax.pmap(train.divide, parallel.AXIS)(terms)["t"].mean(), 2.0)


def test_a_group_that_does_not_fit_is_an_error():
    terms = {"t": Term(total=jnp.ones((1, 3)), count=jnp.ones((1, 3)))}
    divide = functools.partial(train.divide, group=2)
    with pytest.raises(ValueError, match="normaliser_group = 2 does not divide the 3 images"):
        jax.pmap(divide, parallel.AXIS, devices=jax.devices()[:1])(terms)


def fit(workdir, *, total, detector=None, checkpoint_every=2, average=True, die_at=None, **more):
    detector = detector or linear_detector()
    state, update = fresh(detector, average=average)
    batches = CountedBatches()
    if die_at is not None:

        class Dying(CountedBatches):
            def __next__(self):
                if self.position == die_at:
                    raise KeyboardInterrupt
                return super().__next__()

        batches = Dying()
    plan = train.Plan(
        total_steps=total,
        batch_size=B,
        log_every=1,
        checkpoint_every=checkpoint_every,
        eval_every=more.pop("eval_every", 0),
    )
    checkpoints = Checkpoints(workdir)
    with Logger(workdir, resume_step=checkpoints.latest() or 0, tensorboard=False) as logger:
        return train.fit(
            state=state,
            step_fn=step_function(detector, update, ema_decay=0.9 if average else 0.0),
            batches=batches,
            plan=plan,
            schedule=lambda step: 1e-2,
            checkpoints=checkpoints,
            evaluate=lambda variables: {"AP": float(variables["params"]["b"])},
            logger=logger,
            workdir=workdir,
            **more,
        )


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    whole, metrics = fit(tmp_path / "whole", total=7)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", total=7, die_at=5)
    resumed, metrics_again = fit(tmp_path / "cut", total=7)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert metrics == metrics_again
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    timings = {"train/images_per_second", "train/seconds_waiting"}
    first, second = (
        [{k: v for k, v in row.items() if k not in timings} for row in r] for r in rows
    )
    assert first == second


def test_a_finished_run_evaluates_again_and_changes_nothing(tmp_path):
    state, metrics = fit(tmp_path, total=3)
    again, metrics_again = fit(tmp_path, total=3)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert metrics == metrics_again


def test_whoever_listens_to_evaluations_may_end_the_run(tmp_path):
    class Enough(Exception):
        pass

    heard = []

    def listen(step, metrics):
        heard.append((step, metrics["AP"]))
        if step == 4:
            raise Enough

    with pytest.raises(Enough):
        fit(tmp_path, total=7, eval_every=2, on_evaluation=listen)
    assert Checkpoints(tmp_path, read_only=True).latest() == 4  # saved before it is told
    _, metrics = fit(tmp_path, total=7, eval_every=2, on_evaluation=listen)
    assert [step for step, _ in heard] == [2, 4, 6, 7]
    assert heard[-1][1] == metrics["AP"]


def test_checkpoints_hold_the_averaged_parameters(tmp_path):
    state, _ = fit(tmp_path, total=4)
    assert not np.array_equal(state.variables["params"]["w"], state.average["w"])
    stored = Checkpoints(tmp_path, read_only=True)
    restored = stored.restore_variables(stored.best(), variables=state.variables)
    np.testing.assert_array_equal(restored["params"]["w"], state.average["w"])


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    bad_id = 2 * B + 1  # second image of the third batch
    with pytest.raises(train.NonFiniteLossError) as caught:
        fit(tmp_path, total=9, detector=linear_detector(blow_up_at=bad_id))
    message = str(caught.value)
    assert "step 3" in message
    assert "loss/fit" in message
    assert f"image ids [{bad_id}]" in message
    (saved,) = tmp_path.glob("nonfinite_step_3_*.npz")
    with np.load(saved) as replay:
        np.testing.assert_array_equal(replay["image_id"], np.arange(2 * B, 3 * B))
        assert replay["targets.valid"].shape == (B, G)
    assert Checkpoints(tmp_path).latest() == 2


def test_the_number_of_objects_never_recompiles():
    detector = linear_detector()
    state, update = fresh(detector)
    calls = itertools.count()

    def counted(*arguments):
        next(calls)  # runs only while tracing
        return step_function(detector, update)(*arguments)

    mapped = parallel.pmap(counted)
    state = parallel.replicate(state)
    batches = CountedBatches()
    for _ in range(4):
        state, _, _ = mapped(state, parallel.shard(next(batches)))
    assert next(calls) == 1


def test_the_average_follows_the_parameters():
    detector = linear_detector()
    state, update = fresh(detector, average=True)
    mapped = parallel.pmap(step_function(detector, update, ema_decay=0.75))
    after, _, _ = mapped(parallel.replicate(state), parallel.shard(next(CountedBatches())))
    after = parallel.unreplicate(after)
    want = 0.75 * state.average["w"] + 0.25 * after.variables["params"]["w"]
    np.testing.assert_allclose(after.average["w"], want, rtol=1e-6)
