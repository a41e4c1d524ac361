"""Auto-PGD: projected gradient ascent that chooses its own step sizes, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks.ascents import ASCENTS, Ascent
from robustlens.attacks.base import Goal, input_gradient, likely_classes, require_radius
from robustlens.attacks.best import Best, in_turn
from robustlens.attacks.restarts import TargetedRestarts, require_at_least
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class APGD(TargetedRestarts):
    """Auto-PGD (Croce and Hein 2020, algorithm 1), for L1 its sparse form (Croce and Hein 2021, section 4).

    For Linf and L2 an image takes steps with momentum, at first of length 2 eps. At fixed check-points its
    step is halved, and it goes back to its best point, if too few steps since the last check-point raised its
    loss, or if the last check-point did not halve it and no better point has been found since.

    For L1 a step moves the steepest coordinates, as many as the support of the best point suggests, all
    equally far. The first 30 % of the steps are taken in the ball of radius 3 eps, the next 30 % at 2 eps.

    Args:
        threat: what may be changed, and how far.
        steps: gradient steps of each try.
        loss: "ce", "dlr", "margin" or "kl"; with targets one of the first three. Below three classes, below
            four with targets, "dlr" is not defined and the margin is maximised in its place.
        eot: passes over which the gradient and the loss of a randomised model are averaged. A point has
            fooled it where most passes are wrong.
        rho: share of the steps between two check-points that have to raise the loss (Linf and L2).
        stop_at_success: drop an image from the batch once it is broken; see `PGD`.
        restarts, seed, restart, targets, target_rank: see `TargetedRestarts`.

    Raises:
        ConfigError: an argument out of range, or a loss that does not fit.

    Where we differ from the authors' code: random starts for Linf and L2 are uniform in the ball, not on its
    surface; projections are exact on ball and pixel box together; after going back to the best point the next
    step is compared with that point, as the paper says. In L1, coordinates at the box are not
    counted: neither in the support nor among the steepest, with which they are pushed along (`ascents`).
    """

    threat: ThreatModel
    steps: int = 100
    loss: str = "ce"
    eot: int = 1
    rho: float = 0.75
    stop_at_success: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_radius(self.threat)
        losses.get(self.loss, targeted=self.aims)
        require_at_least(1, self, "steps", "eot")
        if not 0 < self.rho < 1:
            raise ConfigError(f"attack.rho: found {self.rho}, expected a share between 0 and 1")

    def note(self, classes: int) -> str | None:
        """The substitute where `loss` is not defined for so few classes, in words; None where it is."""
        if losses.fitting(self.loss, classes, targeted=self.aims) == self.loss:
            return None
        kind = "targeted APGD" if self.aims else "APGD"
        return f"{kind} climbs the margin: {self.loss!r} is not defined for {classes} classes"

    def _images(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        logits = self._mean_logits(model, x)
        if (self.target_rank or 0) >= logits.shape[1] - 1:
            return x.clone()  # there are fewer classes
        goal = self._goal(model, x, y, logits)
        if self.targets or self.restarts > 1:
            return in_turn(replace(self, seed=seed).tries(), model, x, y, goal)
        rows, best = torch.arange(len(x), device=x.device), Best(x)
        best.offer(rows, x, goal.value(logits), goal.won(logits))
        reached = self._search(model, x, goal, self.keys(x, seed))
        best.offer(rows, reached.x_adv, reached.value, reached.won)
        return best.x_adv

    def _goal(self, model: nn.Module, x: Tensor, y: Tensor, clean_logits: Tensor) -> Goal:
        classes = clean_logits.shape[1]
        if self.target_rank is None:
            return Goal.of(model, x, y, losses.fitting(self.loss, classes), targeted=False)
        target = likely_classes(clean_logits, y, self.target_rank + 1)[:, -1]
        return Goal.towards(target, y, losses.fitting(self.loss, classes, targeted=True))

    def _search(self, model: nn.Module, x: Tensor, goal: Goal, key: Tensor) -> Best:
        """One try: the best point of each image within eps, by way of larger balls in L1."""
        kind = ASCENTS[self.threat.norm]
        phases = kind.phases(self.threat, self.steps)
        best = Best(kind.start(phases[0][0], x, key))
        for threat, steps in phases:
            ascent = kind.begin(threat, x, threat.project(best.x_adv, x), goal)
            best = Best(ascent.x_adv)
            self._ascend(model, ascent, threat, steps, best)
        return best

    def _ascend(self, model: nn.Module, ascent: Ascent, threat: ThreatModel, steps: int, best: Best) -> None:
        """Take `steps` steps and offer every point to `best`."""
        counts = threat.eps <= self.threat.eps  # in a larger ball nothing is won yet
        windows = ascent.windows(steps)
        for step in range(steps):
            gradient, value, won = self._mean_gradient(model, ascent.x_adv, ascent.goal)
            best.offer(ascent.row, ascent.x_adv, value, won & counts)
            ascent.judge(gradient, value)
            if self.stop_at_success and counts and bool(won.any()):
                ascent = ascent[~won]
            if len(ascent.row) == 0:
                return
            if step in windows:
                ascent.check(threat, self.rho * windows[step])
            ascent.advance(threat, first=step == 0)
        value, won = self._mean_verdict(model, ascent.x_adv, ascent.goal)
        best.offer(ascent.row, ascent.x_adv, value, won & counts)

    def _mean_gradient(self, model: nn.Module, x_adv: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """`input_gradient` over all passes."""
        gradient, value, won = zip(
            *(input_gradient(model, x_adv, goal) for _ in range(self.eot)), strict=True
        )
        return torch.stack(gradient).mean(0), torch.stack(value).mean(0), _majority(won)

    @torch.no_grad()
    def _mean_verdict(self, model: nn.Module, x_adv: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        passes = [model(x_adv) for _ in range(self.eot)]
        return torch.stack([goal.value(p) for p in passes]).mean(0), _majority([goal.won(p) for p in passes])

    @torch.no_grad()
    def _mean_logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([model(x) for _ in range(self.eot)]).mean(0)


def _majority(votes: Sequence[Tensor]) -> Tensor:
    """Whether more than half of the passes say so, per image."""
    return torch.stack(tuple(votes)).float().mean(0) > 0.5
