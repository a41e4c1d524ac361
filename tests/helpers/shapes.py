"""Every signature of the package is checked while the tests run: types by beartype, shapes by jaxtyping."""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import jaxtyped

_ONLY_WHEN_READ: FrozenDict = FrozenDict({Mapping[str, np.ndarray]: Mapping})
"""Arrays may be those of a file: a check that looks at one reads the file, which may be damaged."""
# An int is a float here, as for every type checker (PEP 484). A wrong type is a TypeError, as it is of jaxtyping.
_TYPED = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=_ONLY_WHEN_READ, violation_type=TypeError)
)


def check_package(name: str) -> None:
    """Have every function and dataclass of a package checked that is imported from now on.

    jaxtyping's import hook decorates them with `jaxtyping.jaxtyped`, which binds the arguments and checks them
    twice in each call: half of the processor time of tests that attack. `checked` stands in and checks them once.
    """
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(name, None)


def checked(fn: Any = None, **options: Any) -> Any:
    """A function whose arguments and result have the types and shapes of its annotations, or a dataclass so made."""
    if fn is None:
        return checked
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
            fn.__init__ = checked(fn.__init__)  # type: ignore[method-assign]
        return fn
    _without_names_for_types_only(fn)
    typed = _TYPED(fn)
    return _with_axes_of_its_own(typed) if _has_shapes(fn) else typed


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
    blocks = [
        node
        for node in ast.walk(ast.parse(Path(source).read_text(encoding="utf-8")))
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


def _with_axes_of_its_own(fn: Callable) -> Callable:
    """`n` is one size within a call, and may be another in the next."""

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return fn(*args, **kwargs)

    return call
