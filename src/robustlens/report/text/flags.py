"""Reliability flags: reasons not to believe a number, as the evaluation raised them."""

from dataclasses import dataclass

from robustlens.report.data import ReportData, RunReport
from robustlens.report.text.wording import SPLITS
from robustlens.results import Flag


@dataclass(frozen=True)
class FlagReport:
    """A kind of flag, explained once, and (who, what was seen) of everyone that raised it."""

    flag: Flag
    raised: tuple[tuple[str, str], ...]


def flags_of(run: RunReport, split: str) -> tuple[Flag, ...]:
    """The flags of one run on one split."""
    part = run.split(split)
    return part.flags if part else ()


def explained(data: ReportData) -> list[FlagReport]:
    """The flags of all runs that come with an explanation, each kind once, in the order of the study."""
    kinds: dict[str, Flag] = {}
    raised: dict[str, dict[tuple[str, str], list[str]]] = {}
    for who, run in data.labelled_runs():
        for split, images in SPLITS.items():
            for flag in flags_of(run, split):
                if flag.meaning:
                    kinds.setdefault(flag.name, flag)
                    by_observation = raised.setdefault(flag.name, {})
                    by_observation.setdefault((who, flag.observed), []).append(images)
    return [
        FlagReport(
            flag,
            tuple(
                (who, f"{observed} ({' and '.join(images)} images)")
                for (who, observed), images in raised[name].items()
            ),
        )
        for name, flag in kinds.items()
    ]


def unexplained(run: RunReport) -> list[str]:
    """Observations of the flags without an explanation: those of older files."""
    return [
        f"{flag.observed} ({split} images)"
        for split in SPLITS
        for flag in flags_of(run, split)
        if not flag.meaning
    ]
