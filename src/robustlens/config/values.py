"""Base of everything that people write in files: frozen values, fractions, one-line errors."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from robustlens.config.names import in_unicode, unicode_alone
from robustlens.errors import ConfigError
from robustlens.registry import near_name


def norm_name(text: str) -> str:
    """The norm's one name here ("Linf", "L2", "L1") for any usual spelling; `ConfigError` otherwise.

    >>> norm_name("l_inf"), norm_name("l2")
    ('Linf', 'L2')
    """
    known = {"linf": "Linf", "inf": "Linf", "l2": "L2", "2": "L2", "l1": "L1", "1": "L1"}
    name = known.get(re.sub(r"[_\-\s]", "", str(text)).lower())
    if name is None:
        raise ConfigError(f"norm: found {text!r}, expected Linf, L2 or L1")
    return name


_LONGEST_NUMBER = 40
"""Characters of a number; a float needs 24, and exact fractions of longer ones take time and memory."""
_NUMBER = re.compile(r"\s*[-+]?[.\d]+([eE][-+]?\d{1,3})?\s*(/\s*[.\d]+\s*)?", re.ASCII)


_LARGEST_COUNT = 1 << 62
"""Largest integer anywhere: seeds reach it, and machines count no further."""


def number(text: Any) -> Any:
    """A float from a number or a fraction such as "8/255"; anything else is passed on for pydantic to refuse.

    >>> number("8/255") == 8 / 255
    True
    """
    if isinstance(text, bool):
        raise ValueError(f": found {text}, expected a number")
    if not isinstance(text, str):
        return text
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(
            f": found {text[:20]!r}..., expected a number of at most {_LONGEST_NUMBER} characters"
        )
    if _NUMBER.fullmatch(text):
        top, _, bottom = text.partition("/")
        try:
            return float(Fraction(top.strip()) / Fraction(bottom.strip() or "1"))
        except (ValueError, ZeroDivisionError, OverflowError):
            return text
    return text


def eps_text(eps: float) -> str:
    """A radius as people write it: 0.1, or 8/255.

    >>> eps_text(0.1), eps_text(8 / 255), eps_text(0.123456)
    ('0.1', '8/255', '0.1235')
    """
    if abs(eps - round(eps, 3)) < 1e-9:
        return f"{eps:g}"
    if abs(eps * 255 - round(eps * 255)) < 1e-6:
        return f"{round(eps * 255)}/255"
    return f"{eps:.4g}"


_LARGEST = 1e18  # of a number's size: float32 holds its square


def _sized(value: float) -> float:
    """The number, if it is one to compute with."""
    if abs(value) > _LARGEST:
        raise PydanticCustomError("size", "input should be of size at most 1e18")
    return value


Count = Annotated[int, Field(ge=1)]
"""Option that counts: images, draws, steps."""
_FRACTION = r"^\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*(/\s*[0-9.]+([eE][-+]?[0-9]+)?\s*)?$"
Number = Annotated[
    float,
    BeforeValidator(number),
    Field(allow_inf_nan=False),
    AfterValidator(_sized),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": _FRACTION}]}),
]
"""A number of a file that people write: 0.1, or a text such as 8/255."""


def as_files_keep(value: Any, *, path: str = "") -> Any:
    """The value as JSON gives it back, tuples as lists; `ValueError` for what would be another value."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: as_files_keep(entry, path=f"{path}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_files_keep(entry, path=f"{path}[{place}]") for place, entry in enumerate(value)]
    is_kept = math.isfinite(value) if isinstance(value, float) else isinstance(value, int | str | None)
    if not is_kept or (isinstance(value, str) and in_unicode(value) != value):
        raise ValueError(f"{path[1:]}: found {value!r}, expected a finite number, text, true, false or null")
    return value


Options = Annotated[dict[str, Any], AfterValidator(as_files_keep)]
"""Options of something that has a name: whatever JSON keeps."""


DIMENSIONS = 3 * 224 * 224
"""Pixels of an image where nobody says how many there are: as many as the field's large images have."""


def widest_radius(norm: str, bounds: tuple[float, float], dimensions: int = DIMENSIONS) -> float:
    """The radius that reaches any image of so many dimensions from any other."""
    return {"Linf": 1.0, "L2": dimensions**0.5, "L1": float(dimensions)}[norm] * (bounds[1] - bounds[0])


def radius_problem(
    norm: str, eps: float, bounds: tuple[float, float] = (0.0, 1.0), dimensions: int = DIMENSIONS
) -> str | None:
    """Words for what is wrong with this radius on images of so many dimensions, or None.

    A ball wider than the pixel box almost always is a radius written in 0..255 units.
    """
    if not 0 <= eps < float("inf"):
        return f"found {eps}, expected a finite number >= 0"
    if eps > widest_radius(norm, bounds, dimensions):
        likely = f"{eps:g}/255 = {eps / 255 * (bounds[1] - bounds[0]):.4g}"
        return f"found {eps:g}, which reaches any image on pixels in {list(bounds)}; did you mean {likely}?"
    return None


class Values(BaseModel):
    """Base of every part of a recipe: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _unicode = field_validator("*", mode="before")(unicode_alone)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: Any) -> Any:
        """Refuse true where a count goes: pydantic takes it for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        parts = value if isinstance(value, list | tuple) and kind == tuple[int, ...] else [value]
        counts = kind in (int, int | None, tuple[int, ...])
        if counts and any(isinstance(part, bool) for part in parts):
            raise PydanticCustomError("count", "input should be an integer")
        return value


Kind = TypeVar("Kind", bound=Values)


def checked(kind: type[Kind], values: Any, where: str) -> Kind:
    """Build `kind` from untrusted `values`; pydantic's report becomes one `ConfigError` line.

    >>> class Spec(Values):
    ...     rho: Number = 0.05
    >>> checked(Spec, {"ro": 1}, "sam")
    Traceback (most recent call last):
    ...
    robustlens.errors.ConfigError: sam.ro: unknown key, found 1; expected one of rho; did you mean 'rho'?
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a mapping")
    for field, value in flat(values, f"{where}.").items():
        if isinstance(value, int) and abs(value) > _LARGEST_COUNT:
            raise ConfigError(
                f"{field}: found an integer of {value.bit_length()} bits, expected at most {_LARGEST_COUNT}"
            )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, where, kind)) from error


def _first_problem(error: ValidationError, where: str, kind: type[BaseModel]) -> str:
    """The first problem that pydantic found, as field, value found and value expected."""
    # A misspelt key explains what is missing beside it, so it goes first.
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    place = ".".join([where, *(str(part) for part in problem["loc"])]).strip(".")
    if problem["type"] == "extra_forbidden":
        names = _fields(kind, problem["loc"][:-1])
        shown = f"found {repr(problem['input'])[:80]}; expected one of {', '.join(names)}"
        return f"{place}: unknown key, {shown}{near_name(problem['loc'][-1], names)}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "value_error":  # one of our own checks, which says what it found
        text = str(problem["ctx"]["error"])
        return f"{place}{text}" if text.startswith(":") else f"{place}.{text}"
    message = problem["msg"]
    return f"{place}: found {repr(problem['input'])[:80]}; {message[:1].lower() + message[1:]}{more}"


def _fields(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """Field names of the part of `kind` at `place`."""
    for part in place:
        field = kind.model_fields.get(part) if hasattr(kind, "model_fields") else None
        if field is None:
            return ["the documented keys"]
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return list(kind.model_fields) if kind is not None else ["the documented keys"]


def canonical(value: Any) -> Any:
    """One spelling for equal numbers: 6.0 is 6."""
    if isinstance(value, dict):
        return {key: canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def flat(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined with dots."""
    joined: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, dict)
        joined.update(flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value})
    return joined


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What nested mappings hold, with the keys that lead there; an empty mapping is held as it is."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value
