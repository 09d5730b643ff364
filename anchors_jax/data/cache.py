"""Folders that appear whole or not at all."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable


def default_cache() -> pathlib.Path:
    """Where generated data live: $ANCHORS_CACHE_DIR, else ~/.cache/anchors_jax."""
    chosen = os.environ.get("ANCHORS_CACHE_DIR")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache" / "anchors_jax"


def build_folder(
    target: pathlib.Path, build: Callable[[pathlib.Path], pathlib.Path]
) -> pathlib.Path:
    """Make the folder `target` from what `build` leaves in a scratch folder; return `target`.

    `build(scratch)` returns the finished folder inside `scratch`, which is on the same file system
    and is moved in one step. Of several processes that build at once, the first to finish wins and
    the others use its result. An existing target is left alone.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".building-", dir=target.parent, ignore_cleanup_errors=True
    ) as scratch:
        finished = build(pathlib.Path(scratch))
        try:
            finished.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(finished, ignore_errors=True)
    return target
