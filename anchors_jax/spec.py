"""Configs that name the code they run, without registries.

    config.detector.objective.assign = bind(max_iou.assign, positive_iou=0.6)
    config.detector.model.backbone = make(resnet.ResNet, depth=50)

`bind` records a function that still waits for arrays, `make` a call whose value is wanted. Both
check keyword names against the real signature when the config is read, and write the defaults down
too, so that a config is the full record of an experiment and every keyword can be overridden from
the command line. The record is plain data: {"bind": "package.module:name", keyword: value, ...}.
"""

import difflib
import functools
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference, config_dict

BIND, MAKE = "bind", "make"
# Wiring, not hyper-parameters: every linen module takes the first two, and the training loop tells
# the third.
_WIRING = frozenset({"parent", "name", "step"})


class SpecError(ValueError):
    """A config names code or keywords that do not exist."""


def bind(function: Callable, /, **keywords: Any) -> ConfigDict:
    """Record `function` with keywords; builds to a partial that waits for the rest.

    Args:
      function: an importable (module-level) function or class.
      **keywords: values that are plain data, ConfigDict references, or further records.

    Raises:
      SpecError: the function cannot be imported by name, or has no such keyword.
    """
    return _record(BIND, function, keywords)


def make(function: Callable, /, **keywords: Any) -> ConfigDict:
    """Record the call `function(**keywords)`; builds to its value. Errors as in `bind`."""
    return _record(MAKE, function, keywords)


def build(node: Any) -> Any:
    """Turn records (at any depth) into partials and values, and lists into tuples.

    Raises:
      SpecError: naming the record, if its code or a keyword does not exist or one is missing.
    """
    if isinstance(node, FieldReference):
        return build(node.get())
    if isinstance(node, ConfigDict | Mapping):
        fields = dict(node.items())
        kind = next((key for key in (BIND, MAKE) if key in fields), None)
        if kind is None:
            return {key: build(value) for key, value in fields.items()}
        return _build_record(kind, fields)
    if isinstance(node, list | tuple):
        return tuple(build(value) for value in node)
    return node


def check(node: Any) -> None:
    """Raise SpecError where `build` would."""
    build(node)


def plain(config: Any) -> Any:
    """The config as JSON data (dicts, lists, numbers, strings), references resolved."""
    if isinstance(config, ConfigDict):
        config = json.loads(config.to_json_best_effort())
    return json.loads(json.dumps(config))


def from_plain(value: Any) -> Any:
    """The config that `plain` was made from, but for its references: each key is on its own."""
    if value is None:
        return config_dict.placeholder(object)
    if isinstance(value, dict):
        return ConfigDict({key: from_plain(item) for key, item in value.items()})
    if isinstance(value, list):  # None in a list has no key that could be overridden
        return tuple(item if item is None else from_plain(item) for item in value)
    return value


def records(node: Any, *, where: str = "") -> Iterator[tuple[str, Callable, dict[str, Any]]]:
    """(dotted key, function, keywords) of every record of a config, outer ones first.

    Raises:
      SpecError: a record names code that does not exist.
    """
    if isinstance(node, list | tuple):
        for number, item in enumerate(node):
            yield from records(item, where=f"{where}[{number}]")
    if not isinstance(node, ConfigDict | Mapping):
        return
    fields = dict(node.items())
    path = next((fields.pop(kind) for kind in (BIND, MAKE) if kind in fields), None)
    if path is not None:
        yield where, resolve(path), fields
    for key, value in fields.items():
        yield from records(value, where=f"{where}.{key}" if where else key)


def resolve(path: str) -> Callable:
    """The function called `package.module:name`."""
    module_name, _, name = path.partition(":")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise SpecError(f"the config names {path!r}, which cannot be imported: {error}") from error


def nearest(word: str, known: Any) -> str:
    """A hint such as "; did you mean 'topk'?", or the list of what is known."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def _record(kind: str, function: Callable, keywords: dict[str, Any]) -> ConfigDict:
    path = f"{function.__module__}:{function.__qualname__}"
    if "<" in path:
        raise SpecError(f"{path} cannot be recorded: only importable names can")
    parameters = _keywords_of(function)
    _check_names(path, keywords, parameters)
    # None has no type to parse a command line value by: a placeholder takes any.
    values = {
        name: config_dict.placeholder(object) if value is None else value
        for name, value in {**keywords, **_defaults(parameters, keywords)}.items()
    }
    return ConfigDict({kind: path, **values}, convert_dict=True)


def _build_record(kind: str, fields: dict[str, Any]) -> Any:
    path = fields.pop(kind)
    function = resolve(path)
    _check_names(path, fields, _keywords_of(function))
    keywords = {key: build(value) for key, value in fields.items()}
    if kind == BIND:
        return functools.partial(function, **keywords)
    try:
        inspect.signature(function).bind(**keywords)
    except TypeError as error:
        raise SpecError(f"{path}: {error}") from error
    return function(**keywords)


def _keywords_of(function: Callable) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.items()
    return {n: p for n, p in parameters if p.kind in named and n not in _WIRING}


def _defaults(parameters: dict[str, inspect.Parameter], given: Any) -> dict[str, Any]:
    """The plain defaults of keywords that were not given."""
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in given and _is_plain(parameter.default)
    }


def _check_names(path: str, keywords: Any, parameters: dict[str, inspect.Parameter]) -> None:
    for name in keywords:
        if name not in parameters:
            raise SpecError(f"{path} has no keyword {name!r}{nearest(name, parameters)}")


def _is_plain(value: Any) -> bool:
    if value is inspect.Parameter.empty:
        return False
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
