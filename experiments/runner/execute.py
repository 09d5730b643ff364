"""Do the work of a plan: one process per training, several at a time, safe to kill at any moment.

A work directory is locked while its process lives, also when the runner that started it is gone:
a second runner waits for it and then takes its result. Nothing is kept in memory that matters.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from experiments import rows
from experiments.runner import launch, plan, progress, record

LOG, LOCK = "log.txt", ".lock"
Environment = Mapping[str, str]


@dataclasses.dataclass
class Failure:
    """A cell that has no result, and why."""

    cell: plan.Cell
    reason: str


class Runner:
    """Works through runs with a number of workers, each with its own devices.

    Args:
      runs: what to do, in order.
      environments: of the workers' processes, one worker each.
      extra: `--config.KEY=VALUE` words for every command: where data is kept.
      say: prints a line.
    """

    def __init__(
        self,
        runs: Sequence[plan.Run],
        *,
        environments: Sequence[Environment],
        extra: Sequence[str] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.runs, self.failures = list(runs), []
        self._environments, self._extra, self._print = environments, tuple(extra), say
        self._waiting: queue.Queue[plan.Run] = queue.Queue()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._active: dict[str, plan.Run] = {}
        self._done = 0
        self._eta = progress.Eta(self.runs)

    def work(self) -> list[Failure]:
        """Do everything; the failures. KeyboardInterrupt and SystemExit end the processes, too."""
        for run in self.runs:
            self._waiting.put(run)
        workers = [
            threading.Thread(target=self._worker, args=(environment,), daemon=True)
            for environment in self._environments
        ]
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(0.2)
                self._show()
        except BaseException:
            self._stop.set()
            while any(worker.is_alive() for worker in workers):
                for process in list(self._processes):
                    process.terminate()
                time.sleep(0.2)
            raise
        return self.failures

    def _worker(self, environment: Environment) -> None:
        while not self._stop.is_set():
            try:
                run = self._waiting.get_nowait()
            except queue.Empty:
                return
            begin = time.monotonic()
            with self._lock:
                self._active[f"{run.workdir}"] = run
            try:
                self._perform(run, environment)
            except (OSError, ValueError, KeyError) as error:
                self._fail(run.cells, f"{error}")
            with self._lock:
                del self._active[f"{run.workdir}"]
                self._done += 1
            self._eta.finished(run)
            if not self._stop.is_set():
                self._summary(run, time.monotonic() - begin)

    def _perform(self, run: plan.Run, environment: Environment) -> None:
        """Train what is not trained yet, then record and evaluate the cells."""
        missing = [cell for cell in run.missing() if not record.of_owner(cell, run)]
        if not missing:
            return
        with locked(run.workdir, self._waits, self._stop) as lock:
            if lock is None:
                return
            if not plan.is_trained(run.workdir):
                self._say(f"start {run.name} seed {run.owner.seed} -> {run.workdir}")
                reason = self._call(launch.train_words(run, self._extra), run, environment, lock)
                if reason:
                    self._fail(missing, reason)
                    return
            for cell in missing:
                if cell.row.reuse is None:
                    record.of_training(cell, run)
                    continue
                record.trained(run)  # fails for a run of another config
                folder = launch.evaluation_folder(cell, run)
                words = launch.eval_words(cell, run, self._extra)
                reason = self._call(words, run, environment, lock)
                if reason:
                    self._fail([cell], reason)
                else:
                    record.of_evaluation(cell, run, folder)

    def _call(
        self, words: Sequence[str], run: plan.Run, environment: Environment, lock: int
    ) -> str | None:
        """Run a command with its output in the run's log; what it died of, or None."""
        if self._stop.is_set():
            return "stopped"
        log = run.workdir / LOG
        with open(log, "ab") as output:
            output.write(f"\n$ {' '.join(words)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [sys.executable, *words[1:]],
                cwd=rows.FOLDER.parent,
                env={**launch.HUGE_PAGES, **os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=(lock,),  # the lock outlives this runner
            )
            self._processes.add(process)
            status = process.wait()
            self._processes.discard(process)
        if self._stop.is_set():
            return "stopped"
        return None if status == 0 else f"{_last_words(log)} (exit {status}, see {log})"

    def _waits(self, workdir: pathlib.Path) -> None:
        self._say(f"waiting for another process that works in {workdir}")

    def _fail(self, cells: Sequence[plan.Cell], reason: str) -> None:
        with self._lock:
            self.failures += [Failure(cell, reason) for cell in cells]

    def _summary(self, run: plan.Run, seconds: float) -> None:
        failed = {id(failure.cell): failure.reason for failure in self.failures}
        reasons = [failed[id(cell)] for cell in run.cells if id(cell) in failed]
        names = ", ".join(dict.fromkeys(cell.name for cell in run.cells))
        end = f"FAILED: {reasons[0]}" if reasons else f"{seconds / 60:.1f} min"
        left = self._eta.text()
        self._say(f"[{self._done}/{len(self.runs)}] {names} seed {run.owner.seed}: {end}{left}")

    def _say(self, text: str) -> None:
        with self._lock:
            clear = "\r\x1b[K" if sys.stdout.isatty() else ""
            self._print(clear + text)

    def _show(self) -> None:
        """On a terminal: what runs, how far it is, and when all will be done."""
        if not sys.stdout.isatty() or not self._eta.due():
            return
        with self._lock:
            parts = [f"{run.name} {self._eta.share(run):.0%}" for run in self._active.values()]
            line = f"{self._done}/{len(self.runs)} done; {', '.join(parts)}{self._eta.text()}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", flush=True)


@contextlib.contextmanager
def locked(
    workdir: pathlib.Path, waits: Callable[[pathlib.Path], None], stop: threading.Event
) -> Iterator[int | None]:
    """Hold the lock of a work directory, waiting for it if need be; yields its descriptor.

    None without the lock, if `stop` is set before it is free.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    handle = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        held = _try_lock(handle)
        if not held:
            waits(workdir)
        while not held and not stop.wait(0.2):
            held = _try_lock(handle)
        yield handle if held else None
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_words(log: pathlib.Path) -> str:
    """The last error of a log, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else (lines or ["no output"])[-1]
