"""Virtual adversarial training: predictions should stay along the direction that moves them most."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens import losses, noise
from robustlens.attacks import Attack
from robustlens.attacks.base import Goal, input_gradient, require_radius
from robustlens.config import AttackSpec, Count
from robustlens.losses import Labels
from robustlens.models import frozen
from robustlens.objectives.base import InnerAttack, Length, Weight
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class VAT:
    """CE(x) + weight KL(p(x) || p(x_adv)), p(x) a constant in the KL (Miyato et al. 2018, eq. 5 to 8).

    x_adv comes from `VirtualAdversary`, which asks for no labels. TRADES has the same two terms; there the
    gradient flows through p(x) as well, and the attack maximises the KL by PGD. In train mode running
    statistics take in both passes (the authors' code: only the one at x).

    Args:
        weight: of the KL.
        xi: how far from x the direction is looked for, L2, in pixel units.
        iterations: of the power method.
    """

    weight: Weight = 1.0
    xi: Length = 0.01
    iterations: Count = 1

    @property
    def inner_attack(self) -> InnerAttack:
        """The power method; steps and step size of the recipe's attack are PGD's and do not enter."""
        return self._adversary

    def _adversary(self, threat: ThreatModel, spec: AttackSpec) -> Attack:
        return VirtualAdversary(threat, self.xi, self.iterations, spec.model_mode)

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Loss of each example, in nats."""
        logits = model(x)
        smoothness = losses.kl(model(x_adv), logits.detach())
        return losses.cross_entropy(logits, y) + self.weight * smoothness


@dataclass(frozen=True)
class VirtualAdversary:
    """One step of length eps along the direction in which the prediction changes most, for any label.

    At x the KL is flat, and its Hessian H decides. The power method finds the top eigenvector of H: from
    random noise d, the gradient of KL(p(x) || p(x + xi d / ||d||_2)) is close to a multiple of H d, and
    becomes the next d (Miyato et al. 2018, eq. 12). The last d is followed by steepest ascent of length eps
    in the threat's norm: eps d / ||d||_2 in L2, as there; eps sign(d) in Linf.

    Differs: the result is projected on the pixel box; xi is larger than the authors' 1e-6, at which the
    difference of two float32 predictions is rounding. In bfloat16 it would be at 0.01 too, so an enclosing
    autocast is switched off here.
    """

    threat: ThreatModel
    xi: float = 0.01
    iterations: int = 1
    model_mode: str = "eval"

    def __post_init__(self) -> None:
        require_radius(self.threat)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Labels, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Feasible images, same shape as `x`; `y` is not looked at."""
        x = x.detach()
        direction = noise.normal(noise.keys(x, noise.seed_from(generator)), x)
        with frozen(model, self.model_mode), torch.autocast(x.device.type, enabled=False):
            change = Goal.of(model, x, y, "kl", targeted=False)
            for _ in range(self.iterations):
                nearby = ThreatModel("L2", self.xi).ascend(x, direction, self.xi)
                direction, _, _ = input_gradient(model, nearby, change)
        return self.threat.project(self.threat.ascend(x, direction, self.threat.eps), x)
