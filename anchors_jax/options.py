"""Command line flags and config overrides, with errors that name the nearest right word.

--config.KEY=VALUE       one value, of the type that the config has there
--config.KEY=@FILE.json  a whole record in place of the one that the config has there
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from anchors_jax import spec
from anchors_jax.spec import from_plain, nearest

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
    """Read flags and the config they name: a file that makes it (.py) or a kept one (.json).

    Raises:
      UsageError: an unknown flag, config key or value, or a config file that cannot be read.
    """
    records = [a for a in arguments if a.startswith("--config.") and "=@" in a]
    arguments = [a for a in arguments if a not in records]
    values = flags.FlagValues()
    file = next((a.partition("=")[2] for a in arguments if a.startswith("--config=")), "")
    flags.DEFINE_string("workdir", None, "folder of the run", values)
    flags.DEFINE_string("out", None, "folder to write to", values)
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step", values)
    flags.DEFINE_float("score_threshold", 0.3, "least score drawn", 0.0, 1.0, flag_values=values)
    flags.DEFINE_bool("debug", False, "show where an error happened", values)
    try:
        config, words = _define_config(values, file, list(arguments))
        rest = values(["anchors_jax", *words])[1:]
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
    for word in records:
        key, _, path = word.removeprefix("--config.").partition("=@")
        replace_record(config.value, key, pathlib.Path(path))
    return Options(
        config=config.value,
        config_file=file,
        workdir=pathlib.Path(values.workdir) if values.workdir else None,
        out=pathlib.Path(values.out) if values.out else None,
        checkpoint=values.checkpoint,
        score_threshold=values.score_threshold,
        arguments=tuple(rest),
    )


def _define_config(
    values: flags.FlagValues, file: str, words: list[str]
) -> tuple[flags.FlagHolder, list[str]]:
    """Flags for the config and its overrides, and the words that are left to parse."""
    if not file.endswith(".json"):
        flag = config_flags.DEFINE_config_file(
            "config", None, "config file", values, lock_config=True, sys_argv=words
        )
        return flag, words
    words = [word for word in words if not word.startswith("--config=")]
    config = _kept_config(pathlib.Path(file))
    return config_flags.DEFINE_config_dict("config", config, "", values, sys_argv=words), words


def _kept_config(path: pathlib.Path) -> ConfigDict:
    """A config that was written as JSON: by itself, or as the config.json of a run."""
    try:
        content: Any = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--config={path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"--config={path} is not JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        content = content["config"]
    if not isinstance(content, dict) or not {"detector", "data", "train"} <= content.keys():
        raise UsageError(f"--config={path} is no config: it lacks detector, data or train")
    return from_plain(content)


def replace_record(config: ConfigDict, key: str, file: pathlib.Path) -> None:
    """Put the record of a JSON file at a dotted key of the config, where another record is.

    Raises:
      UsageError: the config has no record there; the file cannot be read, is no record, or names
        code or keywords that do not exist.
    """
    where = f"--config.{key}=@{file}"
    *path, last = key.split(".")
    node = config
    for name in (*path, last):
        parent = node
        if not isinstance(parent, ConfigDict) or name not in parent:
            known = parent if isinstance(parent, ConfigDict) else ()
            raise UsageError(f"{where}: the config has no key {name!r}{nearest(name, known)}")
        node = parent[name]
    if not isinstance(node, ConfigDict):
        raise UsageError(f"{where}: {key} is {node!r}, not a record: give its value instead")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{where}: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{where}: {file} is not JSON ({error})") from None
    if not isinstance(record, dict) or not {spec.BIND, spec.MAKE} & record.keys():
        raise UsageError(f"{where}: {file} holds no record: an object with 'make' or 'bind'")
    try:
        spec.check(record)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    with parent.unlocked():
        parent[last] = from_plain(record)


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
