"""Evaluations kept on disk, so that a search that is killed goes on where it stopped.

One line of JSON per configuration, appended when it is known. A line that was cut off by a kill is
dropped on reading; the search is deterministic, so replaying it from the file costs nothing.
"""

import json
import os
import pathlib
from collections.abc import Callable, ItemsView
from typing import Any

from anchors_jax import files
from anchors_jax.search.layout import Removed


class StoreError(ValueError):
    """The file belongs to something else, or is damaged before its end."""


class Store:
    """A mapping from configurations to what was found about them, on disk.

    Args:
      path: of the file, or None to keep everything in memory.
      subject: JSON data that says what is evaluated (run, checkpoint, settings).

    Raises:
      StoreError: the file holds evaluations of another subject, or a line that is not ours.
    """

    def __init__(self, path: str | os.PathLike[str] | None, subject: dict[str, Any]) -> None:
        self._path = None if path is None else pathlib.Path(path)
        self._subject = json.loads(json.dumps(subject))
        self._known: dict[Removed, Any] = {}
        self.added = 0  # since the file was opened
        if self._path is not None:
            self._open()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, removed: Removed) -> bool:
        return removed in self._known

    def __getitem__(self, removed: Removed) -> Any:
        return self._known[removed]

    def items(self) -> ItemsView[Removed, Any]:
        """Every configuration and its value."""
        return self._known.items()

    def get(self, removed: Removed, compute: Callable[[], Any]) -> Any:
        """The value of a configuration; computed and written down where it is not known.

        Values are JSON data: lists and numbers come back as they were computed.
        """
        if removed not in self._known:
            value = compute()
            self._append({"removed": sorted(removed), "value": value})
            self._known[removed] = value
            self.added += 1
        return self._known[removed]

    def _open(self) -> None:
        whole = self._path.read_bytes() if self._path.exists() else b""
        end = whole.rfind(b"\n") + 1  # what follows is a line that was never finished
        lines = whole[:end].decode("utf-8").splitlines()
        if not lines:
            files.write_text(self._path, json.dumps({"subject": self._subject}) + "\n")
            return
        rows = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        if rows[0].get("subject") != self._subject:
            raise StoreError(
                f"{self._path} holds evaluations of another run or setting; "
                "remove it or choose another --out"
            )
        for number, row in enumerate(rows[1:], 2):
            if "removed" not in row or "value" not in row:
                raise StoreError(f"{self._path}: line {number} is not an evaluation")
            self._known[frozenset(row["removed"])] = row["value"]
        if end < len(whole):
            os.truncate(self._path, end)

    def _parse(self, number: int, line: str) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            raise StoreError(f"{self._path}: line {number} is not JSON") from None

    def _append(self, row: dict[str, Any]) -> None:
        if self._path is None:
            return
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
