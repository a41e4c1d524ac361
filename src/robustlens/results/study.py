"""Studies as files keep them: `study.json` and `claims.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustlens.results.values import Number

Verdict = Literal["supported", "not supported", "inconclusive"]


@dataclass(frozen=True)
class RunEntry:
    """One run of a study.

    Attributes:
        id: name of the run. folder: where it lies in the study. method, label: as reports call it.
        objective: name of the training objective. eps: training strength. seed: training seed.
        perturbation: of the weights, by its field of the recipe; None for none.
        from_attack: whether that takes its gradient from the attack.
        unperturbed: hash of the same recipe without the perturbation: equal for two runs that differ in it
            alone. setting: hash of what strengths are compared within.
    """

    id: str
    folder: str
    label: str
    method: str = ""
    objective: str = ""
    perturbation: str | None = None
    from_attack: bool = False
    eps: float = 0.0
    seed: int = 0
    unperturbed: str | None = None
    setting: str | None = None


@dataclass(frozen=True)
class StudyRecord:
    """Plan of a study, and its runs."""

    name: str = ""
    description: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    threat: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    strengths: tuple[float, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    explanation: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[RunEntry, ...] = ()


@dataclass(frozen=True)
class Statistic:
    """How consistently a quantity goes one way. `p` is exact or by permutation, two-sided."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Effect:
    """How far a quantity goes, with its 95 % interval."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class ClaimValue:
    """Quantity of one run behind a claim; `against` is the other one where two are correlated."""

    label: str
    eps: float
    seed: int
    value: Number
    checkpoint: str | None = None
    against: float | None = None


@dataclass(frozen=True)
class ClaimResult:
    """One statement of a paper, checked on one study.

    `setting` says in which methods or at which checkpoint, where the study has several to check it in.
    """

    id: str
    paper: str
    statement: str
    quantity: str
    verdict: Verdict = "inconclusive"
    why: str = ""
    statistic: Statistic = Statistic("")
    effect: Effect = Effect("")
    values: tuple[ClaimValue, ...] = ()
    seeds: int = 0
    note: str = ""
    setting: str = ""


@dataclass(frozen=True)
class ClaimsRecord:
    """Every claim that was checked on a study, in the order of the report."""

    claims: tuple[ClaimResult, ...] = ()
