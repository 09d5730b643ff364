"""Command lines of this folder: what is wrong with one is said in a sentence."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import NoReturn


class UsageError(ValueError):
    """The command line is not understood."""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of exiting, and knows words `--config.KEY=VALUE`."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise `message`."""
        raise UsageError(message)

    def parse(self, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The values of the flags and positional words, and the words `--config.KEY=VALUE`.

        Raises:
          UsageError: a flag or a value is not understood; names the nearest.
        """
        from anchors_jax.spec import nearest  # not before it is decided what JAX runs on

        values, rest = self.parse_known_intermixed_args(words)
        flags = [option for action in self._actions for option in action.option_strings]
        for word in rest:
            name = word.partition("=")[0]
            if not name.startswith("--config."):
                raise UsageError(f"no flag {name!r}{nearest(name, flags)}")
        return values, rest


def table_parser() -> Parser:
    """A parser with what all commands on tables take: which rows, and where things are."""
    from experiments.rows import FOLDER

    parser = Parser()
    parser.add_argument("paper")
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--scale", default="bench")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=[])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--results", type=pathlib.Path, default=FOLDER)
    return parser


def check(scale: str, extra: Sequence[str]) -> list[str]:
    """The words `--config.KEY=VALUE` of a command on tables, if they and the scale are allowed.

    Raises:
      UsageError: no such scale, or a word that would change what a row is.
    """
    from anchors_jax.results import PATHS
    from anchors_jax.spec import nearest
    from experiments.rows import SCALES

    for word in extra:
        key = word.partition("=")[0]
        if key.split(".")[-1] not in PATHS:
            raise UsageError(
                f"{key}: only where data is kept may be set ({', '.join(PATHS)}); what a row is "
                "stands in its rows.py"
            )
    if scale not in SCALES:
        raise UsageError(f"no scale {scale!r}{nearest(scale, SCALES)}")
    return list(extra)


def positive(text: str) -> int:
    """A number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
