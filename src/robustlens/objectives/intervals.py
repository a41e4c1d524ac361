"""Interval bounds: training on what no attack could do worse, so that it can be certified."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks import Attack
from robustlens.certification import logits_and_worst
from robustlens.config import AttackSpec
from robustlens.errors import ConfigError
from robustlens.losses import Labels
from robustlens.objectives.base import InnerAttack
from robustlens.threat import ThreatModel

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class IntervalBounds:
    """kappa CE(f(x)) + (1 - kappa) CE(worst logits over the ball) (Gowal et al. 2018, eq. 12).

    The worst logits are upper bounds of f_i - f_y, by intervals, over all images whose pixels lie as far from
    x as those of x_adv do at most, and in [0, 1]. So x_adv only tells the radius, and the inner attack
    (`Corner`) makes it without asking the model. Along training the radius grows from 0, and kappa falls
    from 1, linearly over the epochs from share `warmup` to share `warmup + ramp` of all.

    Differs: the schedule goes by epochs, not steps; learning rate and its schedule are the recipe's.

    Args:
        kappa: weight of the clean loss after the ramp.
        warmup: share of the epochs that train on clean images alone.
        ramp: share of the epochs over which the radius and kappa change.
        done: share of training that is over.

    Raises:
        ConfigError: called with soft labels.
        ModelError: the network has an operation without a rule (`certify`).
    """

    soft_labels: ClassVar[bool] = False
    kappa: Share = 0.5
    warmup: Share = 0.05
    ramp: Share = 0.5
    done: float = 1.0
    inner_attack: InnerAttack | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner_attack", _corner)

    def after(self, done: float) -> "IntervalBounds":
        """The objective when a share `done` of training is over."""
        return replace(self, done=done)

    @property
    def grown(self) -> float:
        """Share of the radius that has been reached."""
        return min(1.0, max(0.0, self.done - self.warmup) / self.ramp) if self.ramp else 1.0

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Mixed cross entropy of each example, in nats."""
        if y.ndim > 1:
            raise ConfigError("objective 'ibp': found soft labels (mixup), expected one class an image")
        reach = self.grown * (x_adv - x).abs().flatten(1).amax(1).view(-1, *[1] * (x.ndim - 1))
        box = ((x - reach).clamp(0, 1), (x + reach).clamp(0, 1))
        logits, worst = logits_and_worst(model, x, box, y)
        kappa = 1.0 - self.grown * (1.0 - self.kappa)
        clean, certain = losses.cross_entropy(logits, y), losses.cross_entropy(worst, y)
        return kappa * clean + (1.0 - kappa) * certain


@dataclass(frozen=True)
class Corner:
    """Images a pixel of which is eps away, or all of them in Linf: they tell `IntervalBounds` its radius.

    In L2 and L1 that is the box around the ball, which is far larger. A pixel moves to where it has more
    room.
    """

    threat: ThreatModel

    def __call__(
        self, model: nn.Module, x: Tensor, y: Labels, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Feasible images, same shape as `x`; neither the model nor `y` is looked at."""
        x = x.detach()
        low, high = self.threat.bounds
        step = torch.where(x > (low + high) / 2, -1.0, 1.0).to(x) * self.threat.eps
        if self.threat.norm != "Linf":
            room = (x - (low + high) / 2).abs().flatten(1)
            step = step * nn.functional.one_hot(room.argmax(1), room.shape[1]).view_as(x)
        return self.threat.project(x + step, x)


def _corner(threat: ThreatModel, spec: AttackSpec) -> Attack:
    return Corner(threat)
