"""Why a claim, or a run, has nothing to say: what was not measured, or cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager

from robustlens.errors import StateError
from robustlens.stats.bootstrap import Unusable


class Untested(Unusable):
    """A study has nothing that a claim could be tested on.

    `remedy` holds the lines of a study file that would measure it; empty where the study plans it already.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Missing(Untested):
    """A run has not been measured in this respect; others may have been."""


class Damaged(Missing):
    """A run has been measured in this respect, and the file cannot be read, or is of another plan."""


class Unranked(Missing):
    """A run has been measured in this respect, and leaves nothing to rank."""


@contextmanager
def missing_if_damaged() -> Iterator[None]:
    """What cannot be used of a run's files is `Damaged`, in the words of the error."""
    try:
        yield
    except StateError as error:
        raise Damaged(str(error)) from None
