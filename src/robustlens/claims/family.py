"""The claims that one study decides, controlled together.

Benjamini and Hochberg (1995): of the claims that come out, for or against, at most 5 % are expected to be
wrong, and where no claim has an effect, at most 5 % of studies let any come out. Rather than Holm's rule,
because the tests rest on few units (three seeds, six layers, six methods), whose smallest p-values Holm's
first thresholds lie below however large the effect. The rule is proven for independent and positively
dependent tests; for claims of one study, which share runs and images, `bench/null_claims.py` shows that it
holds.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robustlens.results import ClaimResult
from robustlens.stats.intervals import LEVEL


def controlled(claims: Sequence[ClaimResult]) -> tuple[ClaimResult, ...]:
    """The claims, with `adjusted_p` where they are decided; above 0.05 they are inconclusive.

    A claim that is inconclusive by itself counts in the family with p = 1.
    """
    decided = [place for place, claim in enumerate(claims) if claim.scope == "decided"]
    own = [_p(claims[place]) for place in decided]
    adjusted = dict(zip(decided, benjamini_hochberg(own), strict=True))
    return tuple(
        _in_family(claim, adjusted[place], len(decided)) if place in adjusted else claim
        for place, claim in enumerate(claims)
    )


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: the least false discovery rate at which each is still rejected.

    >>> benjamini_hochberg([0.04, 0.01, 1.0])
    [0.06, 0.03, 1.0]
    """
    n = len(p)
    order = np.argsort(p)[::-1]
    scaled = np.array(p)[order] * n / np.arange(n, 0, -1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate(scaled).clip(max=1.0)
    return [float(value) for value in adjusted]


def _p(claim: ClaimResult) -> float:
    came_out = claim.verdict != "inconclusive" and claim.effect.p is not None
    return float(claim.effect.p) if came_out and claim.effect.p is not None else 1.0


def _in_family(claim: ClaimResult, adjusted: float, size: int) -> ClaimResult:
    claim = replace(claim, adjusted_p=adjusted)
    if claim.verdict == "inconclusive" or adjusted <= 1 - LEVEL:
        return claim
    alone = f"p {claim.effect.p:.2g} alone, {adjusted:.2g} among them"
    reason = f"not clear among the {size} claims that the study decides ({alone})"
    return replace(claim, verdict="inconclusive", why=f"{claim.why.rstrip('.')}; {reason}.")
