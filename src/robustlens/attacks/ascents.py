"""Ways in which APGD ascends: the state of each image, its step, and the rule that adapts the step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from robustlens import noise
from robustlens.attacks.base import Goal, Rows, per_image
from robustlens.threat import ThreatModel


@dataclass
class Ascent(Rows, ABC):
    """The state of each image of an ascent; how it steps, and adapts its step, is the norm's."""

    row: Int64[Tensor, " n"]
    x: Float[Tensor, "n ..."]
    goal: Goal
    step_size: Float[Tensor, " n"]
    x_adv: Float[Tensor, "n ..."]
    gradient: Float[Tensor, "n ..."]
    value: Float[Tensor, " n"]
    x_best: Float[Tensor, "n ..."]
    gradient_best: Float[Tensor, "n ..."]
    value_best: Float[Tensor, " n"]

    longest: ClassVar[float]
    """The first step, as a multiple of eps."""
    wider: ClassVar[tuple[tuple[float, int], ...]] = ()
    """Larger balls to ascend in first: multiples of eps, and percent of the steps."""

    @classmethod
    def phases(cls, threat: ThreatModel, steps: int) -> list[tuple[ThreatModel, int]]:
        """The balls to ascend in, one after another, and the steps in each."""
        wider = [(threat.at(factor * threat.eps), steps * percent // 100) for factor, percent in cls.wider]
        last = (threat, steps - sum(taken for _, taken in wider))
        return [(ball, taken) for ball, taken in (*wider, last) if taken]

    @classmethod
    def begin(cls, threat: ThreatModel, x: Tensor, x_adv: Tensor, goal: Goal) -> "Ascent":
        """All images at `x_adv`, which are not judged yet."""
        each = x.new_ones(len(x))
        return cls(
            row=torch.arange(len(x), device=x.device),
            x=x,
            goal=goal,
            step_size=each * cls.longest * threat.eps,
            x_adv=x_adv,
            gradient=torch.zeros_like(x),
            value=each * torch.inf,
            x_best=x_adv,
            gradient_best=torch.zeros_like(x),
            value_best=each * -torch.inf,
            **cls.memory(threat, x, x_adv),
        )

    def judge(self, gradient: Tensor, value: Tensor) -> None:
        """Take in the gradient and the value at `x_adv`."""
        self.gradient, self.value = gradient, value
        better = value > self.value_best
        self.x_best = _where(better, self.x_adv, self.x_best)
        self.gradient_best = _where(better, gradient, self.gradient_best)
        self.value_best = _where(better, value, self.value_best)

    def go_back(self, rows: Bool[Tensor, " n"]) -> None:
        """Put the images `rows` at their best points."""
        self.x_adv = _where(rows, self.x_best, self.x_adv)
        self.gradient = _where(rows, self.gradient_best, self.gradient)
        self.value = _where(rows, self.value_best, self.value)

    @staticmethod
    @abstractmethod
    def start(threat: ThreatModel, x: Tensor, key: Tensor) -> Tensor:
        """A random point to begin at."""

    @staticmethod
    @abstractmethod
    def memory(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
        """The further state of each image at first."""

    @staticmethod
    @abstractmethod
    def windows(steps: int) -> dict[int, int]:
        """Numbers of the steps after which to `check`, each with the number of steps since the last check."""

    @abstractmethod
    def check(self, threat: ThreatModel, few: float) -> None:
        """Adapt to the steps since the last check; no more than `few` good ones are too few."""

    @abstractmethod
    def advance(self, threat: ThreatModel, *, first: bool) -> None:
        """Take a step."""


@dataclass
class _Momentum(Ascent):
    """Croce and Hein 2020, section 3: momentum, and steps that are halved where they do not help."""

    x_before: Float[Tensor, "n ..."]
    rises: Int64[Tensor, " n"]
    halved: Bool[Tensor, " n"]
    value_checked: Float[Tensor, " n"]

    longest: ClassVar[float] = 2.0

    @staticmethod
    def start(threat: ThreatModel, x: Tensor, key: Tensor) -> Tensor:
        return threat.start_from(key, x)

    @staticmethod
    def memory(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
        return {
            "x_before": x_adv,
            "rises": torch.zeros(len(x), dtype=torch.int64, device=x.device),
            "halved": torch.ones(len(x), dtype=torch.bool, device=x.device),
            "value_checked": x.new_full((len(x),), -torch.inf),
        }

    @staticmethod
    def windows(steps: int) -> dict[int, int]:
        """Check-points ceil(p_j steps), p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
        points, percent, pace = {0}, 22, 22
        while percent < 100:
            points.add(-(-percent * steps // 100))
            pace = max(pace - 3, 6)
            percent += pace
        return {point: point - before for before, point in pairwise(sorted(points)) if point < steps}

    def judge(self, gradient: Tensor, value: Tensor) -> None:
        self.rises = self.rises + (value > self.value)
        super().judge(gradient, value)

    def check(self, threat: ThreatModel, few: float) -> None:
        stuck = ~self.halved & (self.value_checked >= self.value_best)
        self.halved = (self.rises <= few) | stuck
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self.go_back(self.halved)
        self.value_checked, self.rises = self.value_best, torch.zeros_like(self.rises)

    def advance(self, threat: ThreatModel, *, first: bool) -> None:
        ahead = threat.project(threat.ascend(self.x_adv, self.gradient, self.step_size), self.x)
        if not first:
            mixed = 0.75 * (ahead - self.x_adv) + 0.25 * (self.x_adv - self.x_before)
            ahead = threat.project(self.x_adv + mixed, self.x)
        self.x_before, self.x_adv = self.x_adv, ahead


@dataclass
class _Sparse(Ascent):
    """Croce and Hein 2021, section 4: steps that move few coordinates, ever fewer while that helps."""

    support: Int64[Tensor, " n"]
    count: Int64[Tensor, " n"]

    longest: ClassVar[float] = 1.0
    wider: ClassVar[tuple[tuple[float, int], ...]] = ((3.0, 30), (2.0, 30))

    @staticmethod
    def start(threat: ThreatModel, x: Tensor, key: Tensor) -> Tensor:
        low, high = threat.bounds
        return threat.project(x + (high - low) * noise.normal(key, x), x)

    @staticmethod
    def memory(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> dict[str, Tensor]:
        support = _support(threat, x, x_adv)
        return {"support": support, "count": _count(support)}

    @staticmethod
    def windows(steps: int) -> dict[int, int]:
        """Every 4 % of the steps."""
        window = max(4 * steps // 100, 1)
        return dict.fromkeys(range(window, steps, window), window)

    def check(self, threat: ThreatModel, few: float) -> None:
        """Go back to the best point, with long steps again, where it is sparser than at the last check."""
        support = _support(threat, self.x, self.x_best)
        sparser = support < 0.95 * self.support
        shorter = (self.step_size / 1.5).clamp_min(threat.eps / 10)
        self.step_size = torch.where(sparser, threat.eps, shorter)
        self.go_back(sparser)
        self.support, self.count = support, _count(support)

    def advance(self, threat: ThreatModel, *, first: bool) -> None:
        low, high = threat.bounds
        blocked = torch.where(self.gradient > 0, self.x_adv >= high, self.x_adv <= low)
        step = _steepest(self.gradient.flatten(1), blocked.flatten(1), self.count)
        ahead = self.x_adv + (self.step_size[:, None] * step).view_as(self.x)
        self.x_adv = threat.project(ahead, self.x)


ASCENTS: dict[str, type[Ascent]] = {"Linf": _Momentum, "L2": _Momentum, "L1": _Sparse}
"""The ascent of APGD in each norm."""


def _steepest(gradient: Tensor, blocked: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` steepest coordinates of each row that are not `blocked`, over their number.

    Blocked ones that are as steep go with them: it costs nothing, and the projection, which shrinks all that
    does not move, then leaves them at the box.
    """
    slope = gradient.abs()
    ranked = slope.masked_fill(blocked, 0).topk(int(count.amax()), dim=1).values
    least = ranked.gather(1, count[:, None] - 1)
    moved = (slope >= least) & (slope > 0)
    free = (moved & ~blocked).sum(1, keepdim=True).clamp_min(1)
    return gradient.sign() * moved / free


def _support(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> Tensor:
    """Number of coordinates that are changed, by more than rounding, and not at the box."""
    low, high = threat.bounds
    changed = (x_adv - x).abs() > 1e-6 * threat.eps
    return (changed & (x_adv > low) & (x_adv < high)).flatten(1).sum(1)


def _count(support: Tensor) -> Tensor:
    """Number of coordinates that a step moves where the best point has `support`: two thirds of them."""
    return (2 * support // 3).clamp_min(1)


def _where(rows: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """Entries of `these` for the images `rows`, of `those` for the others."""
    return torch.where(per_image(rows, these), these, those)
