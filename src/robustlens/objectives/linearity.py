"""Local linearity: the loss should stay on its tangent wherever the attacker may go."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks import Attack
from robustlens.attacks.base import gradient_at, require_radius
from robustlens.config import AttackSpec
from robustlens.losses import Labels
from robustlens.models import frozen
from robustlens.objectives.base import InnerAttack, Weight
from robustlens.objectives.tangent import Tangent
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class LocalLinearity:
    """CE(x) + weight g(delta) + slope_weight |<delta, grad CE(x)>|, delta = x_adv - x (LLR).

    g(delta) = |CE(x + delta) - CE(x) - <delta, grad CE(x)>| is how far the loss is from its tangent, and
    delta the point of the ball where that is most (Qin et al. 2019, section 4; their lambda and mu). In train
    mode running statistics take in both passes. Differs: delta is searched as every inner attack here, by PGD
    of the recipe's steps.
    """

    second_derivatives: ClassVar[bool] = True
    weight: Weight = 4.0
    slope_weight: Weight = 3.0

    @property
    def inner_attack(self) -> InnerAttack:
        """PGD on g."""
        return _inner_violation

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Loss of each example, in nats."""
        tangent = Tangent.at(model, x, y)
        violation = tangent.violation(model, x_adv, y)
        slope = tangent.linear_increase(x_adv).abs()
        return tangent.loss + self.weight * violation + self.slope_weight * slope


@dataclass(frozen=True)
class LinearityAttack:
    """PGD to where the loss is furthest from its tangent at x; the last iterate counts.

    The start is always random: at x itself the violation has no gradient. Arguments as `PGD`.
    """

    threat: ThreatModel
    steps: int = 10
    step_size: float | None = None
    model_mode: str = "eval"

    def __post_init__(self) -> None:
        require_radius(self.threat)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Labels, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Feasible images, same shape as `x`; see `Attack`."""
        x = x.detach()
        step_size = self.threat.default_step_size if self.step_size is None else self.step_size
        x_adv = self.threat.start_from(noise.keys(x, noise.seed_from(generator)), x)
        with frozen(model, self.model_mode), torch.enable_grad():
            tangent = Tangent.at(model, x, y).detached()
            for _ in range(self.steps):
                leaf = x_adv.detach().requires_grad_()
                gradient = gradient_at(leaf, tangent.violation(model, leaf, y))
                x_adv = self.threat.project(self.threat.ascend(x_adv, gradient, step_size), x)
        return x_adv


def _inner_violation(threat: ThreatModel, spec: AttackSpec) -> Attack:
    return LinearityAttack(threat, spec.steps, spec.step_size, spec.model_mode)
