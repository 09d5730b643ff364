"""The runner: what it plans, prints, runs and leaves alone. Trainings are stand-ins."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from anchors_jax import results, spec
from experiments import rows, run
from experiments.runner import execute, launch, plan, record, show

FAKE = pathlib.Path(__file__).with_name("fake_run.py")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Trainings that end at once; `fake[row]` = (seconds, status) makes a row slow or fail."""
    behaviour = {}

    def words(of, extra=()):
        config = tmp_path / f"{of.name.replace('/', '-')}.json"
        config.write_text(json.dumps(results.without_folders(spec.plain(of.owner.config()))))
        seconds, status = behaviour.get(of.owner.row.key, (0, 0))
        return ["python", str(FAKE), str(of.workdir), str(config), str(seconds), str(status)]

    monkeypatch.setattr(launch, "train_words", words)
    return behaviour


def cells_of(tmp_path, *, paper="semi_anchored", tables=("3",), only=(), seeds=1, scale="smoke"):
    found, _ = plan.select(
        rows.load(paper), tables=tables, only=only, scale=scale, seeds=seeds, folder=tmp_path / "e"
    )
    return found


def work(runs, *, jobs=1):
    said = []
    runner = execute.Runner(runs, environments=[{}] * jobs, say=said.append)
    return runner.work(), said


def started(run):
    """How many times a run's training was started."""
    file = run.workdir / "started"
    return len(file.read_text()) if file.exists() else 0


def test_runs_each_training_once_and_writes_one_file_per_row_and_seed(fake, tmp_path):
    cells = cells_of(tmp_path, tables=("3", "4"), seeds=2)
    runs = plan.group(cells, tmp_path / "runs")
    assert len(cells) == 2 * (3 + 4)
    assert len(runs) == 2 * (3 + 3)  # labels by anchors are Eqn 4
    failures, said = work(runs, jobs=4)
    assert not failures
    assert [started(one) for one in runs] == [1] * len(runs)
    for cell in cells:
        result = json.loads(cell.file.read_text())
        assert set(rows.RESULT_KEYS) <= result.keys()
        assert (result["table"], result["row"]) == (cell.table.key, cell.row.key)
        assert result["metrics"]["AP"] == 0.5
        assert plan.state(cell) == "done"
    assert sum(line.startswith("[") for line in said) == len(runs)
    # Once more: there is nothing to do.
    assert not any(one.missing() for one in runs)
    work(runs)
    assert [started(one) for one in runs] == [1] * len(runs)


def test_a_failure_does_not_stop_the_others_and_is_named(fake, tmp_path):
    fake["fcos"] = (0, 3)
    runs = plan.group(cells_of(tmp_path), tmp_path / "runs")
    failures, said = work(runs)
    assert [(f.cell.row.key, f.reason.split(" (")[0]) for f in failures] == [
        ("fcos", "out of luck")
    ]
    assert [cell.row.key for one in runs for cell in one.missing()] == ["fcos"]
    assert any("FAILED: out of luck (exit 3" in line for line in said)
    del fake["fcos"]
    assert not work(runs)[0]
    assert not any(one.missing() for one in runs)


def test_the_exit_status_says_whether_rows_failed(fake, tmp_path, capsys):
    where = [f"--workdir={tmp_path}/runs", f"--results={tmp_path}/e", "--scale=smoke"]
    fake["fcos"] = (0, 1)
    assert run.main(["semi_anchored", "3", *where]) == 1
    seen = capsys.readouterr()
    assert "error: semi_anchored/3/fcos seed 0: out of luck" in seen.err
    assert "0 results are there, 3 to make in 3 runs" in seen.out
    fake.clear()
    assert run.main(["semi_anchored", "3", *where]) == 0
    assert "2 results are there, 1 to make in 1 runs" in capsys.readouterr().out


def test_a_result_of_another_config_is_stale_and_made_again(fake, tmp_path):
    runs = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "runs")
    work(runs)
    (cell,) = runs[0].cells
    result = json.loads(cell.file.read_text())
    result["full_config"]["detector"]["objective"]["sigma"] = 0.5
    result["full_config"]["train"]["log_every"] = 77  # of no consequence
    del result["full_config"]["detector"]["objective"]["choose"]["top_k"]  # before it was a keyword
    cell.file.write_text(json.dumps(result))
    assert plan.state(cell) == "stale: detector.objective.choose.top_k, detector.objective.sigma"
    work(runs)
    assert plan.state(cell) == "done"
    cell.file.write_text("{")
    assert plan.state(cell).startswith("stale")


def test_a_work_directory_of_another_config_is_not_taken_for_a_result(fake, tmp_path):
    runs = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "runs")
    work(runs)
    file = runs[0].workdir / "result.json"
    result = json.loads(file.read_text())
    result["full_config"]["detector"]["objective"]["sigma"] = 0.5
    file.write_text(json.dumps(result))
    runs[0].cells[0].file.unlink()
    failures, _ = work(runs)
    assert "holds a run with another config (detector.objective.sigma)" in failures[0].reason
    assert runs[0].missing()


def test_a_shared_result_is_taken_from_the_row_that_trained(fake, tmp_path):
    work(plan.group(cells_of(tmp_path, tables=("1",), only=("s5a5",)), tmp_path / "runs"))
    elsewhere = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "other_machine")
    assert not work(elsewhere)[0]
    assert started(elsewhere[0]) == 0
    result = json.loads(elsewhere[0].cells[0].file.read_text())
    assert (result["table"], result["row"]) == ("3", "anchors")
    assert result["run"] == "semi_anchored/1/s5a5"


def test_rows_of_inference_are_evaluations_of_the_training_they_name(fake, tmp_path, monkeypatch):
    def evaluate(cell, run, extra=()):
        text = json.dumps({"AP": 0.25, "curves": []})
        folder = launch.evaluation_folder(cell, run)
        code = (
            "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.mkdir(); "
            "(f / 'eval.json').write_text(sys.argv[2])"
        )
        return ["python", "-c", code, str(folder), text]

    monkeypatch.setattr(launch, "eval_words", evaluate)
    runs = plan.group(cells_of(tmp_path, tables=("6",), only=("pos01",)), tmp_path / "runs")
    assert [one.name for one in runs] == ["semi_anchored/1/s5a5"]
    assert not work(runs)[0]
    assert started(runs[0]) == 1
    result = json.loads(runs[0].cells[0].file.read_text())
    assert result["metrics"] == {"AP": 0.25}
    assert result["checkpoint_of"] == "top1"
    assert result["seconds"] is None
    assert result["full_config"]["detector"]["objective"]["choose"]["min_score"] == 0.1
    assert result["overrides"]["detector.objective.choose.top_k"] == 25


def test_a_second_runner_waits_for_what_the_first_one_left_running(fake, tmp_path):
    fake["anchors"] = fake["s5a5"] = (1.5, 0)
    (one,) = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "runs")
    # What a killed runner leaves: its child, which holds the lock.
    with execute.locked(one.workdir, print, threading.Event()) as lock:
        words = launch.train_words(one)
        child = subprocess.Popen([sys.executable, *words[1:]], pass_fds=(lock,))
    failures, said = work([one])
    assert child.wait() == 0
    assert not failures
    assert started(one) == 1
    assert any("waiting for another process" in line for line in said)
    assert plan.state(one.cells[0]) == "done"


def interrupted_after(seconds, runner):
    """Run it and press Ctrl-C."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(KeyboardInterrupt):
            runner.work()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_sigterm_ends_the_processes(fake, tmp_path):
    fake["anchors"] = fake["s5a5"] = (600, 0)
    (one,) = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "runs")
    interrupted_after(1.0, execute.Runner([one], environments=[{}]))

    def lives(_):
        pytest.fail("the process lives")

    with execute.locked(one.workdir, lives, threading.Event()):
        pass


def test_a_runner_that_is_stopped_while_it_waits_starts_nothing(fake, tmp_path):
    fake["anchors"] = fake["s5a5"] = (600, 0)
    (one,) = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "runs")
    with execute.locked(one.workdir, print, threading.Event()):
        interrupted_after(1.0, execute.Runner([one], environments=[{}]))
    assert not started(one)


def test_shards_share_the_work_without_overlap(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "dry_run", lambda paper, runs, *_: seen.append(runs))
    for index in range(3):
        words = ["semi_anchored", "--scale=bench", "--dry-run", f"--shard={index}/3"]
        assert run.main([*words, "--seeds=2"]) == 0
    names = [f"{one.workdir}" for part in seen for one in part]
    whole = plan.group(
        plan.select(rows.load("semi_anchored"), tables=(), only=(), scale="bench", seeds=2)[0],
        pathlib.Path("runs"),
    )
    assert sorted(names) == sorted(f"{one.workdir}" for one in whole)
    sizes = [len(part) for part in seen]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("paper", rows.PAPERS)
def test_a_dry_run_at_paper_scale_says_everything(paper, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(show, "forward_flops", lambda model, canvas: 1e9)
    where = [f"--workdir={tmp_path}", f"--results={tmp_path}"]
    assert run.main([paper, "--scale=paper", "--seeds=2", "--dry-run", *where]) == 0
    text = capsys.readouterr().out
    cells, left_out = plan.select(rows.load(paper), tables=(), only=(), scale="paper", seeds=2)
    for cell in cells:
        assert f"\n  {cell.row.key}: {cell.row.label}" in text
    assert text.count("    data     ") == len(cells) / 2
    assert text.count("    cost     ") == len(cells) / 2
    assert text.count("    exists   seed 0 missing, seed 1 missing") == len(cells) / 2
    assert text.count("python -m anchors_jax ") >= len(cells) / 2
    for name, reason in left_out:
        assert f"not run: {name}: {reason}" in text


def test_a_dry_run_at_bench_scale_counts_operations(capsys, tmp_path):
    where = [f"--workdir={tmp_path}", f"--results={tmp_path}", "--scale=bench", "--dry-run"]
    assert run.main(["semi_anchored", "6", *where, "--rows=top1,top2"]) == 0
    text = capsys.readouterr().out
    assert "1250 steps of 8, 0.5 GFLOPs per image of 128x128, about 0.01" in text
    assert "evaluation only" in text
    assert "shared   with semi_anchored/1/s5a5" in text
    assert "differs  detector.objective.choose.top_k: 1 -> 2" in text


def test_a_dry_run_looks_for_data_where_the_command_line_says(capsys, tmp_path):
    """Drawn data have no root: the word is for those that do."""
    where = [f"--workdir={tmp_path}", f"--results={tmp_path}", f"--config.data.root={tmp_path}"]
    assert run.main(["assignment", "--rows=atss", "--dry-run", *where]) == 0
    text = capsys.readouterr().out
    assert f"data     voc {tmp_path} (there)" in text
    assert "data     shapes, 2000 + 300 drawings" in text


@pytest.mark.slow
@pytest.mark.parametrize("paper", rows.PAPERS)
def test_operations_are_counted_at_paper_scale(paper, capsys, tmp_path):
    where = [f"--workdir={tmp_path}", f"--results={tmp_path}", "--scale=paper", "--dry-run"]
    assert run.main([paper, *where]) == 0
    text = capsys.readouterr().out
    assert " nan" not in text
    assert "PFLOPs in all" in text or paper == "assignment"


def test_the_printed_command_names_the_config_that_is_meant(tmp_path):
    from anchors_jax import options

    (one,) = plan.group(cells_of(tmp_path, only=("fcos_shrink",), scale="bench"), tmp_path)
    words = launch.train_words(one, ["--config.data.train.cache_dir=/x", "--config.data.root=/y"])
    assert words[:4] == ["python", "-m", "anchors_jax", "train"]
    assert "--config.data.root=/y" not in words  # drawn data have no root
    parsed = options.parse(words[4:])
    assert parsed.config.data.train.cache_dir == "/x"
    expected = one.owner.config()
    expected.data.train.cache_dir = "/x"
    assert spec.plain(parsed.config) == spec.plain(expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["semi_anchord"], "no paper 'semi_anchord'; did you mean 'semi_anchored'?"),
        (["semi_anchored", "33"], "semi_anchored has no table '33'; did you mean '3'?"),
        (["paa", "--rows=votin"], "the tables of paa: no row 'votin'; did you mean 'voting'?"),
        (["paa", "--scale=benc"], "no scale 'benc'; did you mean 'bench'?"),
        (["paa", "--seed=3"], "no flag '--seed'; did you mean '--seeds'?"),
        (["paa", "--seeds=0"], "'0' is not a number from 1 on"),
        (["paa", "--shard=2/2"], "'2/2' is not I/N with I from 0 to N - 1"),
        (["paa", "--config.train.steps=3"], "only where data is kept may be set"),
        ([], "usage:"),
    ],
)
def test_what_is_not_understood_is_answered_in_one_sentence(words, message, capsys):
    assert run.main(words) == 2
    seen = capsys.readouterr()
    assert message in seen.err + seen.out
    assert len(seen.err.splitlines()) <= 1


def test_gpus_are_dealt_out_to_workers(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in launch.environments(None)] == ["0", "1", "2"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in launch.environments(2)] == ["0,2", "1"]
    assert launch.environments(1) == [{}]  # all of them on one row
    assert [one["CUDA_VISIBLE_DEVICES"] for one in launch.environments(4)] == ["0", "1", "2", "0"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert launch.environments(None) == [{}]
    assert launch.environments(2) == [{}, {}]


def test_planning_leaves_the_platform_of_the_runs_alone(monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    run.main(["paa", "--scale=benc"])
    assert os.environ["JAX_PLATFORMS"] == "cuda"
    monkeypatch.delenv("JAX_PLATFORMS")
    run.main(["paa", "--scale=benc"])
    assert "JAX_PLATFORMS" not in os.environ
    capsys.readouterr()


def test_files_are_whole_or_not_there(fake, tmp_path, monkeypatch):
    (one,) = plan.group(cells_of(tmp_path, only=("anchors",)), tmp_path / "runs")
    work([one])
    before = one.cells[0].file.read_text()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        record.of_training(dataclasses.replace(one.cells[0]), one)
    assert one.cells[0].file.read_text() == before
    assert len(list(one.cells[0].file.parent.iterdir())) == 1
