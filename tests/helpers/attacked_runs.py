"""Runs that have an evaluation and nothing else: 40 images, counts of those that each attack leaves right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustlens.config import BEST
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.results import (
    CurvePoint,
    EvaluationResult,
    Provenance,
    Run,
    RunEntry,
    SplitResult,
    StudyFolder,
    StudyRecord,
    ThreatRecord,
)
from robustlens.stats.intervals import Interval, wilson

N = 40
RIGHT_AFTER = {"fgsm": 30, "apgd-ce": 24, "apgd-t": 21, "square": 21, "min-norm": 20}
"""Images of 40 that are still right after each attack; 36 are without."""
SECONDS = {"fgsm": 0.5, "apgd-ce": 2.0, "apgd-t": 30.0, "square": 8.0, "min-norm": 4.0}
PARTS = ("apgd-ce", "apgd-t", "square")


def split_of(right_after: Mapping[str, int] = RIGHT_AFTER, *, clean: int = 36, **more: Any) -> SplitResult:
    """One split under attack; `more` are other fields of it."""
    fields: dict[str, Any] = {
        "n": N,
        "clean": wilson(clean, N),
        "robust": wilson(list(right_after.values())[-1], N),
        "loss": Interval(0.5),
        "by_attack": {name: wilson(right, N) for name, right in right_after.items()},
        "seconds": {name: SECONDS[name] for name in right_after},
        "curve": curve_of((0.0, 0.1, 0.2), [20, 20, 20], N),
    }
    return SplitResult(**{**fields, **more})


def curve_of(radii: Sequence[float], right: Sequence[int], n: int) -> tuple[CurvePoint, ...]:
    """Points of an accuracy curve from counts of images."""
    shares = [wilson(count, n) for count in right]
    return tuple(
        CurvePoint(eps, share.value, share.low, share.high) for eps, share in zip(radii, shares, strict=True)
    )


def attacked_run(folder: Path, splits: Mapping[str, SplitResult], **more: Any) -> Run:
    """Write a run that has an evaluation and nothing else; `more` are other fields of the evaluation."""
    run = Run(folder)
    fields: dict[str, Any] = {
        "provenance": Provenance(None, "", "", BEST, {}),
        "threat": ThreatRecord("Linf", 0.1),
        "attacks": tuple(RIGHT_AFTER),
        "suites": {"standard": PARTS},
        "splits": dict(splits),
        "gaps": {},
    }
    run.write("evaluation", EvaluationResult(**{**fields, **more}))
    return run


def attacked_seeds(folder: Path, every: Sequence[SplitResult]) -> ReportData:
    """A study of one network, trained once for each of the test splits."""
    entries = []
    for seed, test in enumerate(every):
        attacked_run(folder / f"runs/s{seed}", {"test": test})
        entries.append(RunEntry(f"s{seed}", f"runs/s{seed}", "AT", method="AT", eps=0.1, seed=seed))
    StudyFolder(folder).write_record(StudyRecord(name="seeds", runs=tuple(entries)))
    return read_study(folder)
