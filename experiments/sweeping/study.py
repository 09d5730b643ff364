"""An Optuna study in a data base: SQLite in a file, or PostgreSQL for many machines."""

import pathlib
import random
import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning

from experiments.sweeping import worker
from experiments.sweeping.worker import StudyError


def _tpe(*, seed: int | None, trials: int) -> optuna.samplers.BaseSampler:
    startup = min(10, max(1, trials // 3))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def _nsga2(*, seed: int | None, trials: int) -> optuna.samplers.BaseSampler:
    population = max(4, min(50, trials // 4))
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)


def _random(*, seed: int | None, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


# A grid proposes its points itself (`Worker`).
SAMPLERS = {"tpe": _tpe, "random": _random, "grid": _random, "nsga2": _nsga2}
PRUNERS = {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}


def open_study(
    url: str,
    name: str,
    *,
    directions: tuple[str, ...],
    record: Mapping[str, Any],
    sampler: str = "tpe",
    pruner: str = "none",
    trials: int = 20,
    heartbeat: int = 10,
    seed: int | None = None,
) -> optuna.Study:
    """The study `name` in the data base at `url`, made if it does not exist.

    Args:
      url: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE.
      directions: "maximize" or "minimize" for each objective.
      record: what the study is about, as JSON; one that exists must be about the same.
      trials: how many are planned (TPE looks around at random for the first third, at most 10).
      heartbeat: seconds between signs of life; three times as long without one is death.
      seed: of the sampler; None draws one. Workers of one study need different ones.

    Raises:
      StudyError: no such data base, or the study is about something else.
    """
    warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, retries
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = f"--storage={_without_password(url)}"
    try:
        study = _connect(url, name, directions=directions, heartbeat=heartbeat)
    except ImportError as error:
        hint = 'pip install "psycopg[binary]"' if url.startswith("postgresql") else str(error)
        raise StudyError(f"{where} needs a driver: {hint}") from error
    except Exception as error:  # each data base has errors of its own
        raise StudyError(f"{where} cannot be used: {str(error).strip().splitlines()[0]}") from error
    # A study that is continued goes on elsewhere in the random numbers.
    seed = None if seed is None else seed + len(study.get_trials(deepcopy=False))
    study.sampler = SAMPLERS[sampler](seed=seed, trials=trials)
    study.pruner = PRUNERS[pruner]()
    for key, value in record.items():
        before = study.user_attrs.get(key)
        if before is None:
            study.set_user_attr(key, value)
        elif before != value:
            raise StudyError(f"study {name!r} is about another {key}; choose another --study")
    return study


def lock_of(url: str) -> pathlib.Path | None:
    """The lock of a study in an SQLite file, beside it; other data bases lock for themselves."""
    scheme, _, path = url.partition(":///")
    return pathlib.Path(f"{path}.lock") if scheme == "sqlite" else None


def _connect(
    url: str, name: str, *, directions: tuple[str, ...], heartbeat: int, attempts: int = 5
) -> optuna.Study:
    """Open or make the tables and the study; workers that start together may race for that."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    while True:
        try:
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True, **options},
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=worker.again,
            )
            return optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True
            )
        except Exception as error:
            raced = "already exists" in str(error) or "duplicate key" in str(error)
            attempts -= 1
            if not raced or not attempts:
                raise
            time.sleep(random.uniform(0.2, 1.0))


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
