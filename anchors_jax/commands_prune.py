"""Which anchors of a trained detector are needed? The command `prune`.

It scores the evaluation set once, searches over subsets of anchors without any training, and writes
the front of accuracy and cost; with --apply it turns one configuration into a smaller run. Every
evaluation is on disk when it is known: the same command goes on where it was killed.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from anchors_jax import commands, commands_prune_run, commands_surgery, experiment, options
from anchors_jax.search import candidates, sampling, surgery

NAME = "prune"
SEARCHES = ("tree", "layers", "shared", "optuna")
COSTS = ("macs", "boxes", "latency")
DESCRIPTION = """\
Search for anchors that a trained detector does not need (Bonnaerens et al., CVIU 2022). The config
is the run's own; --config.KEY=VALUE changes it, such as the place of the data.
"""


class Parser(argparse.ArgumentParser):
    """Mistakes are UsageErrors."""

    def error(self, message: str) -> None:
        """Raise instead of leaving the program."""
        raise options.UsageError(message)


def flags() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog=f"python -m anchors_jax {NAME}",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )

    def add(name: str, **keywords: Any) -> None:
        names = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        parser.add_argument(*names, **keywords)

    add("workdir", metavar="DIR", help="folder of the trained run")
    add("out", metavar="DIR", help="where to write (default: WORKDIR/pruned)")
    add("checkpoint", default="best", help="best, latest or a step (default: best)")
    add("search", choices=SEARCHES, help="default: shared for shared heads, tree for others")
    add("cost", choices=COSTS, help="what is to be small (default: macs; boxes where a search "
        "takes single anchors from a shared head, which saves it no multiply-adds)")  # fmt: skip
    add("min-map", type=float, metavar="AP", help="drop configurations below, 0..1 "
        f"(default: {commands_prune_run.SHARE_OF_MAP} of the AP with all anchors)")  # fmt: skip
    add("rule", choices=("weak", "strict"), default="weak", help="of the front (default: weak)")
    add("quantum", type=float, default=1e-3, help="metrics are rounded to it (default: 0.001)")
    add("max-anchors-layer", type=int, default=4, help="where --search=layers stops (default: 4)")
    add("sampler", choices=sampling.SAMPLERS, default="nsga2", help="of --search=optuna")
    add("trials", type=int, default=300, help="of --search=optuna (default: 300)")
    add("capacity", type=int, default=candidates.CAPACITY, help="candidates kept per image")
    add("apply", metavar="INDEX|IDS", help="instead of searching, slice the network: an index "
        "of front.json, or prototype ids with commas (a single one: 7,)")  # fmt: skip
    add("to", metavar="DIR", help="with --apply: folder of the smaller run")
    return parser


def prune_command(words: Sequence[str]) -> None:
    """Search, or slice; see the flags."""
    own, rest = flags().parse_known_args([word for word in words if word != "--debug"])
    if own.workdir is None:
        raise options.UsageError("--workdir=DIR is missing: the folder of a trained run")
    if (own.apply is None) != (own.to is None):
        raise options.UsageError("--apply=INDEX|IDS and --to=DIR go together")
    workdir = pathlib.Path(own.workdir)
    run = experiment.load(run_config(workdir, rest, command=NAME))
    variables, step = commands.load_variables(run, workdir, own.checkpoint)
    subject = commands_prune_run.Subject(
        run=run,
        workdir=workdir,
        out=pathlib.Path(own.out) if own.out else workdir / "pruned",
        source=run.source("eval"),
        variables=variables,
        step=step,
    )
    if own.apply is None:
        commands_prune_run.search(subject, own)
    else:
        layout = candidates.layout_of(run.detector, variables, commands_prune_run.example(subject))
        removed = layout.check(_chosen(own.apply, subject.out / commands_prune_run.FRONT))
        commands_surgery.apply(run, variables, layout, removed, pathlib.Path(own.to))


def run_config(workdir: pathlib.Path, rest: Sequence[str], *, command: str) -> ConfigDict:
    """The run's own config, or the one that the command line names.

    Args:
      workdir: folder of the run.
      rest: the words of the command line that are no flags of the command: --config=FILE and its
        overrides; overrides alone change the run's own config.
      command: its name, for errors.

    Raises:
      UsageError: a word that is neither a flag nor of a config.
      ValueError: the folder is not that of a run.
    """
    path = workdir / commands.CONFIG
    named = any(word.startswith("--config=") for word in rest)
    if not named and not path.exists():
        raise ValueError(f"{path} does not exist: {workdir} is not the folder of a run")
    if rest:
        parsed = options.parse([*rest] if named else [f"--config={path}", *rest])
        if parsed.arguments:
            raise options.UsageError(f"{parsed.arguments[0]!r} is not a flag of {command}")
        return parsed.config
    return surgery.variant(json.loads(path.read_text())["config"])


def _chosen(text: str, front: pathlib.Path) -> list[int]:
    """Prototype ids of --apply."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words if word) or not any(words):
        raise options.UsageError(f"--apply={text} is neither an index nor ids with commas")
    if len(words) > 1:
        return [int(word) for word in words if word]
    if not front.exists():
        raise ValueError(f"{front} does not exist: search first, or name prototype ids")
    rows = json.loads(front.read_text())["front"]
    if int(text) >= len(rows):
        raise ValueError(f"--apply={text}: {front} has the indices 0..{len(rows) - 1}")
    return rows[int(text)]["removed"]
