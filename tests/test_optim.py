import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchors_jax import optim

PARAMS = {
    "conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
}


def test_step_decay_by_hand():
    schedule = optim.step_decay(0.01, 120, warmup_steps=10, warmup_factor=0.001)
    # 0: 0.001 * lr; half of the warm-up: midway; decay after 8/12 and 11/12 of 120 steps.
    for step, want in [(0, 1e-5), (5, 5.005e-3), (10, 0.01), (79, 0.01), (81, 1e-3), (111, 1e-4)]:
        assert float(schedule(step)) == pytest.approx(want, rel=1e-5)


def test_constant_warm_up():
    schedule = optim.step_decay(
        0.01, 90, milestones=(2 / 3,), warmup_steps=10, warmup_factor=1 / 3, warmup="constant"
    )
    for step, want in [(0, 0.01 / 3), (9, 0.01 / 3), (10, 0.01), (61, 1e-3)]:
        assert float(schedule(step)) == pytest.approx(want, rel=1e-5)


def test_biases_may_learn_faster():
    rule = functools.partial(optim.sgd, weight_decay=0.0, bias_factor=2.0)
    update = optim.create(PARAMS, rule=rule, schedule=lambda step: 0.5)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    deltas, _ = update.update(gradients, update.init(PARAMS), PARAMS)
    assert jax.tree.map(lambda x: float(x.ravel()[0]), deltas) == {
        "conv": {"kernel": -0.5, "bias": -1.0}, "norm": {"scale": -0.5, "bias": -1.0},
    }  # fmt: skip


def test_cosine_by_hand():
    schedule = optim.cosine(1.0, 100, final_factor=0.1, warmup_steps=0)
    for step, want in [(0, 1.0), (50, 0.55), (100, 0.1)]:
        assert float(schedule(step)) == pytest.approx(want, rel=1e-5)


def test_decay_mask_tells_norms_from_biases():
    mask = optim.decay_mask(PARAMS, decay_biases=False)
    assert mask == {
        "conv": {"kernel": True, "bias": False}, "norm": {"scale": True, "bias": True},
    }  # fmt: skip
    mask = optim.decay_mask(PARAMS, decay_norms=False)
    assert mask == {
        "conv": {"kernel": True, "bias": True}, "norm": {"scale": False, "bias": False},
    }  # fmt: skip


def test_sgd_is_pytorchs():
    update = optim.create(
        PARAMS,
        rule=functools.partial(optim.sgd, momentum=0.9, weight_decay=0.1),
        schedule=lambda step: 0.5,
    )
    state, params = update.init(PARAMS), PARAMS
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 2.0), PARAMS)
    value, velocity = 1.0, 0.0
    for _ in range(3):
        deltas, state = update.update(gradients, state, params)
        params = optax.apply_updates(params, deltas)
        velocity = 0.9 * velocity + (2.0 + 0.1 * value)
        value -= 0.5 * velocity
        np.testing.assert_allclose(params["conv"]["kernel"], np.full((2, 2), value), rtol=1e-6)


def test_clipping_and_accumulation():
    rule = functools.partial(optim.sgd, momentum=0.0, weight_decay=0.0)
    update = optim.create(PARAMS, rule=rule, schedule=lambda step: 1.0, clip_norm=1.0, accumulate=2)
    state = update.init(PARAMS)
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 3.0), PARAMS)
    first, state = update.update(gradients, state, PARAMS)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(first))
    second, state = update.update(gradients, state, PARAMS)
    assert float(optax.tree.norm(second)) == pytest.approx(1.0, rel=1e-5)
