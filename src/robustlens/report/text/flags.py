"""Reliability flags: reasons not to believe a number, as the evaluation raised them."""

from dataclasses import dataclass
from typing import Any

from robustlens.report.data import ReportData, RunReport, dig

SPLITS = {"test": "test", "train": "training"}
"""Keys of an evaluation's splits, and what their images are called."""


@dataclass(frozen=True)
class Flag:
    """One flag of one run. Files of older versions say everything in `seen`."""

    name: str
    seen: str
    raised_if: str = ""
    means: str = ""
    todo: str = ""


@dataclass(frozen=True)
class Explained:
    """A kind of flag, explained once, and (who, what was seen) of everyone that raised it."""

    flag: Flag
    raised: tuple[tuple[str, str], ...]


def flags_of(record: RunReport, split: str) -> list[Flag]:
    """The flags of one run on one split."""
    return [_flag(found) for found in dig(record.evaluation, "splits", split, "flags") or ()]


def explained(study: ReportData) -> list[Explained]:
    """The flags of all runs that come with an explanation, each kind once, in the order of the study."""
    kinds: dict[str, Flag] = {}
    raised: dict[str, dict[tuple[str, str], list[str]]] = {}
    for group in study.groups:
        for record in group.records:
            for split, images in SPLITS.items():
                for flag in flags_of(record, split):
                    if flag.means:
                        kinds.setdefault(flag.name, flag)
                        seen = raised.setdefault(flag.name, {})
                        seen.setdefault((group.who(record), flag.seen), []).append(images)
    return [
        Explained(
            flag,
            tuple((who, f"{seen} ({' and '.join(on)} images)") for (who, seen), on in raised[name].items()),
        )
        for name, flag in kinds.items()
    ]


def _flag(found: Any) -> Flag:
    name = str(dig(found, "name") or "flag")
    message = str(dig(found, "message") or dig(found, "name") or found)
    raised_if, means, todo = (str(dig(found, key) or "") for key in ("raised_if", "means", "todo"))
    # The message says all three in one line, for terminals; here each has a place of its own.
    return Flag(name, message.removesuffix(f"; {means}; {todo}"), raised_if, means, todo)
