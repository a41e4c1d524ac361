"""Every signature of the package is checked while the tests run: types by beartype, shapes by `array_hints`."""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from types import FunctionType
from typing import Any

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

from helpers import array_hints

_ONLY_WHEN_READ: FrozenDict = FrozenDict({Mapping[str, np.ndarray]: Mapping})
"""Arrays may be those of a file: a check that looks at one reads the file, which may be damaged."""
# An int is a float here, as for every type checker (PEP 484). A wrong type is a TypeError, as it is of jaxtyping.
_TYPED = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=_ONLY_WHEN_READ, violation_type=TypeError)
)
_CHECKED = "__beartype_func"
"""Where beartype's checks keep the function that they are around."""


def check_package(name: str) -> None:
    """Have every function and dataclass of a package checked that is imported from now on.

    jaxtyping's import hook decorates them with `jaxtyping.jaxtyped`, which binds the arguments and checks them
    twice in each call: with that, most of the time of tests that attack. `checked` stands in and checks them
    once, and `array_hints` answers whether an array fits its hint.
    """
    jaxtyping.jaxtyped = checked
    array_hints.install()
    jaxtyping.install_import_hook(name, None)


def checked(fn: Any = None, **options: Any) -> Any:
    """A function whose arguments and result have the types and shapes of its annotations, or a dataclass so made."""
    if fn is None:
        return checked
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
            fn.__init__ = checked(fn.__init__)  # type: ignore[method-assign]
        return fn
    typed = _typed(fn)
    return array_hints.with_sizes_of_its_own(typed, fn) if _has_shapes(fn) else typed


_checks: dict[int, FunctionType] = {}
"""What beartype made for a function that is defined inside another, by the identity of its code."""


def _typed(fn: Any) -> Callable:
    """A function whose arguments and result beartype checks.

    It takes a millisecond to make the checks. A function inside another is a new one in each call of that:
    it gets those of the first.
    """
    if id(fn.__code__) in _checks:
        made = _checks[id(fn.__code__)]
        twin = FunctionType(
            made.__code__, made.__globals__, made.__name__, made.__defaults__, made.__closure__
        )
        twin.__kwdefaults__ = (made.__kwdefaults__ or {}) | {_CHECKED: fn}
        return wraps(fn)(twin)
    _without_names_for_types_only(fn)
    typed = _TYPED(fn)
    if "<locals>" in fn.__qualname__ and _CHECKED in (typed.__kwdefaults__ or {}):
        _checks[id(fn.__code__)] = typed  # keeps the function, and so the code
    return typed


def _without_names_for_types_only(fn: Callable) -> None:
    """Hints that name what a module imports `if TYPE_CHECKING` say nothing while it runs."""
    source = getattr(sys.modules.get(fn.__module__), "__file__", None)
    hidden = _for_types_only(source) if source else frozenset()
    for name, hint in inspect.get_annotations(fn).items():
        if isinstance(hint, str) and not hidden.isdisjoint(re.findall(r"\w+", hint)):
            fn.__annotations__[name] = Any


@cache
def _for_types_only(source: str) -> frozenset[str]:
    """Names that a file imports under `if TYPE_CHECKING`."""
    text = Path(source).read_text(encoding="utf-8")
    blocks = [
        node
        for node in (ast.walk(ast.parse(text)) if "TYPE_CHECKING" in text else ())
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [
        node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom | ast.Import)
    ]
    return frozenset(alias.asname or alias.name for node in imports for alias in node.names)


def _has_shapes(fn: Callable) -> bool:
    """Whether a hint names sizes; a string or a type variable (~) may."""
    hints = inspect.get_annotations(fn).values()
    return any(isinstance(hint, str) or re.search(r"jaxtyping|~", repr(hint)) for hint in hints)
