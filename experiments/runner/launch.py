"""The processes behind runs: their command lines, and the devices that they get."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from experiments.runner import plan

# glibc asks the kernel for huge pages: XLA's buffers on a CPU come and go with every step.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def environments(jobs: int | None) -> list[dict[str, str]]:
    """Environments for `jobs` workers; None: one per GPU, or one.

    GPUs are dealt out to the workers; one worker has them all and trains data-parallel.
    """
    devices = visible_gpus()
    count = jobs or max(1, len(devices))
    if count == 1 or not devices:
        return [{} for _ in range(count)]
    shares = [devices[i::count] or [devices[i % len(devices)]] for i in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def visible_gpus() -> list[str]:
    """Identifiers of the GPUs that this process may use, without starting JAX on them."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def config_words(cell: plan.Cell, extra: Sequence[str]) -> list[str]:
    """The words that name a cell's config on the command line; `extra` where it has that key."""
    where = f"--config=experiments/row.py:{cell.name}/{cell.scale}"
    return [where, f"--config.seed={cell.seed}", *known_words(cell.config(), extra)]


def known_words(config: object, extra: Sequence[str]) -> list[str]:
    """Those of the words `--config.KEY=VALUE` whose key the config has."""
    return [word for word in extra if _has(config, word.partition("=")[0])]


def train_words(run: plan.Run, extra: Sequence[str] = ()) -> list[str]:
    """The command that trains a run."""
    words = ["python", "-m", "anchors_jax", "train", *config_words(run.owner, extra)]
    return [*words, f"--workdir={run.workdir}"]


def eval_words(cell: plan.Cell, run: plan.Run, extra: Sequence[str] = ()) -> list[str]:
    """The command that evaluates a run's last checkpoint as a row that reuses it says."""
    words = ["python", "-m", "anchors_jax", "eval", *config_words(cell, extra)]
    folder = evaluation_folder(cell, run)
    return [*words, f"--workdir={run.workdir}", "--checkpoint=latest", f"--out={folder}"]


def evaluation_folder(cell: plan.Cell, run: plan.Run) -> pathlib.Path:
    """Where the evaluation of a row that reuses a checkpoint is written."""
    return run.workdir / f"eval_{cell.table.key}_{cell.row.key}"


def _has(config: object, flag: str) -> bool:
    """Whether a config has the key of a flag `--config.KEY`."""
    node = config
    for part in flag.removeprefix("--config.").split("."):
        if not hasattr(node, "keys") or part not in node:
            return False
        node = node[part]
    return True
