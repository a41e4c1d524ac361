"""Studies as files keep them: `study.json` and `claims.json`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustlens.results.values import Number

Decision = Literal["supported", "not supported", "inconclusive"]
"""Verdict over runs."""
Description = Literal["as claimed", "opposite", "unclear"]
"""Verdict over the images of one network, or of two."""
Verdict = Decision | Description | Literal["untested"]
Scope = Literal["decided", "described"]
SCOPES: dict[Verdict, Scope | None] = {
    "supported": "decided",
    "not supported": "decided",
    "inconclusive": "decided",
    "as claimed": "described",
    "opposite": "described",
    "unclear": "described",
    "untested": None,
}
"""Scope of each verdict: training anew (decided), or these networks (described)."""
DESCRIBED: dict[str, Description] = {
    "supported": "as claimed",
    "not supported": "opposite",
    "inconclusive": "unclear",
}
"""Decisions, and what the same data describe where there are too few seeds to decide."""
DECIDING_SEEDS = 3
"""Fewest training seeds that decide a claim; results of fewer are described."""


@dataclass(frozen=True)
class RunEntry:
    """One run of a study.

    Attributes:
        id: name of the run. folder: where it lies in the study. method, label: as reports call it.
        objective: name of the training objective. eps: training strength. seed: training seed.
        perturbation: of the weights, by its field of the recipe; None for none.
        from_attack: whether that takes its gradient from the attack. perturbation_options: its settings, as
            the recipe has them; empty in older files.
        unperturbed: hash of the same recipe without the perturbation: equal for two runs that differ in it
            alone. setting: hash of what strengths are compared within.
        capacity: range that the singular values of the weights are held to, as the recipe has it; empty for
            none. unbounded: hash of the same recipe without it: equal for two runs that differ in it alone.
        objective_options: of the objective, as the recipe has them; empty in older files.
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
    perturbation_options: Mapping[str, Any] = field(default_factory=dict)
    capacity: Mapping[str, Any] = field(default_factory=dict)
    unbounded: str | None = None
    objective_options: Mapping[str, Any] = field(default_factory=dict)


def standard_networks(entries: Iterable[RunEntry]) -> dict[tuple[str | None, int], RunEntry]:
    """The standard network of each (setting, seed), with which reports and claims compare the others.

    It is the first, in the order of the study, whose weights were not perturbed; one whose objective has
    options (smoothed labels, say) stands for it only where there is no other.
    """
    plain = [one for one in entries if one.objective == "standard" and one.perturbation is None]
    chosen: dict[tuple[str | None, int], RunEntry] = {}
    for entry in sorted(plain, key=lambda one: bool(one.objective_options)):
        chosen.setdefault((entry.setting, entry.seed), entry)
    return chosen


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
    """Consistency with which a quantity goes one way. `p` is exact or by permutation, two-sided."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Effect:
    """Size of the change of a quantity, with its 95 % interval.

    `p` is two-sided, of the test that the interval inverts: above 0.05 exactly where the interval holds zero.
    None where the interval is over examples alone.
    """

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    p: float | None = None


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

    Attributes:
        verdict: in words of its scope. scope: follows from the verdict; None where it is untested.
        seeds: that the effect rests on.
        setting: in which methods or at which checkpoint, where the study has several to check it in.
        adjusted_p: `effect.p` among all decided claims of the study; above 0.05 the claim is inconclusive.
        remedy: lines of a study file that would measure an untested claim; empty where the study plans it.

    Raises:
        ValueError: the scope is not that of the verdict, or fewer than three seeds decide.
    """

    id: str
    paper: str
    statement: str
    quantity: str
    verdict: Verdict = "untested"
    why: str = ""
    statistic: Statistic = Statistic("")
    effect: Effect = Effect("")
    values: tuple[ClaimValue, ...] = ()
    seeds: int = 0
    note: str = ""
    setting: str = ""
    scope: Scope | None = None
    adjusted_p: float | None = None
    remedy: str = ""

    def __post_init__(self) -> None:
        scope = SCOPES[self.verdict]
        if self.scope not in (None, scope):
            raise ValueError(f"verdict {self.verdict!r} is {scope or 'of no scope'}, found {self.scope!r}")
        if self.verdict in ("supported", "not supported") and self.seeds < DECIDING_SEEDS:
            raise ValueError(f"{self.verdict!r} takes {DECIDING_SEEDS} seeds, found {self.seeds}")
        object.__setattr__(self, "scope", scope)

    @property
    def wording(self) -> str:
        """The verdict as people read it: a description says that it is one."""
        return f"described: {self.verdict}" if self.scope == "described" else self.verdict


@dataclass(frozen=True)
class ClaimsRecord:
    """Every claim that was checked on a study, in the order of the report."""

    claims: tuple[ClaimResult, ...] = ()
