"""The training step and the loop. Neither knows which method it trains."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jaxtyping import Float

from anchors_jax import files, parallel
from anchors_jax.checkpoints import Checkpoints
from anchors_jax.logs import Logger
from anchors_jax.types import Batch, Detector, Terms


class NonFiniteLossError(RuntimeError):
    """A loss or gradient is infinite or NaN; the message says where, and the batch is on disk."""


@struct.dataclass(kw_only=True)
class TrainState:
    """Everything that changes while training. `average` is the EMA of the parameters, or None."""

    step: Any  # int32 scalar
    variables: Any  # collections; "params" is what the optimiser updates
    optimizer: Any
    average: Any
    key: Any  # key data, because checkpoints hold plain numbers

    def evaluated(self) -> dict[str, Any]:
        """The variables to evaluate with: averaged parameters where there are any."""
        if self.average is None:
            return self.variables
        return {**self.variables, "params": self.average}


def create_state(
    detector: Detector,
    canvas: tuple[int, int],
    rule: Callable[[Any], optax.GradientTransformation],
    *,
    seed: int,
    average: bool,
    start: Callable[[Any], Any] | None = None,
) -> tuple[TrainState, optax.GradientTransformation]:
    """A fresh state on the host, and the update rule made for its parameters.

    `start` makes of random variables those to begin with (pretrained ones).
    """
    init_key, train_key = jax.random.split(jax.random.key(seed))
    variables = detector.init(init_key, canvas)
    if start is not None:
        variables = start(variables)
    update = rule(variables["params"])
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        optimizer=jax.jit(update.init)(variables["params"]),
        average=variables["params"] if average else None,
        key=jax.random.key_data(train_key),
    )
    return jax.tree.map(np.asarray, state), update


def divide(terms: Terms, *, group: int | None = None) -> dict[str, Float[Array, ""]]:
    """Losses of this device whose mean over devices is the loss of the global batch.

    By default each term's sum over all images is divided once by the sum of its counts over all
    devices, so 1, 2 or 8 devices give the same loss and gradients:
    n_devices * total / max(psum(count), 1).

    Args:
      terms: totals and counts, each [B].
      group: divide each run of `group` images by its own count and take the mean of the runs, as
        implementations do that never sum counts over devices (2 in MMDetection and Detectron).

    Raises:
      ValueError: `group` does not divide the images of a device.
    """
    losses = {}
    for name, term in terms.items():
        count = jax.lax.stop_gradient(term.count)
        if group is None:
            share = parallel.psum(jnp.sum(count)) / parallel.psum(1)
            least = 1.0 / parallel.psum(1)
            losses[name] = jnp.sum(term.total) / jnp.maximum(share, least)
        elif term.total.shape[0] % group:
            raise ValueError(
                f"train.normaliser_group = {group} does not divide the {term.total.shape[0]} "
                "images of a device"
            )
        else:
            totals, counts = term.total.reshape(-1, group), count.reshape(-1, group)
            losses[name] = jnp.mean(totals.sum(axis=1) / jnp.maximum(counts.sum(axis=1), 1.0))
    return losses


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    detector: Detector,
    update: optax.GradientTransformation,
    ema_decay: float = 0.0,
    normaliser_group: int | None = None,
) -> tuple[TrainState, dict[str, Array], dict[str, Array]]:
    """One update on one device's share of the batch, inside `parallel.pmap`.

    Returns:
      The new state; scalars for the log, equal on all devices; and each term's total per image
      [B] (to say which image broke a run).
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def objective(params: Any) -> tuple[Array, Any]:
        variables = {**state.variables, "params": params}
        terms, statistics, updates = detector.loss(variables, batch, key, state.step)
        losses = divide(terms, group=normaliser_group)
        return sum(losses.values()), (losses, terms, statistics, updates)

    params = state.variables["params"]
    gradients, (losses, terms, statistics, updates) = jax.grad(objective, has_aux=True)(params)
    gradients, losses = parallel.pmean(gradients), parallel.pmean(losses)
    statistics = parallel.pmean({name: jnp.mean(value) for name, value in statistics.items()})
    deltas, optimizer = update.update(gradients, state.optimizer, params)
    params = optax.apply_updates(params, deltas)
    average = state.average
    if average is not None:
        average = optax.incremental_update(params, average, 1.0 - ema_decay)
    new_state = state.replace(
        step=state.step + 1,
        # Statistics of norms that are not synchronised may differ between devices.
        variables={**state.variables, **parallel.pmean(updates), "params": params},
        optimizer=optimizer,
        average=average,
    )
    scalars = {
        "loss": sum(losses.values()),
        **{f"loss/{name}": value for name, value in losses.items()},
        **{f"per_image/{name}": value for name, value in statistics.items()},
        "gradient_norm": optax.tree.norm(gradients),
    }
    return new_state, scalars, {name: term.total for name, term in terms.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a run is and what happens on the way (all in steps)."""

    total_steps: int
    batch_size: int  # global
    log_every: int
    checkpoint_every: int
    eval_every: int  # 0: only at the end

    def evaluates(self, step: int) -> bool:
        """Whether the run is evaluated after this step (and always after the last)."""
        return self.eval_every > 0 and step % self.eval_every == 0


def fit(
    *,
    state: TrainState,
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array], dict[str, Array]]],
    batches: Any,
    plan: Plan,
    schedule: Callable[[Any], Any],
    checkpoints: Checkpoints,
    evaluate: Callable[[dict[str, Any]], dict[str, float]],
    logger: Logger,
    workdir: pathlib.Path,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[TrainState, dict[str, float]]:
    """Train from the latest checkpoint (or from `state`) to the end of the plan.

    Args:
      state: a fresh state on the host; replaced by the checkpoint's where there is one.
      step_fn: `train_step` with all but (state, batch) filled in.
      batches: an iterator of `Batch` on the host with get_state() and set_state(dict).
      schedule: number of batches before -> learning rate, for the log.
      evaluate: variables on the host -> metrics, with the key "AP".
      on_evaluation: told (step, metrics) after each evaluation, once they are logged and the state
        is saved; what it raises ends the run, which can be continued later.

    Returns:
      The final state on the host and its metrics.

    Raises:
      NonFiniteLossError: a loss or gradient stopped being a number.
    """
    with contextlib.closing(checkpoints):  # what is being written is finished, come what may
        state = resume(state, batches, checkpoints, logger)
        start, metrics = int(state.step), None
        device_state = parallel.replicate(state)
        mapped = parallel.pmap(step_fn, donate=(0,))
        watch = Watch(logger, plan, schedule, workdir, start=start)
        for step in range(start + 1, plan.total_steps + 1):
            batch = watch.wait_for(batches)
            device_state, scalars, totals = mapped(device_state, parallel.shard(batch))
            watch.record(step, scalars, totals, batch)
            evaluating = step == plan.total_steps or plan.evaluates(step)
            if evaluating or step % plan.checkpoint_every == 0:
                watch.settle()  # nothing is saved before its loss is known to be a number
                state = parallel.unreplicate(device_state)
                metrics = evaluate(state.evaluated()) if evaluating else None
                if metrics:
                    logger.scalars(step, {f"eval/{name}": x for name, x in metrics.items()})
                save(state, batches, checkpoints, metrics)
                if metrics and on_evaluation is not None:
                    on_evaluation(step, metrics)
                watch.restart_clock()
        return state, metrics or evaluate(state.evaluated())


def resume(state: TrainState, batches: Any, checkpoints: Checkpoints, logger: Logger) -> TrainState:
    """The latest checkpoint's state, with the loader moved to its position; else `state`."""
    step = checkpoints.latest()
    if step is None:
        return state
    variables, training, loader = checkpoints.restore(
        step, variables=state.evaluated(), training=_only_for_training(state)
    )
    batches.set_state(loader)
    logger.note(f"continuing at step {step} from {checkpoints.folder}")
    average = None
    if state.average is not None:
        average, variables = variables["params"], {**variables, "params": training["params"]}
    return state.replace(
        step=np.asarray(step, np.int32),
        variables=variables,
        optimizer=training["optimizer"],
        average=average,
        key=training["key"],
    )


def save(
    state: TrainState, batches: Any, checkpoints: Checkpoints, metrics: dict[str, float] | None
) -> None:
    """Checkpoint a state that is on the host. `variables` are those that evaluation uses."""
    checkpoints.save(
        int(state.step),
        variables=state.evaluated(),
        training=_only_for_training(state),
        loader=batches.get_state(),
        metrics=metrics,
    )


def _only_for_training(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds beyond the variables to evaluate with."""
    training = {"optimizer": state.optimizer, "key": state.key}
    if state.average is not None:
        training["params"] = state.variables["params"]
    return training


class Watch:
    """Reads the step's results one step late, so that the device never waits for the log."""

    def __init__(
        self,
        logger: Logger,
        plan: Plan,
        schedule: Callable[[Any], Any],
        workdir: pathlib.Path,
        *,
        start: int,
    ) -> None:
        self._logger, self._plan, self._schedule, self._workdir = logger, plan, schedule, workdir
        self._pending: tuple[int, Any, Any, Batch] | None = None
        self._logged = start
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begin a new interval: what came before (evaluation, saving) is not training speed."""
        self._clock, self._waited, self._first = time.perf_counter(), 0.0, self._logged

    def wait_for(self, batches: Any) -> Batch:
        """The next batch; the time it takes to come is counted."""
        begin = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - begin
        return batch

    def record(self, step: int, scalars: Any, totals: Any, batch: Batch) -> None:
        """Take this step's results (still being computed) and read those of the step before."""
        self.settle()
        self._pending = (step, scalars, totals, batch)

    def settle(self) -> None:
        """Wait for the pending step, check that it is finite, and log it."""
        if self._pending is None:
            return
        step, scalars, totals, batch = self._pending
        self._pending = None
        scalars = {name: float(value) for name, value in parallel.unreplicate(scalars).items()}
        if not np.isfinite([scalars["loss"], scalars["gradient_norm"]]).all():
            self._stop(step, scalars, totals, batch)
        done = step - self._first
        elapsed = time.perf_counter() - self._clock
        if step % self._plan.log_every == 0 or step == self._plan.total_steps:
            scalars["lr"] = float(self._schedule(step - 1))
            scalars["images_per_second"] = done * self._plan.batch_size / elapsed
            scalars["seconds_waiting"] = self._waited
            self._logger.scalars(step, {f"train/{k}": v for k, v in scalars.items()})
            self._logged = step
        shown = {"loss": scalars["loss"], "wait": f"{self._waited / elapsed:.0%}"}
        self._logger.progress(
            step, self._plan.total_steps, shown, images_per_step=self._plan.batch_size
        )

    def _stop(self, step: int, scalars: dict[str, float], totals: Any, batch: Batch) -> None:
        broken = [
            name
            for name, value in scalars.items()
            if name.startswith(("loss/", "gradient")) and not np.isfinite(value)
        ]
        finite = np.isfinite(np.stack(list(parallel.unshard(totals).values()))).all(axis=0)
        ids = np.asarray(batch.image_id)
        ids = ids[~finite] if not finite.all() else ids
        path = self._workdir / f"nonfinite_step_{step}_host_{parallel.process()[0]}.npz"
        with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, step=step, **_flat(batch))
        raise NonFiniteLossError(
            f"step {step}: {', '.join(broken)} is not finite for image ids {ids.tolist()}; "
            f"the batch is saved in {path}. Lower train.learning_rate or set train.clip_norm."
        )


def _flat(batch: Batch) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(batch)
    return {jax.tree_util.keystr(path).strip("."): np.asarray(leaf) for path, leaf in leaves}


def bound_step(
    detector: Detector,
    update: optax.GradientTransformation,
    *,
    ema_decay: float,
    normaliser_group: int | None,
) -> Callable[[TrainState, Batch], Any]:
    """`train_step` waiting only for (state, batch)."""
    return functools.partial(
        train_step,
        detector=detector,
        update=update,
        ema_decay=ema_decay,
        normaliser_group=normaliser_group,
    )
