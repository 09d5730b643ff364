"""Command lines of this folder: what is wrong with one is said in a sentence."""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

# By name: the modules that raise them are imported late, as commands want to answer at once.
_NOT_UNDERSTOOD = {"UsageError", "RowError", "SpaceError"}


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

    for word in extra:
        key = word.partition("=")[0]
        if key.split(".")[-1] not in PATHS:
            raise UsageError(
                f"{key}: only where data is kept may be set ({', '.join(PATHS)}); what a row is "
                "stands in its rows.py"
            )
    known_scale(scale)
    return list(extra)


def known_scale(scale: str) -> None:
    """Raise UsageError, naming the nearest, if there is no such scale."""
    from anchors_jax.spec import nearest
    from experiments.rows import SCALES

    if scale not in SCALES:
        raise UsageError(f"no scale {scale!r}{nearest(scale, SCALES)}")


def positive(text: str) -> int:
    """A number from 1 on, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def exit_status(
    run: Callable[[Sequence[str]], int | None],
    words: Sequence[str],
    *,
    usage: str,
    stopped: str = "the same command continues",
) -> int:
    """Run a command line and say in a sentence what was wrong with it.

    Args:
      run: what to do with the words; returns the exit status, None for 0.
      words: of the command line.
      usage: printed for --help, and where there are no words.
      stopped: what the user who presses Ctrl-C should know.

    Returns:
      0, or 1: it failed, 2: the command line is not understood, 130: it was stopped, 141: whoever
      read its output went away (shells say so of programs that SIGPIPE ends): it may not be done.
    """
    if not words or {"help", "--help", "-h"} & set(words):
        print(usage)
        return 0 if words else 2
    try:
        return run(words) or 0
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if "--debug" in words:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if type(error).__name__ in _NOT_UNDERSTOOD else 1
