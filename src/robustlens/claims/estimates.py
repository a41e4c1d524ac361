"""Estimates of one quantity of several runs, measured alike."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from robustlens.claims.evidence import RunData
from robustlens.claims.missing import Damaged, Missing, Unranked, Untested
from robustlens.results import ClaimValue
from robustlens.stats.bootstrap import Array, Quantity, Unusable

Estimator = Callable[[RunData], Quantity]
"""A quantity as a function of a run."""


@dataclass(frozen=True)
class Estimate:
    """A quantity of one run, and its value."""

    run: RunData
    quantity: Quantity
    value: Array

    def claim_value(self, against: float | None = None) -> ClaimValue:
        """Entry of the claim's `values`; a number per layer is summed up by its median."""
        entry, other = self.run.entry, self.run.other
        return ClaimValue(
            label=entry.label,
            eps=self.run.eps,
            seed=entry.seed,
            value=float(np.median(self.value)),
            checkpoint=None if other is None else str(other),
            against=against,
        )


def estimate(estimator: Estimator, runs: Iterable[RunData]) -> tuple[list[Estimate], list[Missing]]:
    """The quantity of each run that has it, and a reason for each run that has not.

    Raises:
        Unusable: a value is not finite, or the runs were measured under different conditions.
    """
    estimates: list[Estimate] = []
    missing: list[Missing] = []
    for run in runs:
        try:
            quantity = estimator(run)
        except Missing as reason:
            missing.append(reason)
            continue
        value = quantity.value()
        if not np.isfinite(value).all():
            raise Unusable(f"{run.name}: the value is not finite")
        estimates.append(Estimate(run, quantity, value))
    _check_alike(estimates, "under different conditions", lambda one: one.quantity.conditions)
    _check_alike(estimates, "on different layers", lambda one: ", ".join(one.quantity.layers))
    return estimates, missing


def _check_alike(estimates: Sequence[Estimate], how: str, of: Callable[[Estimate], str]) -> None:
    for other in estimates[1:]:
        first = estimates[0]
        if of(other) != of(first):
            raise Unusable(
                f"{first.run.name} and {other.run.name} were measured {how} "
                f"({of(first) or 'none'}; {of(other) or 'none'})"
            )


def listed(reasons: Sequence[object]) -> str:
    """The first two of reasons or caveats, and how many more there are; empty where there is none."""
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return "; ".join(str(reason) for reason in reasons[:2]) + more


def lacking(reason: str, missing: Sequence[Missing], remedy: str = "") -> Unusable:
    """The exception for a claim that runs are missing for: untested, unless some were measured in vain."""
    if any(isinstance(one, Damaged | Unranked) for one in missing):
        return Unusable(reason)
    return Untested(reason, remedy or next((one.remedy for one in missing if one.remedy), ""))
