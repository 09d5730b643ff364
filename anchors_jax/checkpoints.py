"""Checkpoints: everything that a run needs to continue as if it had never stopped.

One checkpoint holds the variables (what evaluation needs), the rest of the training state, and the
loader's position. Orbax writes in the background into a temporary folder and renames it when
complete, so a killed run leaves whole checkpoints only. The latest two and the best one are kept.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from anchors_jax import parallel


class CheckpointError(ValueError):
    """There is no usable checkpoint where one is expected."""


class Checkpoints:
    """The checkpoints of one run, under `workdir`/checkpoints.

    Args:
      workdir: folder of the run.
      metric: the evaluation result that makes a checkpoint the best one (larger is better).
      read_only: never create or delete anything.
    """

    def __init__(
        self, workdir: str | pathlib.Path, *, metric: str = "AP", read_only: bool = False
    ) -> None:
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} does not exist: train into this workdir first")

        def score(metrics: dict[str, float]) -> float:
            return metrics[metric]

        best = policies.BestN(n=1, get_metric_fn=score, keep_checkpoints_without_metrics=False)
        keep = policies.AnyPreservationPolicy([policies.LatestN(2), best])
        self._metric = metric
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("variables", "training", "loader"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else keep,
                best_fn=score,  # without it no metrics are written
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only and parallel.is_main(),
            ),
        )

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the best metric; the latest one where nothing was evaluated."""
        scored = {
            step: metrics[self._metric]
            for step in self._manager.all_steps()
            if (metrics := self._manager.metrics(step))
        }
        return max(scored, key=lambda step: (scored[step], step)) if scored else self.latest()

    def save(
        self,
        step: int,
        *,
        variables: Any,
        training: Any,
        loader: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Start writing; returns once the arrays are copied. A step that exists is left alone."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(_arrays(variables)),
                training=ocp.args.StandardSave(_arrays(training)),
                loader=ocp.args.JsonSave(loader),
            ),
            metrics=metrics,
        )

    def restore(
        self, step: int, *, variables: Any, training: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """(variables, training, loader) of `step`; the arguments say structure and shapes.

        Raises:
          CheckpointError: the checkpoint was written by another model or optimiser.
        """
        restored = self._restore(
            step,
            variables=ocp.args.StandardRestore(_abstract(variables)),
            training=ocp.args.StandardRestore(_abstract(training)),
            loader=ocp.args.JsonRestore(),
        )
        return restored.variables, restored.training, restored.loader

    def restore_variables(self, step: int, *, variables: Any) -> Any:
        """Only what evaluation needs. Errors as in `restore`."""
        return self._restore(
            step, variables=ocp.args.StandardRestore(_abstract(variables))
        ).variables

    def _restore(self, step: int, **items: Any) -> Any:
        where = self.folder / str(step)
        if step not in self._manager.all_steps():
            known = ", ".join(map(str, self._manager.all_steps())) or "none"
            raise CheckpointError(f"{where} does not exist; there is {known}")
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{where} does not fit this config's model or optimiser: {reason}"
            ) from error
        for name, item in items.items():
            if isinstance(item, ocp.args.StandardRestore):
                _check_shapes(restored[name], item.item, where)
        return restored

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _check_shapes(restored: Any, wanted: Any, where: pathlib.Path) -> None:
    """Orbax hands out what is stored, whatever shape was asked for."""
    paths = jax.tree_util.tree_flatten_with_path(restored)[0]
    for (path, have), want in zip(paths, jax.tree.leaves(wanted), strict=True):
        if np.shape(have) != np.shape(want):
            raise CheckpointError(
                f"{where} does not fit this config's model or optimiser: "
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} is "
                f"{np.shape(have)} there and {np.shape(want)} here"
            )


def _arrays(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _abstract(tree: Any) -> Any:
    # numpy in, numpy out: a checkpoint does not remember devices, so any machine can read it.
    return jax.tree.map(lambda x: np.zeros(np.shape(x), x.dtype), tree)
