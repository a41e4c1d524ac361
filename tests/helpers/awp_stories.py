"""Runs on which the further claims about AWP, and about flatness at images, hold, are reversed or show nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.claim_data import Net

Knobs = Mapping[str, float]

SMALL = {"gamma": 0.01, "images": "small-loss", "loss_threshold": 1.7}
LARGE = {**SMALL, "images": "large-loss"}
GAMMA = {"gamma": 0.01, "images": "all", "loss_threshold": None}
FALL = 0.6
"""Robust accuracy at the best checkpoint in the stories of overfitting."""


def two(before: Mapping[str, Any], after: Mapping[str, Any], knob: str) -> Callable[..., list[Net]]:
    """Two methods, and the knob in which they differ."""

    def nets(values: Sequence[float], seed: int) -> list[Net]:
        kinds = ({"method": "before", **before}, {"method": "after", **after})
        return [Net(0.1, seed=seed, knobs={knob: v}, **kind) for kind, v in zip(kinds, values, strict=True)]

    return nets


def ladder(option: str, rungs: Sequence[float]) -> Callable[..., list[Net]]:
    """AWP at several values of an option."""

    def nets(values: Sequence[float], seed: int) -> list[Net]:
        return [
            Net(0.1, awp=True, method=f"{option} {rung}", seed=seed, knobs={"rise": value},
                options={"gamma": 0.01, "steps": 1, option: rung})
            for rung, value in zip(rungs, values, strict=True)
        ]  # fmt: skip

    return nets


def overfits(values: Sequence[float], seed: int) -> list[Net]:
    """Without and with AWP: robust accuracy falls by these numbers to the last of 20 epochs."""
    return [
        Net(0.1, awp=awp, seed=seed, knobs={"robust": FALL}, along={20: {"robust": FALL - value}})
        for awp, value in zip((False, True), values, strict=True)
    ]


def stopped(values: Sequence[float], seed: int) -> list[Net]:
    """AT at its best checkpoint, and AWP at its last; the other two are far from both."""
    plain, awp = values
    return [
        Net(0.1, seed=seed, knobs={"robust": plain}, along={20: {"robust": 0.05}}),
        Net(0.1, awp=True, seed=seed, knobs={"robust": 0.05}, along={20: {"robust": awp}}),
    ]


def within(knob: str) -> Callable[..., list[Net]]:
    """Two networks whose images differ from themselves by the knob."""

    def nets(values: Sequence[float], seed: int) -> list[Net]:
        others = {"flatter": -0.1, "surer": 0.01, "protected": 0.1}
        change = values[1] - values[0]
        methods = ("AT", "at"), ("TRADES", "trades")
        return [
            Net(0.1, objective, method=method, seed=seed, knobs={**others, knob: change})
            for method, objective in methods
        ]

    return nets


AWP_STORIES: dict[str, tuple[Callable[..., list[Net]], tuple[float, ...]]] = {
    # claim: runs, and their values where it holds; the effect is the last minus the first
    "awp-more-robust": (two({}, {"awp": True}, "robust"), (0.4, 0.6)),
    "awp-less-overfitting": (overfits, (0.3, 0.1)),
    "awp-beats-early-stopping": (stopped, (0.4, 0.6)),
    "awp-by-small-losses-more-robust": (two({}, {"awp": True, "options": SMALL}, "robust"), (0.4, 0.6)),
    "awp-small-losses-do-the-work": (
        two({"awp": True, "options": LARGE}, {"awp": True, "options": SMALL}, "robust"), (0.4, 0.6),
    ),
    "awp-large-losses-hurt": (
        two({"awp": True, "options": GAMMA}, {"awp": True, "options": SMALL}, "robust"), (0.4, 0.6),
    ),
    "awp-larger-flatter": (ladder("gamma", (0.0025, 0.005, 0.01)), (1.2, 0.9, 0.5)),
    "awp-more-steps-flatter": (ladder("steps", (1, 2, 4)), (1.2, 0.9, 0.5)),
    "awp-flatter-than-random": (
        two({"perturbation": "rwp", "options": {"gamma": 0.01}}, {"awp": True, "options": GAMMA}, "rise"),
        (1.0, 0.4),
    ),
    "flat-images-stand": (within("protected"), (0.0, 0.4)),
    "adversarial-images-flatter": (within("flatter"), (0.0, -0.7)),
    "adversarial-images-confidently-wrong": (within("surer"), (0.0, 0.2)),
}  # fmt: skip


def awp_story(name: str, how: str, seeds: int = 1) -> list[Net]:
    """Runs on which the claim "holds", is "reversed", or finds no difference ("equal")."""
    nets, values = AWP_STORIES[name]
    values = {"holds": values, "reversed": values[::-1]}.get(how, values[:1] * len(values))
    return [net for seed in range(seeds) for net in nets(values, seed)]
