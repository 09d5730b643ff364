"""Released weights on the command line: `eval --weights`, `predict --weights` and `convert`."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from anchors_jax import (
    checkpoints,
    commands,
    evaluation,
    experiment,
    files,
    inference,
    options,
    parallel,
    results,
    spec,
)
from anchors_jax.data import coco, folder
from anchors_jax.weights import classes, export, load

CONVERT, EVAL, PREDICT = "convert", "eval", "predict"

DESCRIPTION = """\
Weights from one form into another. From a released file (--weights=FILE: .safetensors, .npz, .pth)
or from a trained run (--workdir=DIR); to a .safetensors or .npz file with our names, or to the
folder of a run, which eval and predict then read with --workdir.
"""


class Flags(argparse.ArgumentParser):
    """Flags that a command has beside the common ones; mistakes are UsageErrors."""

    def __init__(self, name: str, description: str = "") -> None:
        super().__init__(
            usage=f"python -m anchors_jax {name} --config=FILE.py[:VARIANT] [flags]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("--weights", metavar="FILE", type=pathlib.Path, help="weights to read")
        self.add_argument(
            "--family", metavar="NAME", help="how to read them (default: recognised by their names)"
        )

    def error(self, message: str) -> None:
        """Raise instead of leaving the program."""
        raise options.UsageError(message)


def flags() -> Flags:
    """Those of `convert`."""
    parser = Flags(CONVERT, DESCRIPTION)
    parser.add_argument(
        "--to", metavar="PATH", type=pathlib.Path, help="a .safetensors or .npz file, or a folder"
    )
    return parser


def eval_command(words: Sequence[str]) -> None:
    """`commands.eval_command`; with --weights=FILE it evaluates that file instead of a run."""
    own, rest = Flags(EVAL).parse_known_args(words)
    parsed = options.parse(rest)
    if own.weights is None:
        commands.eval_command(parsed)
        return
    out = parsed.out or parsed.workdir
    if out is None:
        raise options.UsageError("--out=DIR is missing: the folder to write the results to")
    parallel.initialize()
    run = experiment.load(parsed.config)
    found = read(run, own.weights, own.family)
    source = run.source("eval")
    predict = inference.make_predict(run.detector)
    main = parallel.is_main()
    table = commands.run_detector(run, predict, found.variables, source, progress=main)
    metrics = commands.report_metrics(run, source, table)
    if main:
        results.write(out, metrics, source, table, score_threshold=parsed.score_threshold)
        print(evaluation.format_table(metrics))
        print(f"{found}; written to {out}: {', '.join(results.WRITTEN)}")


def predict_command(words: Sequence[str]) -> None:
    """`commands.predict_command`; with --weights=FILE it needs no run and no data set."""
    own, rest = Flags(PREDICT).parse_known_args(words)
    parsed = options.parse(rest)
    if own.weights is None:
        commands.predict_command(parsed)
        return
    if not parsed.arguments:
        raise options.UsageError("name at least one image or folder: predict ... IMAGE...")
    run = experiment.load(parsed.config)
    images = folder.folder(parsed.arguments, **known_classes(run))
    found = read(run, own.weights, own.family)
    predict = inference.make_predict(run.detector)
    table = commands.run_detector(run, predict, found.variables, images, progress=True)
    out = parsed.out or (parsed.workdir or pathlib.Path()) / "predictions"
    results.write_predictions(out, images, table, score_threshold=parsed.score_threshold)
    drawn = int((table.score >= parsed.score_threshold).sum())
    print(
        f"{found}: {len(images)} images, {drawn} boxes with score >= {parsed.score_threshold}; "
        f"written to {out}"
    )


def convert_command(words: Sequence[str]) -> None:
    """Write weights of a file or of a run to a file or to the folder of a run."""
    own, rest = flags().parse_known_args(words)
    parsed = options.parse(rest)
    if own.to is None:
        raise options.UsageError("--to=PATH is missing: a .safetensors or .npz file, or a folder")
    if (own.weights is None) == (parsed.workdir is None):
        raise options.UsageError("name one to convert from: --weights=FILE or --workdir=DIR")
    run = experiment.load(parsed.config)
    if own.weights is not None:
        found = read(run, own.weights, own.family)
        variables, origin = found.variables, str(found)
    else:
        variables, step = commands.load_variables(run, parsed.workdir, parsed.checkpoint)
        origin = f"step {step} of {parsed.workdir}"
    if own.to.suffix:
        metadata = {"config": run.config.name, "origin": origin}
        count = export.write(own.to, variables, metadata=metadata)
        print(f"{origin}; {count} tensors written to {own.to}")
        return
    keep_run(own.to, run, variables, parsed.config_file)
    print(f"{origin}; written to {own.to}, a run for eval and predict --workdir={own.to}")


def read(run: experiment.Experiment, file: pathlib.Path, family: str | None) -> load.Loaded:
    """A whole detector's variables from a file."""
    parts = run.detector.parts.model.parts
    return load.load(file, run.variable_shapes(), parts=parts, family=family)


def keep_run(
    workdir: pathlib.Path, run: experiment.Experiment, variables: Any, config_file: str
) -> None:
    """A run's folder with these variables as its only checkpoint, step 0.

    Raises:
      ValueError: there is a run in the folder.
    """
    path = workdir / commands.CONFIG
    if path.exists():
        raise ValueError(f"{workdir} holds a run already; choose another folder")
    stored = checkpoints.Checkpoints(workdir)
    # Nothing to train on from: an optimiser has no state yet.
    stored.save(0, variables=variables, training={"step": np.int32(0)}, loader={})
    stored.close()
    content = {"file": config_file, **known_classes(run), "config": spec.plain(run.config)}
    files.write_json(path, content)


def known_classes(run: experiment.Experiment) -> dict[str, Any]:
    """Names and category ids of the config's classes: COCO's own, or those of the data.

    A config of 80 classes on COCO needs no data set for it.
    """
    if run.config.num_classes == len(classes.COCO) and run.readers["eval"].func is coco.coco:
        return {"classes": list(classes.COCO.values()), "category_ids": list(classes.COCO)}
    source = run.source("eval")
    ids = [int(category) for category in source.category_ids]
    return {"classes": list(source.classes), "category_ids": ids}
