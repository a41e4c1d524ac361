"""Objectives that need no attack: penalties on the loss's input gradient and on its curvature.

In train mode running statistics take in every forward pass: one for the gradient penalty, two for CURE.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from robustlens.losses import Labels
from robustlens.objectives.base import Length, Weight
from robustlens.objectives.tangent import Tangent
from robustlens.threat import ThreatModel


@dataclass(frozen=True)
class GradientPenalty:
    """CE(x) + weight ||grad CE(x)||_2^2, the gradient with respect to the image, in pixel units.

    Double backpropagation (Drucker and LeCun 1992); against adversarial examples, Ross and Doshi-Velez 2018.
    Both choose the weight for each data set; the default is ours.
    """

    second_derivatives: ClassVar[bool] = True
    weight: Weight = 1.0
    inner_attack: None = field(default=None, init=False, repr=False)

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Cross entropy, in nats, plus the penalty, of each example."""
        tangent = Tangent.at(model, x, y)
        return tangent.loss + self.weight * _squared_length(tangent.gradient)


@dataclass(frozen=True)
class CURE:
    """CE(x) + weight ||grad CE(x + h z) - grad CE(x)||_2^2 (Moosavi-Dezfooli et al. 2019, section 4).

    z is the sign of the gradient at x, scaled to length 1 in L2, and not differentiated. The penalty is close
    to ||h H z||^2, H the Hessian of the loss with respect to the image: the curvature along a direction in
    which it is large. A pixel moves by h / sqrt(d), 6.9/255 for h 1.5 and 3 x 32 x 32 of them, and x + h z
    may leave the pixel box.

    Differs from the authors' code, which takes the norm and not its square and looks at the network in eval
    mode, and from the paper, which raises h step by step while it fine-tunes a trained network.
    """

    second_derivatives: ClassVar[bool] = True
    weight: Weight = 4.0
    h: Length = 1.5
    inner_attack: None = field(default=None, init=False, repr=False)

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Cross entropy, in nats, plus the penalty, of each example."""
        here = Tangent.at(model, x, y)
        ahead = ThreatModel("L2", self.h).ascend(here.x, here.gradient.detach().sign(), self.h)
        there = Tangent.at(model, ahead, y)
        return here.loss + self.weight * _squared_length(there.gradient - here.gradient)


def _squared_length(vectors: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    return vectors.flatten(1).square().sum(1)
