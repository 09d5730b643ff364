"""Many workers on one study: no trial is done twice, and none is lost with its worker.

Optuna's storage numbers trials one after another and is all that workers share. A worker writes
down what its trial would try and then looks at the trials with lower numbers, waiting for those
that have not chosen yet: if one of them has the same values, it steps aside. So of two equal trials
exactly the first is done, however workers are timed. Workers give a sign of life ("heartbeat"); a
trial whose worker fell silent is given to the next one that asks. SQLite, which knows no row locks,
would give one queued trial to two workers that ask at once, so they ask one after another.
"""

import contextlib
import fcntl
import json
import pathlib
import random
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from experiments.sweeping import space as spaces
from experiments.sweeping.space import Space

# User attributes of a trial: why it failed; its number, once it has chosen what to try.
ERROR, CHOSEN = "error", "chosen"
PATIENCE = 100  # attempts in a row that chose nothing new
ERRORS = 3  # trials in a row that failed: the fault lies elsewhere


class StudyError(RuntimeError):
    """The study cannot be opened or continued."""


class Objective(Protocol):
    """What a trial is worth: one number per objective. `report(step, value)` may end it early."""

    def __call__(
        self, params: dict[str, Any], report: Callable[[int, float], None]
    ) -> tuple[float, ...]: ...


class _SteppedAsideError(Exception):
    """Another trial has the same values, or there are enough."""


class _FailedError(Exception):
    """The objective raised; the trial says what."""


class Worker:
    """Does trials of a study until there are enough.

    Args:
      study: from `open_study`.
      space: what each key may be.
      objective: does a trial.
      trials: how many different ones the study should have in the end, of all workers together.
      heartbeat: that of `open_study`.
      lock: a file that workers hold while they ask for a trial; see `study.lock_of`.
      grid: values of each key to try one after another instead of what the sampler says.
      after: called with each trial that this worker has ended.
      say: takes a line of text.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        objective: Objective,
        *,
        trials: int,
        heartbeat: float = 10,
        lock: pathlib.Path | None = None,
        grid: Mapping[str, list[Any]] | None = None,
        after: Callable[[FrozenTrial], None] = lambda trial: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._study, self._space, self._objective = study, space, objective
        self._after, self._say = after, say
        self._interval, self._grace, self._lock = heartbeat, 3 * heartbeat, lock
        axes = grid or (spaces.grid(space, points=0) if spaces.size(space) else None)
        self._points = spaces.product(axes) if axes else []  # of a space that can be counted
        self._by_points = grid is not None
        self._trials = min(trials, len(self._points)) if self._points else trials
        self._silent: dict[int, float] = {}  # trial -> when it was first seen without a choice

    def work(self) -> int:
        """Do trials until the study has enough; returns how many this worker has done.

        Raises:
          StudyError: trials fail one after another, nothing new is found, or the data base fails.
        """
        done = aside = failed = 0
        while self._wait_for_work():
            trial = self._one(propose=self._by_points or aside > 0)
            aside = aside + 1 if trial is None else 0
            if aside >= PATIENCE:
                raise StudyError(f"{PATIENCE} attempts found nothing that had not been tried")
            if trial is None:
                continue
            done += 1
            self._after(trial)
            failed = failed + 1 if trial.state == TrialState.FAIL else 0
            if failed >= ERRORS:
                raise StudyError(f"{ERRORS} trials in a row failed: {trial.user_attrs[ERROR]}")
        return done

    def _wait_for_work(self) -> bool:
        """Whether there is a trial to do; waits until those of dead workers are known as such."""
        deadline = time.monotonic() + self._grace + self._interval
        while True:
            self._revive()
            trials = self._study.get_trials(deepcopy=False)
            if any(map(_waits, trials)) or sum(map(counts, trials)) < self._trials:
                return True
            running = [t.number for t in trials if t.state == TrialState.RUNNING]
            if running and time.monotonic() > deadline:
                self._say(f"other workers are still at trial {', '.join(map(str, running))}")
            if not running or time.monotonic() > deadline:
                return False
            time.sleep(self._interval / 4)

    def _one(self, *, propose: bool) -> FrozenTrial | None:
        """Ask for a trial and do it; None if it stepped aside."""
        if propose and self._points:
            self._propose()
        numbers: list[int] = []
        asking = contextlib.ExitStack()

        def objective(trial: optuna.Trial) -> tuple[float, ...]:
            asking.close()
            numbers.append(trial.number)
            return self._do(trial)

        expected = (_SteppedAsideError, _FailedError)
        try:
            with asking:
                if self._lock is not None:
                    fcntl.flock(asking.enter_context(self._lock.open("a")), fcntl.LOCK_EX)
                self._study.optimize(objective, n_trials=1, catch=expected)
        except Exception as error:
            # Only the storage raises here, also when it has given the trial to another worker.
            raise StudyError(f"trial {numbers}: {' '.join(str(error).split())}") from error
        except BaseException:  # stopped by hand: whoever comes next continues
            for number in numbers:
                again(self._study, self._trial(number))
            raise
        trial = self._trial(numbers[0])
        return trial if counts(trial) else None

    def _do(self, trial: optuna.Trial) -> tuple[float, ...]:
        params = {key: _suggest(trial, key, d) for key, d in self._space.items()}
        trial.set_user_attr(CHOSEN, trial.number)
        self._step_aside(trial.number)

        known = self._trial(trial.number).intermediate_values  # of a trial that was cut short

        def report(step: int, value: float) -> None:
            if step not in known:
                trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        self._say(f"trial {trial.number}: {describe(params)}")
        try:
            return self._objective(params, report)
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            trial.set_user_attr("traceback", traceback.format_exc())
            trial.set_user_attr(ERROR, reason)
            raise _FailedError from error

    def _step_aside(self, number: int) -> None:
        """Raise unless the trial is new among those before it, once all of those have chosen."""
        deadline = time.monotonic() + self._grace
        while True:
            trials = self._study.get_trials(deepcopy=False)
            before = [t for t in trials[:number] if counts(t) or _waits(t)]
            choosing = [t for t in before if not _waits(t) and not _has_chosen(t)]
            if not choosing or time.monotonic() > deadline:  # it died while choosing
                break
            time.sleep(0.05)
        tried = {identity(_values(t)) for t in before if t not in choosing}
        if identity(_values(trials[number])) in tried or len(tried) >= self._trials:
            raise _SteppedAsideError

    def _propose(self) -> None:
        """Queue a point that nobody has tried, unless something is queued."""
        trials = self._study.get_trials(deepcopy=False)
        if any(map(_waits, trials)):
            return
        tried = {identity(_values(t)) for t in trials if counts(t)}
        fresh = [point for point in self._points if identity(point) not in tried]
        if fresh:
            self._study.enqueue_trial(random.choice(fresh))

    def _revive(self) -> None:
        """Queue again what a silent worker held, also one that died before its first sign."""
        optuna.storages.fail_stale_trials(self._study)
        now = time.monotonic()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _has_chosen(trial):
                self._silent.pop(trial.number, None)
            elif now - self._silent.setdefault(trial.number, now) > self._grace:
                with contextlib.suppress(ValueError, UpdateFinishedTrialError):
                    self._study.tell(trial.number, state=TrialState.FAIL)
                    again(self._study, trial)

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial was or is being done, rather than given up for an equal or a later one."""
    if trial.state == TrialState.FAIL:
        return ERROR in trial.user_attrs
    return trial.state != TrialState.WAITING


def again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial that was cut short, with what it had chosen and reported."""
    if CHOSEN in trial.user_attrs and ERROR not in trial.user_attrs:
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        retry(study, trial)


def identity(params: Mapping[str, Any]) -> str:
    """Equal for equal values: what tells trials apart."""
    rounded = {k: float(f"{v:.12g}") if isinstance(v, float) else v for k, v in params.items()}
    return json.dumps(rounded, sort_keys=True)


def describe(params: Mapping[str, Any]) -> str:
    """Values in a few words: the last part of each key."""
    words = {key: f"{v:.4g}" if isinstance(v, float) else str(v) for key, v in params.items()}
    return "  ".join(f"{key.rpartition('.')[2]} {word}" for key, word in words.items())


def _waits(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.WAITING


def _has_chosen(trial: FrozenTrial) -> bool:
    # A retried trial inherits the attribute of the one before: it has another number.
    return trial.state.is_finished() or trial.user_attrs.get(CHOSEN) == trial.number


def _values(trial: FrozenTrial) -> dict[str, Any]:
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    d = distribution
    if isinstance(d, IntDistribution):
        return trial.suggest_int(key, d.low, d.high, step=d.step)
    return trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)
