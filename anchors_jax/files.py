"""Files that are either the old ones or the new ones, never half of one."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

Path = str | os.PathLike[str]

# The mask can only be read by setting it, which other threads would see: done once, at import.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`; when the block ends well, it becomes `path` at once.

    The temporary name keeps the suffix of `path`, because many writers choose their format by it.
    Missing parent folders are made. When the block raises, `path` stays as it was.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}"
    )
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result is as readable as any other new file.
        temporary.chmod(0o666 & ~_UMASK)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text` in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write `value` as strict JSON, atomically.

    Raises ValueError, naming the file, for NaN, infinities and objects that JSON does not know.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: not JSON: {error}") from None
    write_text(path, text + "\n")
