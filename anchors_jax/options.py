"""Command line flags and config overrides, with errors that name the nearest right word."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from anchors_jax.spec import nearest

__all__ = ["Options", "UsageError", "nearest", "parse"]


class UsageError(ValueError):
    """The command line is not understood."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """A parsed command line. Paths are None where they were not given."""

    config: ConfigDict
    config_file: str
    workdir: pathlib.Path | None
    out: pathlib.Path | None
    checkpoint: str
    score_threshold: float
    arguments: tuple[str, ...]

    def require_workdir(self) -> pathlib.Path:
        """The workdir; UsageError where it is missing."""
        if self.workdir is None:
            raise UsageError("--workdir=DIR is missing: the folder of the run")
        return self.workdir


def parse(arguments: Sequence[str]) -> Options:
    """Read flags and the config they name.

    Raises:
      UsageError: an unknown flag, config key or value, or a config file that cannot be read.
    """
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "config file", values, lock_config=True, sys_argv=list(arguments)
    )
    flags.DEFINE_string("workdir", None, "folder of the run", values)
    flags.DEFINE_string("out", None, "folder to write to", values)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step", values)
    flags.DEFINE_float("score_threshold", 0.3, "least score drawn", 0.0, 1.0, flag_values=values)
    flags.DEFINE_bool("debug", False, "show where an error happened", values)
    try:
        rest = values(["anchors_jax", *arguments])[1:]
        if config.value is None:
            raise UsageError("--config=FILE.py is missing, such as configs/quickstart.py")
        config.value.keys()  # a file that failed to load says so on first use only
    except AttributeError as error:
        raise UsageError(_unknown_key(arguments, error)) from error
    except flags.Error as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(_unreadable(arguments, error)) from error
    if values.checkpoint not in ("best", "latest") and not values.checkpoint.isdigit():
        raise UsageError(f"--checkpoint={values.checkpoint} is not best, latest or a step number")
    file = next(a for a in arguments if a.startswith("--config=")).partition("=")[2]
    return Options(
        config=config.value,
        config_file=file,
        workdir=pathlib.Path(values.workdir) if values.workdir else None,
        out=pathlib.Path(values.out) if values.out else None,
        checkpoint=values.checkpoint,
        score_threshold=values.score_threshold,
        arguments=tuple(rest),
    )


def _unknown_key(arguments: Sequence[str], error: AttributeError) -> str:
    """One sentence for a key that the config lacks; ml_collections finds the nearest one."""
    text = str(error)
    meant = re.search(r'Did you mean "(.*?)" instead of "(.*?)"', text)
    if meant:
        right, wrong = meant.groups()
    else:
        right, wrong = None, text.strip("\"'").split("'")[0].split("\\n")[0]
    given = next((a for a in arguments if a.startswith("--config.") and wrong in a), f"{wrong!r}")
    hint = f"; did you mean {right!r}?" if right else ""
    return f"the config has no key {wrong!r} ({given.partition('=')[0]}){hint}"


def _unreadable(arguments: Sequence[str], error: OSError) -> str:
    named = next((a.partition("=")[2] for a in arguments if a.startswith("--config=")), "?")
    path = pathlib.Path(named.partition(":")[0])
    if not path.exists():
        known = sorted(str(p) for p in path.parent.glob("*.py") if not p.name.startswith("_"))
        return f"--config={named}: no such file{nearest(str(path), known)}"
    return f"--config={named} cannot be read: {' '.join(str(error).split())}"
