"""A pytest plugin that keeps the reference tests and writes down the differences that they see.

The tests are the one place that says what is compared with what and how closely; measuring beside
them would be a second opinion that drifts from the first.
"""

import functools
import inspect
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

# Which argument of a test makes it one of a kind.
ARGUMENTS = {"networks": "network", "primitives": "case"}


def pytest_configure(config: Any) -> None:
    """Registers the recorder of the kinds in PARITY_KINDS; PARITY_FILE gets the rows."""
    recorder = Recorder(os.environ["PARITY_KINDS"].split(","))
    config.pluginmanager.register(recorder, "parity_rows")


def pytest_sessionfinish(session: Any) -> None:
    """Write what was found."""
    rows = session.config.pluginmanager.get_plugin("parity_rows").all_rows()
    pathlib.Path(os.environ["PARITY_FILE"]).write_text(json.dumps(rows))


class Recorder:
    """Rows by kind: one per network, one per op of the reference cases."""

    def __init__(self, kinds: list[str]) -> None:
        self._arguments = {ARGUMENTS[kind]: kind for kind in kinds}
        self._rows: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in kinds}
        self._keys: dict[str, tuple[str, str]] = {}
        self._now: dict[str, Any] | None = None

    def all_rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The rows of every kind."""
        return {kind: self.rows(kind) for kind in self._rows}

    def rows(self, kind: str) -> dict[str, dict[str, Any]]:
        """Sorted by name; `cases` as their number. Networks that were not run are left out."""
        found = self._rows[kind]
        return {
            name: {**row, "cases": len(row["cases"])}
            for name, row in sorted(found.items())
            if row["cases"] and (kind == "primitives" or row["measured"] or row["failed"])
        }

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Keep the tests of the reference cases."""
        kept, rest = [], []
        for item in items:
            key = self._key(item)
            (kept if key else rest).append(item)
            if key:
                self._keys[item.nodeid] = key
        config.hook.pytest_deselected(items=rest)
        items[:] = kept

    def _key(self, item: Any) -> tuple[str, str] | None:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        for argument, kind in self._arguments.items():
            value = values.get(argument)
            if value is not None:
                return kind, value if isinstance(value, str) else value.op
        return None

    def _row(self, nodeid: str) -> dict[str, Any]:
        kind, name = self._keys[nodeid]
        empty = {"cases": set(), "failed": 0, "measured": {}}
        empty |= {"difference": 0.0, "relative": 0.0, "share": 0.0}
        return self._rows[kind].setdefault(name, empty)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        """Look over the shoulder of NumPy's comparison while a test runs."""
        row = self._row(item.nodeid)
        case = item.callspec.params.get("case")
        row["cases"].add(case.name if case is not None else item.name)
        close = np.testing.assert_allclose
        np.testing.assert_allclose = functools.partial(_watched, row, close)
        try:
            return (yield)
        finally:
            np.testing.assert_allclose = close

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Failures, and what a test has measured by itself (record_property)."""
        if report.nodeid not in self._keys:
            return
        row = self._row(report.nodeid)
        row["failed"] += int(report.failed)
        if report.when == "call":
            row["measured"] |= dict(report.user_properties)


def _watched(row: dict[str, Any], close: Callable[..., None], *args: Any, **keywords: Any) -> None:
    """`numpy.testing.assert_allclose`, after noting the largest difference."""
    given = inspect.signature(close).bind(*args, **keywords)
    given.apply_defaults()
    actual, desired, rtol, atol = (
        given.arguments[name] for name in ("actual", "desired", "rtol", "atol")
    )
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    try:
        difference = np.abs(actual - desired)
    except ValueError:  # shapes that do not fit: the comparison itself says so
        close(*args, **keywords)
        return
    allowed = np.broadcast_to(atol + rtol * np.abs(desired), difference.shape)
    desired = np.broadcast_to(desired, difference.shape)
    both = np.isfinite(difference) & (allowed > 0)
    if both.any():
        share = float(np.max(difference[both] / allowed[both]))
        if share > row["share"]:
            row["share"] = share
            row["tolerance"] = {"rtol": float(rtol), "atol": float(np.max(atol))}
        largest = float(difference[both].max())
        row["difference"] = max(row["difference"], largest)
        row["relative"] = max(row["relative"], largest / max(np.abs(desired[both]).max(), 1e-30))
    close(*args, **keywords)
