"""Checkpoints of a run: the best weights, the last, or those of a kept epoch."""

import re
from dataclasses import dataclass
from typing import Literal

from robustlens.errors import ConfigError

SELECTIONS = ("both", "every")
"""Sets of checkpoints that a plan may ask for: best and last, or these and every kept epoch."""


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a run. `epoch` is given where the kind is "epoch", and only there."""

    kind: Literal["best", "last", "epoch"]
    epoch: int | None = None

    @classmethod
    def parse(cls, text: "str | Checkpoint") -> "Checkpoint":
        """The checkpoint that a user, a plan or a file calls `text`; `ConfigError` for any other word.

        >>> Checkpoint.parse("epoch-10")
        Checkpoint(kind='epoch', epoch=10)
        >>> str(Checkpoint.parse("epoch-10"))
        'epoch-0010'
        """
        if isinstance(text, Checkpoint):
            return text
        kept = re.fullmatch(r"epoch-([0-9]{1,9})", str(text))
        if kept:
            return cls("epoch", int(kept[1]))
        if text == "best" or text == "last":
            return cls(text)  # type: ignore[arg-type]
        raise ConfigError(f"checkpoint: found {str(text)[:80]!r}, expected best, last or epoch-NNNN")

    def __str__(self) -> str:
        return self.kind if self.epoch is None else f"epoch-{self.epoch:04d}"


BEST = Checkpoint("best")
LAST = Checkpoint("last")


def selection(text: object) -> str:
    """The one spelling of a checkpoint, or of a selection of several; `ConfigError` for any other word.

    >>> selection("both"), selection("epoch-10")
    ('both', 'epoch-0010')
    """
    if text in SELECTIONS:
        return str(text)
    try:
        return str(Checkpoint.parse(str(text)))
    except ConfigError:
        known = ", ".join(("best", "last", *SELECTIONS))
        raise ConfigError(f"checkpoint: found {str(text)[:80]!r}, expected {known} or epoch-NNNN") from None
