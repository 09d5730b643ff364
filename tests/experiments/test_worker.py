"""Workers that share a study: nothing is done twice, nothing is lost."""

import collections
import contextlib
import os
import pathlib
import threading
import time

import optuna
import processes
import pytest
import sweep_child
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from experiments.sweeping import space, study, worker

CHILD = pathlib.Path(sweep_child.__file__)
# Seconds: a machine that is busy with other tests must not look dead.
PATIENT = 8
FINITE = "a=choice:0.1|0.2|0.3,b=choice:1|2"


def opened(folder, *, name="s", **more):
    settings = {"directions": ("maximize",), "record": {}, "sampler": "random"} | more
    return study.open_study(f"sqlite:///{folder}/study.db", name, heartbeat=PATIENT, **settings)


def run(target, words, objective, *, trials, **more):
    more = {"heartbeat": PATIENT, "say": lambda text: None} | more
    return worker.Worker(target, space.parse(words), objective, trials=trials, **more).work()


def closeness(params, report):
    return (-abs(float(params["a"]) - 0.3) - abs(float(params["b"]) - 1),)


def states(target):
    return collections.Counter(trial.state.name for trial in target.get_trials())


def done(target):
    return [t for t in target.get_trials() if t.state == TrialState.COMPLETE]


def points(trials):
    return {worker.identity(t.params) for t in trials}


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_a_finite_space_is_tried_once_and_whole(tmp_path, sampler):
    target = opened(tmp_path, sampler=sampler)
    axes = space.grid(space.parse(FINITE), points=5) if sampler == "grid" else None
    assert run(target, FINITE, closeness, trials=50, grid=axes) == 6
    assert len(points(done(target))) == len(done(target)) == 6
    assert target.best_trial.params == {"a": "0.3", "b": "1"}
    assert run(target, FINITE, closeness, trials=50, grid=axes) == 0  # the same command ends
    if sampler == "grid":
        assert states(target) == {"COMPLETE": 6}


def test_a_study_is_continued_up_to_the_number_of_trials(tmp_path):
    ranges = "a=float:0:1,b=log:0.1:10"
    for trials, want in ((3, 3), (3, 0), (5, 2)):
        assert run(opened(tmp_path, seed=7), ranges, closeness, trials=trials) == want
    assert len(points(done(opened(tmp_path)))) == 5


def test_threads_that_choose_at_the_same_time_never_repeat(tmp_path):
    ranges = "a=choice:1|2|3|4|5|6|7|8,b=choice:1"
    together = threading.Barrier(3, timeout=120)

    def work():
        target = opened(tmp_path)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        run(target, ranges, closeness, trials=8, lock=tmp_path / "lock")

    opened(tmp_path)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(points(done(opened(tmp_path)))) == len(done(opened(tmp_path))) == 8


def test_a_trial_waits_for_those_before_it_to_choose(tmp_path):
    """The second of two equal trials steps aside, even if it was the first to choose."""
    target, either = opened(tmp_path), {"a": CategoricalDistribution(["1", "2"])}
    running = {"state": TrialState.RUNNING}
    target.add_trial(optuna.create_trial(**running))  # has not chosen yet
    chosen = {"params": {"a": "2"}, "distributions": either, "user_attrs": {worker.CHOSEN: 1}}
    target.add_trial(optuna.create_trial(**running, **chosen))
    one = worker.Worker(target, space.parse("a=choice:1|2"), closeness, trials=2, heartbeat=20)
    outcome = []

    def check():
        try:
            one._step_aside(1)
            outcome.append("accepted")
        except worker._SteppedAsideError:
            outcome.append("stepped aside")

    thread = threading.Thread(target=check)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    storage, first = target._storage, target.get_trials()[0]._trial_id
    storage.set_trial_param(first, "a", 1.0, either["a"])  # the second choice
    storage.set_trial_user_attr(first, worker.CHOSEN, 0)
    thread.join(120)
    assert outcome == ["stepped aside"]


def test_interrupted_by_hand_it_is_queued_with_its_values(tmp_path):
    calls = []

    def interrupted(params, report):
        calls.append(params)
        report(1, 0.5)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return (1.0,)

    words = "a=float:0:1"
    with pytest.raises(KeyboardInterrupt):
        run(opened(tmp_path), words, interrupted, trials=3)
    assert states(opened(tmp_path)) == {"COMPLETE": 1, "FAIL": 1, "WAITING": 1}
    assert run(opened(tmp_path), words, interrupted, trials=3) == 2
    assert calls[2] == calls[1]
    assert states(opened(tmp_path)) == {"COMPLETE": 3, "FAIL": 1}


def test_a_failing_trial_is_noted_and_not_repeated(tmp_path):
    def picky(params, report):
        if params["a"] == "2":
            raise ValueError("two is\n too much")
        return (0.0,)

    target, ended = opened(tmp_path), []
    assert run(target, "a=choice:1|2|3", picky, trials=3, after=ended.append) == 3
    (failed,) = [t for t in ended if t.state == TrialState.FAIL]
    assert failed.user_attrs[worker.ERROR] == "two is too much"
    assert "in picky" in failed.user_attrs["traceback"]
    assert run(target, "a=choice:1|2|3", picky, trials=3) == 0


def test_when_everything_fails_the_worker_stops(tmp_path):
    def broken(params, report):
        raise OSError("disk full")

    with pytest.raises(worker.StudyError, match="3 trials in a row failed: disk full"):
        run(opened(tmp_path), "a=float:0:1", broken, trials=9)


def test_bad_trials_are_cut_at_the_median(tmp_path):
    def learning(params, report):
        for step in (1, 2, 3):
            report(step, float(params["a"]) * step)
        return (float(params["a"]) * 3,)

    target = opened(tmp_path, pruner="median", seed=0)
    assert run(target, "a=float:0:1", learning, trials=20) == 20
    cut = [t for t in target.get_trials() if t.state == TrialState.PRUNED]
    assert len(cut) >= 3
    assert max(t.params["a"] for t in cut) < target.best_trial.params["a"]
    assert all(t.number >= 5 for t in cut)  # the first five show what is usual


def test_two_objectives_have_a_front(tmp_path):
    def both(params, report):
        return float(params["a"]), float(params["a"]) ** 2 + params["b"]

    target = opened(tmp_path, directions=("maximize", "minimize"), sampler="nsga2")
    assert run(target, "a=float:0:1,b=float:0:1", both, trials=12) == 12
    assert 1 <= len(target.best_trials) <= 12


def test_a_study_about_something_else_is_refused(tmp_path):
    opened(tmp_path, record={"space": {"a": "float:0:1"}})
    opened(tmp_path, record={"space": {"a": "float:0:1"}})
    with pytest.raises(worker.StudyError, match="'s' is about another space"):
        opened(tmp_path, record={"space": {"a": "float:0:2"}})


def test_a_data_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(worker.StudyError, match=r"cannot be used: .*unable to open"):
        opened(tmp_path / "no" / "such")
    with pytest.raises(worker.StudyError) as caught:
        study.open_study("nosuchdb://me:secret@h/d", "s", directions=("maximize",), record={})
    assert "secret" not in str(caught.value)
    assert "me:***@h/d" in str(caught.value)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A data base for a study that does not exist there yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db", "s"
    address = os.environ.get("ANCHORS_POSTGRESQL_URL")
    if address is None:
        pytest.skip("set ANCHORS_POSTGRESQL_URL to an empty data base that may be written to")
    return address, f"s{time.time_ns()}"


def test_a_killed_worker_loses_no_trial(tmp_path, url):
    """kill -9 in the middle of a trial: the next worker does it again with the same values."""
    log = tmp_path / "log"
    log.touch()

    def words(seconds):
        return (CHILD, *url, log, 3, seconds, "a=float:0:1,b=float:0:1")

    def events():
        return [line.split() for line in log.read_text().splitlines()]

    paths = (str(processes.REPOSITORY), str(CHILD.parent), os.environ.get("PYTHONPATH"))
    env = processes.environment(PYTHONPATH=os.pathsep.join(filter(None, paths)))
    with processes.started(*words(60), env=env) as child:
        deadline = time.monotonic() + 300
        while not events():
            assert child.process.poll() is None, child.output()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    ((_, _, killed),) = events()
    said = processes.output_of(*words(0), env=env, timeout=300)
    ended = [key for _, what, key in events() if what == "end"]
    assert killed in ended, said
    assert len(ended) == len(set(ended)) == 3
