"""Parts that objectives share: their signature, types of their options, attacks that they may name."""

from collections.abc import Callable
from typing import Annotated, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from robustlens.attacks import FGSM, PGD, Attack
from robustlens.config import AttackSpec
from robustlens.losses import Labels
from robustlens.threat import ThreatModel

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]
"""Types of options: the factor of a term, a distance, label smoothing."""

InnerAttack = Callable[[ThreatModel, AttackSpec], Attack]
"""Builds the attack of training from its threat model and the recipe's settings."""


@runtime_checkable
class Objective(Protocol):
    """A per-example training loss, and the attack that makes its x_adv.

    One that is not defined for soft labels says `soft_labels = False` beside these (`takes_soft_labels`); one
    whose loss or attack takes second derivatives of the network, `second_derivatives = True`; one that
    changes along training has a method `after(done)`, which returns it as it is when a share `done` of all
    epochs is over.
    """

    @property
    def inner_attack(self) -> InnerAttack | None:
        """Builds the attack of training, or None where training sees clean images only."""

    def __call__(
        self, model: nn.Module, x: Float[Tensor, "n ..."], x_adv: Float[Tensor, "n ..."], y: Labels
    ) -> Float[Tensor, " n"]:
        """Loss of each example, in nats; `y` are classes, or soft labels where the loss is linear in them."""


def after(objective: Objective, done: float) -> Objective:
    """The objective when a share of training is done: that of `objective.after` where it has a schedule."""
    scheduled = getattr(objective, "after", None)
    return objective if scheduled is None else scheduled(done)


def takes_soft_labels(objective: Objective) -> bool:
    """Whether labels may be blends of classes, as mixup makes them."""
    return getattr(objective, "soft_labels", True)


def takes_second_derivatives(objective: Objective) -> bool:
    """Whether its loss or its attack differentiates the network twice, which compiled ones do not allow."""
    return getattr(objective, "second_derivatives", False)


def inner_pgd(loss: str) -> InnerAttack:
    """PGD on `loss` as training runs it: the last iterate counts, and no forward pass judges it."""

    def build(threat: ThreatModel, spec: AttackSpec) -> Attack:
        return PGD(
            threat,
            steps=spec.steps,
            step_size=spec.step_size,
            random_start=spec.random_start,
            loss=loss,
            model_mode=spec.model_mode,
            keep="last",
        )

    return build


def inner_fgsm(threat: ThreatModel, spec: AttackSpec) -> Attack:
    """FGSM from a random start with step 1.25 eps (Wong, Rice and Kolter 2020, section 4).

    Steps and step size of the recipe's attack are PGD's and do not enter.
    """
    step_size = 1.25 * threat.eps if threat.eps else None
    return FGSM(threat, step_size=step_size, random_start=True, model_mode=spec.model_mode)
