"""Auto-PGD: projected gradient ascent that chooses its own step sizes, image by image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from robustlens import losses, noise
from robustlens.attacks.base import Goal, Rows, input_gradient, likely_classes, require_radius
from robustlens.attacks.best import Best, in_turn
from robustlens.errors import ConfigError
from robustlens.models import frozen
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class APGD:
    """Auto-PGD (Croce and Hein 2020, algorithm 1), for L1 its sparse form (Croce and Hein 2021, section 4).

    For Linf and L2 an image takes steps with momentum, at first of length 2 eps. At fixed check-points its
    step is halved, and it goes back to its best point, if too few steps since the last check-point raised its
    loss, or if the last check-point did not halve it and no better point has been found since.

    For L1 a step moves the steepest coordinates, as many as the support of the best point suggests, all
    equally far. The first 30 % of the steps are taken in the ball of radius 3 eps, the next 30 % at 2 eps.

    Args:
        threat: what may be changed, and how far.
        steps: gradient steps of each try.
        restarts: independent tries; each goes on only with the images that no try has broken yet.
        loss: "ce", "dlr", "margin" or "kl"; with targets one of the first three. Below three classes, below
            four with targets, "dlr" is not defined and the margin is climbed in its place.
        targets: if not 0, attack towards each of so many classes in turn, the most likely ones at x other
            than y (fewer where there are fewer). Any misclassification counts.
        eot: passes over which the gradient and the loss of a randomised model are averaged. A point has
            fooled it where most passes are wrong.
        rho: share of the steps between two check-points that have to raise the loss (Linf and L2).
        stop_at_success: drop an image from the batch once it is broken; see `PGD`.
        seed: base of the random starts where no generator is given.
        restart: number of the (first) restart, which enters its random start.
        target_rank: attack towards this one of the likely classes only, 0 for the most likely one: one of
            the tries that `targets` stands for.

    Raises:
        ConfigError: an argument out of range, or a loss that does not fit.

    Where we differ from the authors' code: random starts for Linf and L2 are uniform in the ball, not on its
    surface; projections are exact on ball and pixel box together; after going back to the best point the next
    step is compared with that point, as the paper says. In L1, coordinates that the box holds are not
    counted: neither in the support nor among the steepest, with which they are pushed along (`_steepest`).
    """

    threat: ThreatModel
    steps: int = 100
    restarts: int = 1
    loss: str = "ce"
    targets: int = 0
    eot: int = 1
    rho: float = 0.75
    stop_at_success: bool = False
    seed: int = 0
    restart: int = 0
    target_rank: int | None = None

    def __post_init__(self) -> None:
        require_radius(self.threat)
        losses.get(self.loss, targeted=self.targets > 0 or self.target_rank is not None)
        if self.steps < 1 or self.restarts < 1 or self.eot < 1:
            found = f"steps {self.steps}, restarts {self.restarts}, eot {self.eot}"
            raise ConfigError(f"attack: found {found}; expected >= 1")
        if self.targets < 0 or (self.target_rank or 0) < 0:
            found = f"targets {self.targets}, target_rank {self.target_rank}"
            raise ConfigError(f"attack: found {found}; expected >= 0")
        if self.targets and self.target_rank is not None:
            raise ConfigError("attack.target_rank: is one of several targets; use it with targets=0")
        if not 0 < self.rho < 1:
            raise ConfigError(f"attack.rho: found {self.rho}, expected a share between 0 and 1")

    def note(self, classes: int) -> str | None:
        """What is climbed instead where the loss is not defined for so few classes; None where it is."""
        targeted = self.targets > 0 or self.target_rank is not None
        if losses.fitting(self.loss, classes, targeted=targeted) == self.loss:
            return None
        kind = "targeted APGD" if targeted else "APGD"
        return f"{kind} climbs the margin: {self.loss!r} is not defined for {classes} classes"

    def tries(self) -> tuple["APGD", ...]:
        """One attack for each restart towards each class."""
        ranks = range(self.targets) if self.targets else (self.target_rank,)
        return tuple(
            replace(self, targets=0, target_rank=rank, restarts=1, restart=self.restart + i)
            for rank in ranks
            for i in range(self.restarts)
        )

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        seed, x = noise.seed_from(generator, self.seed), x.detach()
        with frozen(model):
            logits = self._mean_logits(model, x)
            if (self.target_rank or 0) >= logits.shape[1] - 1:
                return x.clone()  # there are fewer classes
            goal = self._goal(model, x, y, logits)
            if self.targets or self.restarts > 1:
                return in_turn(replace(self, seed=seed).tries(), model, x, y, goal)
            key = noise.fold(noise.keys(x, seed), self.restart)
            rows, best = torch.arange(len(x), device=x.device), Best(x)
            best.offer(rows, x, goal.value(logits), goal.won(logits))
            found = self._search(model, x, goal, noise.fold(key, self.target_rank or 0))
            best.offer(rows, found.x_adv, found.value, found.won)
            return best.x_adv

    def _goal(self, model: nn.Module, x: Tensor, y: Tensor, clean_logits: Tensor) -> Goal:
        classes = clean_logits.shape[1]
        if self.target_rank is None:
            return Goal.of(model, x, y, losses.fitting(self.loss, classes), targeted=False)
        wanted = likely_classes(clean_logits, y, self.target_rank + 1)[:, -1]
        return Goal.towards(wanted, y, losses.fitting(self.loss, classes, targeted=True))

    def _search(self, model: nn.Module, x: Tensor, goal: Goal, key: Tensor) -> Best:
        """One try: the best point of each image within eps, by way of larger balls in L1."""
        ascent = ASCENTS[self.threat.norm]
        phases = ascent.phases(self.threat, self.steps)
        best = Best(ascent.start(phases[0][0], x, key))
        for threat, steps in phases:
            climb = ascent.begin(threat, x, threat.project(best.x_adv, x), goal)
            best = Best(climb.x_adv)
            self._climb(model, climb, threat, steps, best)
        return best

    def _climb(self, model: nn.Module, climb: "_Ascent", threat: ThreatModel, steps: int, best: Best) -> None:
        """Take `steps` steps and offer every point to `best`."""
        counts = threat.eps <= self.threat.eps  # in a larger ball nothing is won yet
        windows = climb.windows(steps)
        for step in range(steps):
            gradient, value, won = self._mean_gradient(model, climb.x_adv, climb.goal)
            best.offer(climb.row, climb.x_adv, value, won & counts)
            climb.judge(gradient, value)
            if self.stop_at_success and counts and bool(won.any()):
                climb = climb[~won]
            if len(climb.row) == 0:
                return
            if step in windows:
                climb.check(threat, self.rho * windows[step])
            climb.advance(threat, first=step == 0)
        value, won = self._mean_verdict(model, climb.x_adv, climb.goal)
        best.offer(climb.row, climb.x_adv, value, won & counts)

    def _mean_gradient(self, model: nn.Module, x_adv: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """`input_gradient` over all passes."""
        gradient, value, won = zip(
            *(input_gradient(model, x_adv, goal) for _ in range(self.eot)), strict=True
        )
        return torch.stack(gradient).mean(0), torch.stack(value).mean(0), _most(won)

    @torch.no_grad()
    def _mean_verdict(self, model: nn.Module, x_adv: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        passes = [model(x_adv) for _ in range(self.eot)]
        return torch.stack([goal.value(p) for p in passes]).mean(0), _most([goal.won(p) for p in passes])

    @torch.no_grad()
    def _mean_logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([model(x) for _ in range(self.eot)]).mean(0)


@dataclass
class _Ascent(Rows, ABC):
    """Where each image of a climb stands; how it moves on, and learns to move, is the norm's."""

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
    """Larger balls to climb in first: multiples of eps, and percent of the steps."""

    @classmethod
    def phases(cls, threat: ThreatModel, steps: int) -> list[tuple[ThreatModel, int]]:
        """The balls to climb in, one after another, and the steps in each."""
        wider = [(threat.at(factor * threat.eps), steps * percent // 100) for factor, percent in cls.wider]
        last = (threat, steps - sum(taken for _, taken in wider))
        return [(ball, taken) for ball, taken in (*wider, last) if taken]

    @classmethod
    def begin(cls, threat: ThreatModel, x: Tensor, x_adv: Tensor, goal: Goal) -> "_Ascent":
        """All images at `x_adv`, of which nothing is known yet."""
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
        """Take in what the model says of `x_adv`."""
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
        """What else this way to climb remembers of each image at first."""

    @staticmethod
    @abstractmethod
    def windows(steps: int) -> dict[int, int]:
        """After how many steps to `check`, and how many of them came since the last check."""

    @abstractmethod
    def check(self, threat: ThreatModel, few: float) -> None:
        """Learn from the steps since the last check; no more than `few` good ones are too few."""

    @abstractmethod
    def advance(self, threat: ThreatModel, *, first: bool) -> None:
        """Take a step."""


@dataclass
class _Momentum(_Ascent):
    """Croce and Hein 2020, section 3: momentum, and steps that are halved where they do not pay."""

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
class _Sparse(_Ascent):
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
        """Where the best point is sparser than at the last check go back to it, with long steps again."""
        support = _support(threat, self.x, self.x_best)
        sparser = support < 0.95 * self.support
        shorter = (self.step_size / 1.5).clamp_min(threat.eps / 10)
        self.step_size = torch.where(sparser, threat.eps, shorter)
        self.go_back(sparser)
        self.support, self.count = support, _count(support)

    def advance(self, threat: ThreatModel, *, first: bool) -> None:
        low, high = threat.bounds
        held = torch.where(self.gradient > 0, self.x_adv >= high, self.x_adv <= low)
        step = _steepest(self.gradient.flatten(1), held.flatten(1), self.count)
        ahead = self.x_adv + (self.step_size[:, None] * step).view_as(self.x)
        self.x_adv = threat.project(ahead, self.x)


ASCENTS: dict[str, type[_Ascent]] = {"Linf": _Momentum, "L2": _Momentum, "L1": _Sparse}
"""How APGD climbs in each norm."""


def _steepest(gradient: Tensor, held: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` steepest coordinates of each row that are not `held`, over their number.

    Those among the held that are as steep go with them: it costs nothing, and the projection, which shrinks
    whatever does not move, then leaves them at the box.
    """
    slope = gradient.abs()
    ranked = slope.masked_fill(held, 0).topk(int(count.amax()), dim=1).values
    least = ranked.gather(1, count[:, None] - 1)
    moved = (slope >= least) & (slope > 0)
    free = (moved & ~held).sum(1, keepdim=True).clamp_min(1)
    return gradient.sign() * moved / free


def _support(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> Tensor:
    """How many coordinates are changed, by more than rounding, and not held by the box."""
    low, high = threat.bounds
    changed = (x_adv - x).abs() > 1e-6 * threat.eps
    return (changed & (x_adv > low) & (x_adv < high)).flatten(1).sum(1)


def _count(support: Tensor) -> Tensor:
    """How many coordinates a step moves where the best point has `support`: two thirds of them."""
    return (2 * support // 3).clamp_min(1)


def _where(rows: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """Entries of `these` for the images `rows`, of `those` for the others."""
    return torch.where(rows.view(-1, *[1] * (these.dim() - 1)), these, those)


def _most(votes: Sequence[Tensor]) -> Tensor:
    """Whether more than half of the passes say so, per image."""
    return torch.stack(tuple(votes)).float().mean(0) > 0.5
