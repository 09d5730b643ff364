"""What a config means: steps, learning rates, divisions, and messages when it cannot be."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchors_jax import experiment, optim, spec
from anchors_jax.data import loader


def load(**train):
    """The retinanet config at smoke scale with other data and training values."""
    config = importlib.import_module("configs.retinanet").get_config("smoke")
    config.train.eval_every_epochs = 0.0  # unless a case says otherwise
    for key, value in train.items():
        node = config.data if key in config.data else config.train
        node[key] = value
    return experiment.load(config)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "want"),
    [(8, 1, 0.01), (2, 1, 0.0025), (2, 4, 0.01), (16, 2, 0.04)],
)
def test_the_learning_rate_follows_the_images_of_an_update(batch_size, accumulate, want):
    run = load(learning_rate=0.01, reference_batch=8, batch_size=batch_size, accumulate=accumulate)
    assert run.learning_rate() == pytest.approx(want)


@pytest.mark.parametrize(
    ("images", "train", "want"),
    [
        # (total_steps, checkpoint_every, eval_every)
        (100, {"epochs": 3.0}, (150, 50, 0)),
        (101, {"epochs": 1.0}, (51, 50, 0)),  # the last batch goes into the next epoch
        (100, {"epochs": 0.5, "checkpoint_every_epochs": 0.1}, (25, 5, 0)),
        (100, {"epochs": 2.0, "eval_every_epochs": 0.5}, (100, 50, 25)),
        (100, {"epochs": 2.0, "checkpoint_every_epochs": 0.0}, (100, 100, 0)),
        (100, {"epochs": 2.0, "checkpoint_every_epochs": 1e-6}, (100, 1, 0)),
        (100, {"epochs": 2.0, "steps": 7}, (7, 50, 0)),
        (1, {"epochs": 1.0}, (1, 1, 0)),
    ],
)
def test_steps_of_a_plan(images, train, want):
    plan = load(**{"steps": 0, "batch_size": 2} | train).plan(images)
    assert (plan.total_steps, plan.checkpoint_every, plan.eval_every) == want
    assert not plan.evaluates(0) or plan.eval_every
    assert [plan.evaluates(step) for step in (25, 26)] == [plan.eval_every == 25, False]


def test_the_schedule_counts_updates_and_the_log_batches():
    run = load(accumulate=4, steps=400, learning_rate=1.0, reference_batch=8, batch_size=2)
    plan = run.plan(8)
    schedule, logged = run.schedule(plan), run.schedule_of_batches(plan)
    assert float(schedule(100)) == pytest.approx(0.0, abs=1e-6)  # 400 batches are 100 updates
    assert [float(logged(n)) for n in (0, 3, 4, 200)] == [float(schedule(n)) for n in (0, 0, 1, 50)]


def test_accumulated_batches_make_one_update_at_the_logged_rate():
    plain = spec.bind(optim.sgd, momentum=0.0)
    run = load(accumulate=3, steps=30, clip_norm=None, optimizer=plain)
    plan = run.plan(8)
    params = {"w": jnp.ones(2)}
    update = run.rule(plan)(params)
    step, state = jax.jit(update.update), update.init(params)
    for batch in range(6):
        deltas, state = step({"w": jnp.full(2, 1.0 + batch % 3)}, state, params)
        rate = run.schedule_of_batches(plan)(batch) if batch % 3 == 2 else 0.0
        # The mean gradient is 2, the decay 1e-4 of a parameter that is 1.
        np.testing.assert_allclose(deltas["w"], -rate * (2.0 + 1e-4), rtol=1e-4)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_classes_of_both_splits_are_counted(split):
    run = load()
    run.config.num_classes = 4
    with pytest.raises(ValueError, match=rf"num_classes = 4, but config.data.{split} has 5 class"):
        run.source(split)


def test_a_batch_that_does_not_divide_is_named():
    run = load(batch_size=3, eval_batch_size=5)
    source = run.source("eval")
    devices = jax.device_count()
    with pytest.raises(
        ValueError, match=rf"data.batch_size = 3 does not divide over {devices} dev"
    ):
        run.train_batches(source)
    with pytest.raises(ValueError, match=r"data.eval_batch_size = 5 does not divide"):
        run.eval_batches(source)


def test_images_without_objects_or_too_small_may_be_left_out():
    run = load()
    source = run.source("train")
    assert run.training_images(source) == len(source)
    run.config.data.min_side = 65  # the drawings are 64 x 64
    assert run.training_images(source) == 0
    with pytest.raises(loader.DataError, match="no image to train on"):
        run.train_batches(source)


def test_evaluation_sees_every_image_once():
    run = load(eval_batch_size=2)
    source = run.source("eval")
    ids = np.concatenate([arrays["image_id"] for arrays in run.eval_batches(source)])
    assert sorted(ids[ids >= 0]) == sorted(source.image_ids)
    assert len(ids) == 2 * -(-len(source) // 2)


def test_a_config_that_names_nothing_real_says_so():
    config = importlib.import_module("configs.retinanet").get_config("smoke")
    config.detector.objective.assign = {"bind": "anchors_jax.assign.max_iou:asign"}
    with pytest.raises(spec.SpecError, match="max_iou:asign"):
        experiment.load(config)


def test_what_is_built_is_built_once():
    run = load()
    assert run.data("train") is run.data("train")
    assert run.source("eval") is run.data("eval") is not run.data("train")
    parts = run.detector.parts
    assert run.maps == (parts.maps(run.canvases[0]),)
    anchors = run.anchors(0)
    assert anchors.level_counts == tuple(9 * rows * columns for rows, columns in run.maps[0])
    points = run.anchors(0, grid=parts.anchors.points())
    assert 9 * len(points.boxes) == len(anchors.boxes)
