import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from anchors_jax.logs import Logger, read_metrics


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Advances by a second and a half whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.5
        return self.now


def _events(folder):
    """(step, name, value) of all events: records are length, checksum, bytes, checksum."""
    scalars, starts = [], []
    for file in sorted((folder / "tensorboard").glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            if event.session_log.status == event_pb2.SessionLog.START:
                starts.append(event.step)
    return scalars, starts


def _quiet(folder, **settings):
    return Logger(folder, stream=io.StringIO(), **settings)


def test_scalars_reach_both_files(tmp_path):
    with _quiet(tmp_path / "run") as logger:
        logger.scalars(1, {"train/loss": 1.5, "train/lr": np.float32(0.25)})
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[0]) == {"step": 1, "train/loss": 1.5, "train/lr": 0.25}  # flushed
        logger.scalars(2, {"train/loss": jnp.float32(0.5)})
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[1] == {"step": 2, "train/loss": 0.5}
    scalars, _ = _events(tmp_path / "run")
    assert scalars == [(1, "train/loss", 1.5), (1, "train/lr", 0.25), (2, "train/loss", 0.5)]


def test_values_that_are_not_finite_stay_json(tmp_path):
    with _quiet(tmp_path) as logger:
        logger.scalars(3, {"a": float("nan"), "b": np.inf, "c": 1.0})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row == {"step": 3, "a": None, "b": None, "c": 1.0, "nonfinite": {"a": "nan", "b": "inf"}}
    assert _events(tmp_path)[0] == [(3, "c", 1.0)]


def test_a_resumed_run_has_no_step_twice(tmp_path):
    with _quiet(tmp_path) as logger:
        for step in range(1, 8):
            logger.scalars(step, {"loss": step})
    with _quiet(tmp_path, resume_step=4) as logger:
        for step in range(5, 7):
            logger.scalars(step, {"loss": 10 * step})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in rows] == [1, 2, 3, 4, 50, 60]
    assert 5 in _events(tmp_path)[1]  # TensorBoard drops what an older file says from here on
    assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]


def test_a_half_written_line_is_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    with _quiet(tmp_path, resume_step=1) as logger:
        logger.scalars(2, {"loss": 1.0})
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_appending_keeps_every_line(tmp_path):
    for step in (5, 3):
        with _quiet(tmp_path, tensorboard=False) as logger:
            logger.scalars(step, {"eval/AP": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [5, 3]
    assert not (tmp_path / "tensorboard").exists()


def test_a_damaged_log_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnoise\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not a JSON object"):
        _quiet(tmp_path, resume_step=2)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1"):
        read_metrics(path)


def test_plain_lines_every_few_steps(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path, every=10, stream=stream, clock=Clock()) as logger:
        for step in range(1, 26):
            logger.progress(step, 25, {"loss": 1.23456, "wait": "2%"}, images_per_step=3)
        logger.note("done")
    assert stream.getvalue().splitlines() == [
        "step 10/25  loss 1.235  wait 2%  2.0 img/s  eta 0:22",
        "step 20/25  loss 1.235  wait 2%  2.0 img/s  eta 0:08",
        "step 25/25  loss 1.235  wait 2%  2.0 img/s",
        "done",
    ]


def test_the_first_step_has_no_speed_yet(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path, every=1, stream=stream) as logger:
        logger.progress(1, 9)
    assert stream.getvalue() == "step 1/9\n"


def test_hours_in_the_remaining_time(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path, every=1, stream=stream, clock=Clock()) as logger:
        logger.progress(1, 10_000)
        logger.progress(2, 10_000)
    assert stream.getvalue().splitlines()[1].endswith("eta 4:09:57")


def test_a_bar_on_a_terminal(tmp_path):
    stream = Terminal()
    with Logger(tmp_path, stream=stream, clock=Clock()) as logger:
        for step in range(5, 11):
            logger.progress(step, 10, {"loss": 0.5}, images_per_step=4)
            if step == 7:
                logger.note("a note above the bar")
    text = stream.getvalue()
    assert "10/10" in text
    assert "loss 0.5" in text
    assert "img/s" in text
    assert "a note above the bar\n" in text


def test_an_inactive_logger_leaves_no_trace(tmp_path):
    stream = io.StringIO()
    with Logger(tmp_path / "run", active=False, stream=stream) as logger:
        logger.scalars(1, {"loss": 1.0})
        logger.progress(1, 1)
        logger.note("text")
    assert stream.getvalue() == ""
    assert not (tmp_path / "run").exists()


def test_close_twice_and_bad_settings(tmp_path):
    logger = _quiet(tmp_path)
    logger.close()
    logger.close()
    with pytest.raises(ValueError, match="every"):
        _quiet(tmp_path, every=0)
