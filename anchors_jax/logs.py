"""What a run says: metrics.jsonl, TensorBoard events, and one readable line on the console.

metrics.jsonl has one strict JSON object per line: {"step": 120, "train/loss": 1.23, ...}. JSON has
no NaN: a value that is not finite is null there, and its name goes into the line's "nonfinite",
{"train/loss": "nan"}, so that a diverged run can be told from a missing value.
"""

import json
import math
import os
import pathlib
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from io import TextIOBase
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from anchors_jax import files

BAR = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}  eta {remaining}"


class Logger:
    """Scalars to `workdir`, progress to the console.

    `resume_step` is the step of the checkpoint that a run continues from: what was logged after
    it is dropped, from metrics.jsonl atomically and from TensorBoard by its own mark, so that no
    step is logged twice. None appends to what is there. `active=False` makes every method do
    nothing, for the processes of a run that are not the first.

    On a terminal `progress` draws a bar; elsewhere it prints a line every `every` steps and at
    the last step. `stream` and `clock` are for tests.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        resume_step: int | None = None,
        every: int = 20,
        active: bool = True,
        tensorboard: bool = True,
        stream: TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._active = active
        self._stream = sys.stderr if stream is None else stream
        self._every = every
        self._pace = Pace(clock)
        self._bar: tqdm | None = None
        self._file: TextIOBase | None = None
        self._events: SummaryWriter | None = None
        if not active:
            return
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        metrics = workdir / "metrics.jsonl"
        if metrics.exists():
            _rewind(metrics, resume_step)
        self._file = open(metrics, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        if tensorboard:
            purge = None if resume_step is None else resume_step + 1
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers (Python, numpy or JAX scalars) under names such as "train/loss"."""
        if not self._active:
            return
        numbers = {name: float(value) for name, value in values.items()}
        self._write(_line(step, numbers))
        if self._events is not None:
            for name, number in numbers.items():
                if math.isfinite(number):
                    self._events.add_scalar(name, number, step)

    def progress(
        self,
        step: int,
        total: int,
        fields: Mapping[str, Any] | None = None,
        *,
        images_per_step: int = 0,
    ) -> None:
        """Show that `step` of `total` is done, with fields such as {"loss": 1.2, "wait": "2%"}.

        Speed and remaining time come from the last steps shown. Numbers get four digits.
        """
        if not self._active:
            return
        self._pace.tick(step)
        terminal = self._stream.isatty()
        if not terminal and step % self._every and step != total:
            return
        words = [f"{name} {_short(value)}" for name, value in (fields or {}).items()]
        rate = self._pace.steps_per_second()
        if rate and images_per_step:
            words.append(f"{rate * images_per_step:.1f} img/s")
        if terminal:
            self._draw(step, total, "  ".join(words))
            return
        if rate and step < total:
            words.append(f"eta {_clock_time((total - step) / rate)}")
        self._say("  ".join([f"step {step}/{total}", *words]))

    def note(self, text: str) -> None:
        """Print a line of text, above the bar where there is one."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._say(text)

    def close(self) -> None:
        """Flush and close everything. A closed logger may be closed again."""
        if self._bar is not None:
            self._bar.close()
        for open_file in (self._events, self._file):
            if open_file is not None:
                open_file.close()
        self._bar = self._events = self._file = None
        self._active = False

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _draw(self, step: int, total: int, text: str) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                initial=step,
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
                bar_format=BAR,
            )
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)
        if step >= total:
            self._bar.close()
            self._bar = None


class Pace:
    """Speed over the last steps: the first compilation and a pause for evaluation leave it soon."""

    def __init__(self, clock: Callable[[], float], window: int = 50) -> None:
        self._clock = clock
        self._ticks: deque[tuple[int, float]] = deque(maxlen=window)

    def tick(self, step: int) -> None:
        """Note that `step` is done now. A step before the last one starts anew."""
        if self._ticks and step <= self._ticks[-1][0]:
            self._ticks.clear()
        self._ticks.append((step, self._clock()))

    def steps_per_second(self) -> float | None:
        """None until two steps are known."""
        (first, start), (last, end) = self._ticks[0], self._ticks[-1]
        return (last - first) / (end - start) if end > start else None


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, without a last line that was cut off while being written.

    Raises ValueError, naming file and line, for any other line that is not a JSON object.
    """
    rows = []
    lines = pathlib.Path(path).read_text("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line else None
            if row is not None and not isinstance(row, dict):
                raise ValueError
        except ValueError:
            if number == len(lines):  # no newline after it: the run died while writing it
                break
            raise ValueError(f"{os.fspath(path)}: line {number} is not a JSON object") from None
        if row is not None:
            rows.append(row)
    return rows


def _rewind(path: pathlib.Path, step: int | None) -> None:
    """Drop lines after `step` and a half-written last line; the rest stays as it is."""
    rows = read_metrics(path)
    kept = [row for row in rows if step is None or row.get("step", 0) <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if text != path.read_text("utf-8", errors="replace"):
        files.write_text(path, text)


def _line(step: int, numbers: dict[str, float]) -> str:
    broken = {name: str(value) for name, value in numbers.items() if not math.isfinite(value)}
    row: dict[str, Any] = {"step": int(step)}
    row |= {name: None if name in broken else value for name, value in numbers.items()}
    if broken:
        row["nonfinite"] = broken
    return json.dumps(row, allow_nan=False) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    return f"{float(value):.4g}"


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
