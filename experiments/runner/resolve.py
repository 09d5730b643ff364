"""From a row to its config, and what two configs have in common."""

import copy
import functools
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from anchors_jax import spec
from experiments import rows

# What a run is called and which draw it is says nothing about what is trained.
NAMES = ("name", "seed")
# Keys of evaluation alone, beside those of `inference_keys`.
EVALUATION = ("data.eval", "data.eval_transforms", "evaluation")


def config_of(table: rows.Table, row: rows.Row, scale: str) -> ConfigDict:
    """The config of a row at a scale.

    Raises:
      rows.RowError: the row cannot be run, has no such scale, or overrides a key that its config
        does not have.
    """
    word = row.word(scale)
    if not row.available or word is None:
        why = row.unavailable or (f"no {scale} scale" if row.config else "a quoted number")
        raise rows.RowError(f"row {row.key} of table {table.key} cannot be run: {why}")
    module = row.config.removesuffix(".py").replace("/", ".")
    config = importlib.import_module(module).get_config(word)
    for key, value in overrides(table, row, scale).items():
        override(config, key, value, where=f"row {row.key} of table {table.key}")
    return config


def overrides(table: rows.Table, row: rows.Row, scale: str) -> dict[str, Any]:
    """All overrides of a row at a scale; its own win over its table's."""
    return {
        **table.overrides.get(scale, {}),
        **row.overrides,
        **row.at.get(scale, {}),
    }


def override(config: ConfigDict, key: str, value: Any, *, where: str) -> None:
    """Set a dotted key that the config already has; records replace the whole node."""
    node, *rest = config, *key.split(".")
    *parents, last = rest
    for depth, part in enumerate([*parents, last]):
        if not isinstance(node, ConfigDict) or part not in node:
            known = list(node) if isinstance(node, ConfigDict) else []
            at = ".".join(rest[:depth]) or "the config"
            raise rows.RowError(f"{where}: {at} has no key {part!r}{spec.nearest(part, known)}")
        if depth < len(parents):
            node = node[part]
    with node.ignore_type():
        node[last] = copy.deepcopy(value)


def fingerprint(config: ConfigDict) -> str:
    """Equal for configs that train the same thing, whatever they are called."""
    content = {key: value for key, value in spec.plain(config).items() if key not in NAMES}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def owners(scale: str) -> dict[str, tuple[str, str, str]]:
    """fingerprint -> (paper, table, row) of the first row that trains it at this scale."""
    found: dict[str, tuple[str, str, str]] = {}
    for paper in rows.PAPERS:
        for table, row in trained(rows.load(paper), scale):
            key = fingerprint(config_of(table, row, scale))
            found.setdefault(key, (paper, table.key, row.key))
    return found


def trained(paper: rows.Paper, scale: str) -> Iterator[tuple[rows.Table, rows.Row]]:
    """The rows of a paper that are trained at a scale."""
    for table in paper.tables:
        for row in table.rows:
            if row.available and row.word(scale) is not None and row.reuse is None:
                yield table, row


def owner_of(table: rows.Table, row: rows.Row, scale: str) -> tuple[str, str, str]:
    """(paper, table, row) whose training a row reports or evaluates."""
    source = row if row.reuse is None else table.row(row.reuse)
    return owners(scale)[fingerprint(config_of(table, source, scale))]


def inference_keys(config: ConfigDict) -> tuple[str, ...]:
    """Dotted keys that training does not read: a row that reuses a checkpoint may change these.

    Modules name such keywords of their functions in `INFERENCE`.
    """
    found = [
        f"{where}.{name}"
        for where, function, keywords in spec.records(config)
        for name in getattr(sys.modules[function.__module__], "INFERENCE", ())
        if name in keywords
    ]
    return (*EVALUATION, *found)


MISSING = "(none)"


def changes(before: Any, after: Any, *, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> the two values where two configs (as JSON data) differ.

    Where the recorded functions differ, so do all their keywords: only the functions are named.
    """
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return {} if before == after else {prefix: (before, after)}
    for kind in ("bind", "make"):
        names = before.get(kind), after.get(kind)
        if all(names) and names[0] != names[1]:
            return {prefix: names}
    found = {}
    for key in sorted(before.keys() | after.keys()):
        where = f"{prefix}.{key}" if prefix else key
        one, other = before.get(key, MISSING), after.get(key, MISSING)
        found |= changes(one, other, prefix=where)
    return found


def plain_overrides(table: rows.Table, row: rows.Row, scale: str) -> dict[str, Any]:
    """All overrides of a row as JSON data."""
    return {
        key: spec.plain(value) if isinstance(value, ConfigDict) else _plain(value)
        for key, value in overrides(table, row, scale).items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return spec.plain(value) if isinstance(value, ConfigDict) else value
