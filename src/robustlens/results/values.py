"""Values that documents are made of, and how a document becomes JSON and comes back, checked.

Documents are frozen dataclasses. `decode` validates one on reading: wrong types are refused, unknown keys
ignored, null in a number is NaN. Numbers that JSON has no word for (NaN, infinity) are written as null.
"""

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    GetPydanticSchema,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core.core_schema import any_schema

from robustlens.config import Checkpoint, Plan, in_unicode
from robustlens.errors import StateError
from robustlens.stats.intervals import Interval
from robustlens.version import __version__

__all__ = ["Arrays", "Estimate95", "Flag", "Number", "Provenance", "ThreatRecord", "decode", "plain"]

if TYPE_CHECKING:
    Arrays = Mapping[str, np.ndarray]
else:  # a check of the keys and values at run time would read the file
    Arrays = Annotated[Mapping, GetPydanticSchema(lambda kind, handler: any_schema())]
"""Arrays by name: a dict when made, a verified file that is read when needed when read."""


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _interval(value: Any) -> Any:
    """An interval from its JSON form; a value that JSON could not hold is NaN."""
    if not isinstance(value, Mapping):
        return value
    return {**value, "value": _number(value.get("value"))}


Number = Annotated[
    float, BeforeValidator(_number), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})
]
"""A number of a document; null in its file is NaN."""
Estimate95 = Annotated[Interval, BeforeValidator(_interval)]
"""An interval of a document."""
CheckpointName = Annotated[Checkpoint, BeforeValidator(Checkpoint.parse)]
"""A checkpoint of a document, written as "best", "last" or "epoch-0010"."""


@dataclass(frozen=True)
class ThreatRecord:
    """Threat model that a result was measured under."""

    norm: str
    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Flag:
    """Reason to doubt an evaluation.

    Attributes:
        name: of its check.
        observed: what was seen on this model.
        raised_if: when the flag goes up. meaning: what that makes of the numbers. remedy: what to do.
    """

    name: str
    observed: str
    raised_if: str = ""
    meaning: str = ""
    remedy: str = ""

    @property
    def message(self) -> str:
        """Observation, meaning and remedy, in one line."""
        return "; ".join(part for part in (self.observed, self.meaning, self.remedy) if part)


@dataclass(frozen=True)
class Provenance:
    """Everything that a result was computed from.

    Attributes:
        recipe: hash of the run's recipe; None for a model that has none.
        weights: seal of the checkpoint's file; the fingerprint of a model that has no file of ours.
        data: fingerprint of the images.
        checkpoint: which weights; None for a model without checkpoints.
        plan: what was asked for.
        version: of robustlens, for people: a result of another version is still current.
    """

    recipe: str | None
    weights: str
    data: str
    checkpoint: CheckpointName | None
    plan: Mapping[str, Any]
    version: str = ""

    @classmethod
    def of_model(cls, weights: str, data: str, plan: Plan) -> "Provenance":
        """Provenance of a result of a model without a recipe, its weights known by fingerprint."""
        return cls(None, weights, data, None, plan.model_dump(mode="json"), __version__)

    def matches(self, other: "Provenance") -> bool:
        """Whether both results were computed from the same things, by whatever version."""
        return self.difference(other) is None

    def difference(self, other: "Provenance") -> str | None:
        """Name of the first thing in which the two differ, or None."""
        compared = ("recipe", "weights", "data", "checkpoint", "plan")
        return next((name for name in compared if getattr(self, name) != getattr(other, name)), None)


Document = TypeVar("Document")


def decode(kind: type[Document], content: Mapping[str, Any], where: str) -> Document:
    """The document in `content`; `StateError` naming `where` and the field that is wrong."""
    try:
        return cast(Document, _adapter(cast(Hashable, kind)).validate_json(json.dumps(content), strict=True))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise StateError(
            f"{where}: {place}: found {str(problem['input'])[:80]!r}, {problem['msg'].lower()}; "
            "the file was changed; restore it or delete it"
        ) from error


@cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def plain(value: Any) -> Any:
    """A document, or a part of one, as JSON values.

    Arrays are left out, what is not finite is null, and text is Unicode: a reader would refuse any other.
    """
    if isinstance(value, Checkpoint):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in fields(value) if field.name != "arrays"
        }
    if isinstance(value, Mapping):
        return {in_unicode(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return in_unicode(value) if isinstance(value, str) else value
