"""How far runs are, and how long the rest takes."""

import time
from collections.abc import Sequence

from anchors_jax import experiment
from experiments.runner import plan


class Eta:
    """How long the rest takes, from the share of all runs that this process has done."""

    def __init__(self, runs: Sequence[plan.Run]) -> None:
        self._total = {
            f"{run.workdir}": plan.steps(experiment.load(run.owner.config())) for run in runs
        }
        self._begin = time.monotonic()
        self._shares = {f"{run.workdir}": self._read(run) for run in runs}
        self._already = sum(self._shares.values())
        self._runs, self._shown = list(runs), 0.0
        self._finished: set[str] = set()

    def finished(self, run: plan.Run) -> None:
        """Count a run as done, well or not."""
        self._finished.add(f"{run.workdir}")

    def due(self) -> bool:
        """Whether two seconds have passed since this was last true; shares are then read anew."""
        if time.monotonic() - self._shown < 2.0:
            return False
        self._shown = time.monotonic()
        self._refresh()
        return True

    def share(self, run: plan.Run) -> float:
        """How much of a run is done, 0..1."""
        key = f"{run.workdir}"
        return 1.0 if key in self._finished else self._shares[key]

    def text(self) -> str:
        """ "; about 12 min left", or nothing while nothing is known or left."""
        self._refresh()
        done = sum(self.share(run) for run in self._runs)
        left, progress = len(self._runs) - done, done - self._already
        if left <= 0 or progress <= 0:
            return ""
        minutes = (time.monotonic() - self._begin) * left / progress / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"

    def _refresh(self) -> None:
        for run in self._runs:
            if f"{run.workdir}" not in self._finished:
                self._shares[f"{run.workdir}"] = self._read(run)

    def _read(self, run: plan.Run) -> float:
        total = self._total[f"{run.workdir}"]
        return min(1.0, plan.step_reached(run.workdir) / total) if total else 0.0
