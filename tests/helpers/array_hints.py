"""Whether an array fits jaxtyping's hint of its type and shape, in a fraction of jaxtyping's own time."""

import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jaxtyping


class _Running(threading.local):
    """The functions that run in a thread: for each, the sizes that the names in its hints have so far."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    @property
    def sizes(self) -> dict[str, Any]:
        """Those of the innermost function; none that last where there is none."""
        return self.calls[-1] if self.calls else {}


_running = _Running()
_KIND: Any = type(jaxtyping.AbstractArray)
fits_for_jaxtyping: Callable[[Any, Any], bool] = _KIND.__instancecheck__
"""jaxtyping's own check, for comparison."""


def install() -> None:
    """Answer for jaxtyping from now on, in every `isinstance` and every message of beartype's."""
    _KIND.__instancecheck__, _KIND.__instancecheck_str__ = fits, misfit


def with_sizes_of_its_own(typed: Callable, fn: Callable) -> Callable:
    """`typed`, the checked `fn`, in each call of which a name is one size, whatever it was in the call before.

    What torch compiles is not checked: its compiler would follow the checks.
    """
    # Not at the top: the process that starts the workers needs no torch.
    from torch.compiler import is_compiling

    @wraps(typed)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return fn(*args, **kwargs)
        calls = _running.calls
        calls.append({})
        try:
            return typed(*args, **kwargs)
        finally:
            calls.pop()

    return call


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the hint's kind of array, has one of its types, and the sizes of its names.

    Names that have no size yet get theirs where everything fits.
    """
    if not isinstance(value, hint.array_type):
        return False
    named = _named(hint, value.dtype, value.shape)
    if named is None:
        return False
    sizes = _running.sizes
    for axis, size in named:
        if sizes.get(axis, size) != size:
            return False
    sizes.update(named)
    return True


@cache
def _named(hint: Any, dtype: Any, shape: Any) -> tuple | None:
    """What each name of the hint is in an array of this type and shape; None: it does not fit."""
    if not _is_of_type(hint, dtype):
        return None
    axes, many = _axes(hint.dim_str)
    shape = tuple(shape)
    if many is not None:
        after = many + 1 + len(shape) - len(axes)
        shape = (*shape[:many], shape[many:after], *shape[after:]) if after >= many else ()
    if len(shape) != len(axes):
        return None
    fresh: dict[str, Any] = {}
    for axis, size in zip(axes, shape, strict=True):
        if isinstance(axis, str):
            if fresh.setdefault(axis, size) != size:
                return None
        elif axis is not None and axis != size:
            return None
    return tuple(fresh.items())


def misfit(hint: Any, value: Any) -> str:
    """What is wrong with a value, for a message; "" for one that fits."""
    if fits(hint, value):
        return ""
    seen = f"{type(value).__name__} {getattr(value, 'dtype', '')} {tuple(getattr(value, 'shape', ()))}"
    return f"found {seen}, expected {hint.__name__}; sizes are {_running.sizes}"


@cache
def _is_of_type(hint: Any, dtype: Any) -> bool:
    """Whether torch's or numpy's type is one of the hint's, which are names, or anything."""
    name = dtype.type.__name__ if hasattr(dtype, "type") else str(dtype).removeprefix("torch.")
    return not isinstance(hint.dtypes, list | tuple) or name in hint.dtypes


@cache
def _axes(dims: str) -> tuple[tuple[str | int | None, ...], int | None]:
    """The axes of a shape, and the place of the one that stands for several, if there is one.

    An axis is a name, a size, or None for any. Of what jaxtyping knows, sums and broadcasting are not taken.
    """
    axes: list[str | int | None] = []
    many = None
    for place, axis in enumerate(dims.split()):
        if axis == "..." or axis.startswith("*"):
            assert many is None, f"{dims!r}: two axes stand for several"
            many = place
        if axis in ("...", "_"):
            axes.append(None)
        else:
            assert axis.removeprefix("*").isidentifier() or axis.isdigit(), (
                f"{dims!r}: {axis!r} is not known here"
            )
            axes.append(int(axis) if axis.isdigit() else axis)
    return tuple(axes), many
