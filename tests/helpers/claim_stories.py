"""Runs on which a claim holds, is reversed or shows no difference, and one claim checked on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from helpers.awp_stories import AWP_STORIES
from helpers.chain_stories import BOUNDS, LINKS
from helpers.claim_data import Net, sweep, write
from robustlens import claims
from robustlens.claims.evidence import StudyData
from robustlens.results import ClaimResult, StudyFolder
from robustlens.stats.bootstrap import Bootstrap

STRENGTHS = (0.0, 0.1, 0.2)
SWEEPS: dict[str, tuple[str, tuple[float, ...], float]] = {
    # claim: knob, its values at eps 0, 0.1 and 0.2 where the claim holds, and the effect these make
    "stronger-more-robust": ("robust", (0.1, 0.3, 0.5), 0.4),
    "accuracy-falls": ("accuracy", (0.9, 0.85, 0.7), -0.2),
    "less-confident": ("confidence", (0.9, 0.8, 0.6), -0.3),
    # Half of the images are right, and 20 % of the errors are near the boundary as well.
    "margins-concentrate": ("near", (0.1, 0.2, 0.5), 0.2),
    # Training margins are right by 0.1 or 0.8, wrong by 0.1 (10 % of all) or 0.8, and shifted: by 0.25 these are
    # near, by 0.05 also the 5 % that are right by 0.1.
    "training-margins-concentrate": ("shift", (0.5, 0.25, 0.05), 0.15),
    "smoother-under-attack": ("change", (1.5, 0.5, 0.2), -1.3),
    "label-flips-fall": ("flips", (0.5, 0.4, 0.2), -0.3),
    "directions-more-alike": ("direction", (4.0, 3.0, 2.0), -50.0),
    "feature-change-falls": ("feature", (0.6, 0.5, 0.3), -50.0),
    "errors-indecisive": ("indecisive", (0.1, 0.2, 0.5), 0.2),  # half of the images are errors
    "right-answers-become-indecisive": ("lost", (0.0, 0.05, 0.1), 0.1),
    "train-test-margins-closer": ("shift", (0.5, 0.3, 0.1), -0.4),
    # Of all images 45 % are right by 0.8, 5 % by 0.1, 10 % are wrong by 0.1; cut to 0..1 a shift of 0.5 takes
    # these up by 0.2, 0.5 and 0.4; one of 0.1 by 0.1, 0.1 and 0.
    "ramp-gap-shrinks": ("shift", (0.5, 0.3, 0.1), 0.05 - 0.155),
    "loss-gap-shrinks": ("loss_gap", (0.4, 0.3, 0.1), -0.3),
    "error-gap-grows": ("error_gap", (0.0, 0.05, 0.15), 0.15),
    "activation-spread-falls": ("variation", (0.6, 0.5, 0.3), -50.0),
    "singular-spread-falls": ("spectrum", (0.5, 0.4, 0.3), -40.0),
    "training-error-grows": ("accuracy", (0.9, 0.85, 0.7), 0.2),
    "singular-volume-falls": ("volume", (1.0, 0.8, 0.6), -40.0),
    "class-scatter-falls": ("scatter", (3.0, 2.0, 1.0), -2.0),
}
FURTHER: dict[str, tuple[str, tuple[float, ...], float]] = {
    # 20 of 200 right images are near, k of these and 20 - k others have a small distance: the correlation is
    # (k / 200 - 0.01) / 0.09.
    "margins-rank-distances": ("ranked", (0.2, 0.55, 1.0), 8 / 9),
    "class-differences-grow": ("class_spread", (0.02, 0.05, 0.15), 0.13),
    "better-calibrated": ("confidence", (0.95, 0.9, 0.8), -0.15),  # half of the images are right
    "gradients-sparser": ("gini", (0.5, 0.6, 0.8), 0.3),
    "gradients-nearer-to-the-object": ("contrast", (0.1, 0.2, 0.4), 0.3),
}
SWEEPS |= FURTHER
PAIRS: dict[str, tuple[str, tuple[float, ...], float]] = {
    # claim: knob, without and with AWP where the claim holds
    "awp-smaller-robust-gap": ("robust_gap", (0.3, 0.1), -0.2),
    "awp-flatter": ("rise", (1.0, 0.4), -0.6),
}
ASSOCIATIONS = {
    # claim: the knob that goes with the robust gap
    "flatter-smaller-gap": "rise",
    "flatter-at-matched-temperature-smaller-gap": "matched",
    "average-case-flatter-smaller-gap": "average",
    "worst-case-flatter-smaller-gap": "worst",
    "smaller-eigenvalue-smaller-gap": "top",
    "smaller-trace-smaller-gap": "trace",
}
ALONG = {
    # claim: the knob that goes with the robust gap, epoch by epoch
    "gap-follows-landscape": "rise",
    "gap-follows-landscape-at-matched-temperature": "matched",
}
GAPS: dict[str, Sequence[int]] = {
    # rank of the robust gap where the knob rises step by step
    "holds": range(6),
    "reversed": range(5, -1, -1),
    "same": (3, 0, 5, 4, 1, 2),
    "equal": [0] * 6,
}
ASSOCIATION = "flatter-smaller-gap"
STORIES = [*SWEEPS, *PAIRS, *ASSOCIATIONS, *ALONG]
"""Claims whose stories are told here."""
EVERY = [
    *(name for name in SWEEPS if name not in FURTHER), *LINKS, *BOUNDS,
    *PAIRS, *ASSOCIATIONS, *ALONG, *AWP_STORIES, *FURTHER,
]  # fmt: skip


def check_one(folder: Path, name: str, nets: list[Net]) -> ClaimResult:
    """One claim on a study of these runs, without paying for the others."""
    write(folder, nets)
    return claims.CLAIMS[name].check(StudyData.of(StudyFolder(folder), Bootstrap(500)))


def story(name: str, how: str, seeds: int = 1) -> list[Net]:
    """Runs on which the claim holds, is reversed, or has nothing but noise ("same") or nothing ("equal")."""
    if name in ALONG:
        along = {
            5 * (i + 1): {ALONG[name]: 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.05 * gap}
            for i, gap in enumerate(GAPS[how])
        }
        return [Net(0.1, seed=seed, along=along) for seed in range(seeds)]
    if name in ASSOCIATIONS:
        nets = [Net(eps, method=method, objective=objective) for eps, method, objective in (
            (0.1, "AT", "at"), (0.2, "AT", "at"), (0.1, "TRADES", "trades"), (0.1, "MART", "mart"),
            (0.1, "FGSM", "fgsm"), (0.2, "TRADES", "trades"),
        )]  # fmt: skip
        return [
            replace(
                net, seed=seed, knobs={ASSOCIATIONS[name]: 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.05 * gap}
            )
            for seed in range(seeds)
            for i, (net, gap) in enumerate(zip(nets, GAPS[how], strict=True))
        ]
    knob, values, _ = (SWEEPS | PAIRS)[name]
    values = {"holds": values, "reversed": values[::-1]}.get(how, values[:1] * len(values))
    step = 1 if how == "same" else 0
    if name in PAIRS:
        return [
            Net(0.1, awp=awp, seed=seed, knobs={knob: value}, noise=step * (100 * seed + i))
            for seed in range(seeds)
            for i, (awp, value) in enumerate(zip((False, True), values, strict=True))
        ]
    return [
        replace(net, noise=step * (100 * net.seed + round(1000 * net.eps)))
        for net in sweep({eps: {knob: value} for eps, value in zip(STRENGTHS, values, strict=True)}, seeds)
    ]
