"""A claim of a paper as a hypothesis, and the parts of a study in which it is checked one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustlens.claims.estimates import Estimator
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.missing import Damaged, Missing, Untested
from robustlens.claims.verdict import Findings, decide
from robustlens.config import BEST, LAST
from robustlens.results import DECIDING_SEEDS, DESCRIBED, ClaimResult
from robustlens.stats.bootstrap import Unusable


@dataclass(frozen=True)
class SensitivityCheck:
    """The same claim by another quantity: reported in the note, no part of the verdict.

    Args:
        noun: short name of the quantity.
        estimator: the quantity as a function of a run.
        direction: where it would go if it agreed.
        caution: reading of the claim where it does not.
    """

    noun: str
    estimator: Estimator
    direction: Literal[-1, 1]
    caution: str = ""


@dataclass(frozen=True)
class Design:
    """Way from a study to the findings on a hypothesis.

    Args:
        findings: of a hypothesis, on one part of a study; raises `Unusable` where data are lacking.
        parts: the parts of a study that are checked one by one.
        reads: quantities that it takes beside the hypothesis's own.
    """

    findings: "Callable[[Hypothesis, StudyData], Findings]"
    parts: Callable[[StudyData], Sequence[StudyData]] = lambda study: [study]
    reads: tuple[Estimator, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """An entry of the registry: the claim of a paper on a quantity, with its direction.

    Args:
        id: stable name.
        paper: short citation.
        statement: the claim in one sentence.
        quantity: definition of the quantity and the reason for it, in words.
        noun: the quantity's short name inside a sentence.
        estimator: the quantity as a function of a run.
        direction: +1 where the claim says it grows, -1 where it falls.
        design: `designs.STRENGTH_SWEEP`, one of `designs.matched_pairs`, or one of `correlations`.
        unit: of the quantity.
        sensitivity: checks of the same claim by other quantities, for the note; or a function that gives
            those of a study.
    """

    id: str
    paper: str
    statement: str
    quantity: str
    noun: str
    estimator: Estimator
    direction: Literal[-1, 1]
    design: Design
    unit: str = ""
    sensitivity: "tuple[SensitivityCheck, ...] | Callable[[StudyData], tuple[SensitivityCheck, ...]]" = ()

    def checks(self, study: StudyData) -> tuple[SensitivityCheck, ...]:
        """The sensitivity checks, some of which depend on what a study measured."""
        return self.sensitivity if isinstance(self.sensitivity, tuple) else self.sensitivity(study)

    def claims(self, study: StudyData) -> list[ClaimResult]:
        """The claim on every part of the study that it is checked in.

        A part beyond the first is passed over where nothing of it was measured; the first one says so.
        """
        first, *others = self.design.parts(study)
        return [self.check(part) for part in (first, *others) if part is first or not self._unmeasured(part)]

    def check(self, study: StudyData) -> ClaimResult:
        """The claim by itself on this part: decided, described, or untested; `why` names what is lacking."""
        claim = ClaimResult(self.id, self.paper, self.statement, self.quantity, setting=study.setting)
        try:
            findings = self.design.findings(self, study)
        except Untested as reason:
            return replace(claim, why=_sentence(str(reason)), remedy=reason.remedy)
        except Unusable as reason:
            if lacking := self._unmeasured(study):
                return replace(claim, why=_sentence(str(lacking)), remedy=lacking.remedy)
            decides = len({run.entry.seed for run in study.runs}) >= DECIDING_SEEDS
            return replace(
                claim, verdict="inconclusive" if decides else "unclear", why=_sentence(str(reason))
            )
        decision, why = decide(self.direction, findings)
        decides = findings.decides
        return replace(
            claim,
            verdict=decision if decides else DESCRIBED[decision],
            why=_sentence(why),
            statistic=findings.consistency.statistic,
            effect=findings.effect if decides else replace(findings.effect, p=None),
            values=findings.values,
            seeds=findings.seeds,
            note=findings.note,
        )

    def _unmeasured(self, study: StudyData) -> Missing | None:
        """The reason why no run has one of the quantities; None where some run has each."""
        needed = (self.estimator, *self.design.reads)
        reasons = (_why_unmeasured(estimator, study.runs) for estimator in needed)
        return next((reason for reason in reasons if reason is not None), None)


def settings(study: StudyData) -> list[StudyData]:
    """The settings in which strengths can be compared, each by itself: nothing else differs inside one.

    A study with one setting of several strengths (or with none) is one part, and keeps all its runs.
    """
    by_setting: dict[str | None, list[RunData]] = {}
    for run in study.unperturbed():
        by_setting.setdefault(run.entry.setting, []).append(run)
    sweeps = [runs for runs in by_setting.values() if len({run.eps for run in runs}) > 1]
    if len(sweeps) < 2:
        return [study]
    methods = [", ".join(dict.fromkeys(run.entry.method for run in runs)) for runs in sweeps]
    return [
        replace(study, runs=runs, setting=f"in {names}") for runs, names in zip(sweeps, methods, strict=True)
    ]


def checkpoints(study: StudyData) -> list[StudyData]:
    """The study at its primary checkpoints, and apart at the last ones where these were evaluated."""
    last = [run.at(LAST) for run in study.runs]
    if not any(_is_evaluated(run) for run in last):
        return [study]
    first = study.runs[0]
    primary = (first.evaluation.provenance.checkpoint if _is_evaluated(first) else None) or BEST
    inside = f"{study.setting}, " if study.setting else ""
    return [
        replace(study, setting=f"{inside}at the {primary} checkpoint"),
        replace(study, runs=last, setting=f"{inside}at the last checkpoint"),
    ]


def settings_at_checkpoints(study: StudyData) -> list[StudyData]:
    """Every setting in which strengths can be compared, at its primary and at its last checkpoints.

    The best epoch of each run is chosen at its own strength, so "best" is another rule on every rung of a
    ladder over strengths; the last epoch is the same for all.
    """
    return [part for setting in settings(study) for part in checkpoints(setting)]


def _is_evaluated(run: RunData) -> bool:
    try:
        return run.evaluation is not None
    except Missing:
        return False


def _why_unmeasured(estimator: Estimator, runs: Sequence[RunData]) -> Missing | None:
    """The first run's reason where no run has the quantity, not even one that cannot be used."""
    reasons = []
    for run in runs:
        try:
            estimator(run)
        except Missing as reason:
            if not isinstance(reason, Damaged):
                reasons.append(reason)
        except Unusable:
            pass
    return reasons[0] if reasons and len(reasons) == len(runs) else None


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
