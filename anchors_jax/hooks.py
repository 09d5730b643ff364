"""Functions that are plugged into others, and what their signatures say about them.

An assigner or a loss names what it wants to see beside its arguments: `predicted`, `step`, `score`.
"""

import inspect
from collections.abc import Callable
from typing import Any


def asks(function: Callable, name: str) -> bool:
    """Whether a function has a parameter of that name that is neither bound nor has a default."""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def asked(function: Callable, **offered: Any) -> dict[str, Any]:
    """Those of the offered arguments that a function asks for."""
    return {name: value for name, value in offered.items() if asks(function, name)}


def keyword(function: Callable, name: str) -> Any:
    """What a keyword of a function is bound to, else its default; None if there is neither."""
    parameter = inspect.signature(function).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
