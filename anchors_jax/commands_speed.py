"""What does detection with trained runs cost? The command `speed`.

Runs are measured in turn, image by image, in one process: numbers of one call can be compared with
each other, those of two calls only as far as the machine did the same meanwhile.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from anchors_jax import commands, experiment, files, options, results, speed
from anchors_jax.commands_prune import Parser, run_config

NAME = "speed"
FILE = "speed.json"
DESCRIPTION = """\
Measure what detection costs: milliseconds per image, one image at a time on the first device, as
the median over images; the runs take turns. Prints a table, each number with its change against
the first run. The configs are the runs' own; --config.KEY=VALUE changes all of them.
"""
METRICS = ("AP", "AP50")


def flags() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog=f"python -m anchors_jax {NAME}",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", metavar="DIR", action="append", help="folder of a trained run; several times")
    add("--images", type=positive, default=speed.IMAGES, metavar="N", help="the first N of the "
        f"evaluation set (default: {speed.IMAGES})")  # fmt: skip
    add("--checkpoint", default="best", help="best, latest or a step (default: best)")
    add("--out", metavar="FILE", help=f"where to write (default: {FILE} in the first run)")
    return parser


def speed_command(words: Sequence[str]) -> None:
    """Measure, print, write; see the flags."""
    own, rest = flags().parse_known_args([word for word in words if word != "--debug"])
    if not own.workdir:
        raise options.UsageError("--workdir=DIR is missing: the folder of a trained run")
    if own.checkpoint not in ("best", "latest") and not own.checkpoint.isdigit():
        raise options.UsageError(
            f"--checkpoint={own.checkpoint} is not best, latest or a step number"
        )
    if len(own.workdir) > 1 and any(word.startswith("--config=") for word in rest):
        raise options.UsageError("--config=FILE is of one run: with several, each has its own")
    subjects, entries = [], []
    for workdir in map(pathlib.Path, own.workdir):
        run = experiment.load(run_config(workdir, rest, command=NAME))
        variables, step = commands.load_variables(run, workdir, own.checkpoint)
        subjects.append(speed.Subject(run=run, variables=variables))
        about = {"workdir": str(workdir), "config": run.config.name, "step": step}
        entries.append(about | accuracy(workdir))
    costs, images = speed.measure(subjects, images=own.images)
    entries = [e | dataclasses.asdict(cost) for e, cost in zip(entries, costs, strict=True)]
    out = pathlib.Path(own.out or pathlib.Path(own.workdir[0], FILE))
    about = speed.conditions(images)
    files.write_json(out, about | {"runs": entries})
    print(markdown(own.workdir, entries))
    print(f"median of {images} images, one at a time, on {about['device']}; written to {out}")


def accuracy(workdir: pathlib.Path) -> dict[str, float | None]:
    """AP and AP50 (0..1) that a run's result.json says, else its eval.json; None: neither does."""
    for file in (workdir / results.RESULT, workdir / results.EVALUATION):
        if file.exists():
            content = json.loads(file.read_text())
            found = content.get("metrics", content)
            # Evaluators say -1 where the images hold no object.
            return {m: found[m] if found.get(m, -1) >= 0 else None for m in METRICS}
    return dict.fromkeys(METRICS)


def markdown(names: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> str:
    """A table: a row per entry, each number with its change against the first entry.

    Entries have the keys of `speed.Cost`, and may have AP and AP50, whose change is in points.
    """
    columns = {
        "ms": ("ms", milliseconds),
        "detect_ms": ("post-processing ms", milliseconds),
        "boxes": ("boxes", "{:,}".format),
        "head_macs": ("head MACs", millions),
        "parameters": ("parameters", millions),
    }
    scored = [m for m in METRICS if any(entry.get(m) is not None for entry in entries)]
    head = ["run", *scored, *(title for title, _ in columns.values())]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, entry in zip(names, entries, strict=True):
        base = None if entry is entries[0] else entries[0]
        cells = [_points(entry.get(m), base and base.get(m)) for m in scored]
        for key, (_, say) in columns.items():
            cells.append(say(entry[key]) + (_change(entry[key], base[key]) if base else ""))
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(value: int | float) -> str:
    """As tables write them: 12.3, and 1.23 below ten."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def millions(value: int | float) -> str:
    """As tables write large counts: 76.8M."""
    return f"{value / 1e6:,.1f}M"


def positive(text: str) -> int:
    """A number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _points(value: float | None, base: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if base is None else f" ({100 * (value - base):+.1f})")


def _change(value: int | float, base: int | float) -> str:
    return f" ({100 * (value / base - 1):+.0f} %)" if base else ""
