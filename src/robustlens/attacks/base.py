"""What every attack shares: its signature, what it climbs, the input gradient, the rows of a batch."""

import math
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.errors import ConfigError, ModelError
from robustlens.threat import ThreatModel

NO_INPUT_GRADIENT = (
    "model: its logits carry no gradient with respect to the input, so a gradient attack cannot "
    "run; remove the no_grad, detach or rounding inside its forward pass"
)


@runtime_checkable
class Attack(Protocol):
    """A frozen recipe for adversarial images: always feasible, and the model is left as it was found."""

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images for `x`; `y` are the true labels (the wanted ones if targeted)."""


@runtime_checkable
class Repeated(Attack, Protocol):
    """An attack made of independent tries: restarts, target classes, other attacks.

    An evaluation runs try after try over all images that still stand, so that its batches are always full.
    """

    def tries(self) -> tuple[Attack, ...]:
        """The tries in order, each an attack of its own; their union breaks what the whole breaks."""


def tries_of(attack: Attack) -> tuple[Attack, ...]:
    """The tries of a repeated attack; the attack itself otherwise."""
    return attack.tries() if isinstance(attack, Repeated) else (attack,)


_Rows = TypeVar("_Rows", bound="Rows")


@dataclass
class Rows:
    """What an attack knows of each image: a dataclass of tensors (or a `Goal`), one entry an image.

    `state[rows]` selects images, which is how an attack drops those that it is done with.
    """

    def __getitem__(self: _Rows, rows: Tensor) -> _Rows:
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def require_radius(threat: ThreatModel) -> None:
    """Raise `ConfigError` for an infinite radius, which only a minimum-norm search can do with."""
    if threat.eps == math.inf:
        raise ConfigError("threat.eps: found inf, expected a finite radius; only MinimumNorm takes inf")


def likely_classes(
    logits: Float[Tensor, "n c"], y: Int64[Tensor, " n"], count: int
) -> Int64[Tensor, "n count"]:
    """The `count` classes with the largest logits other than `y`, most likely first."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(count, dim=1).indices


@dataclass(frozen=True)
class Goal:
    """What an attack climbs on a batch: a surrogate loss, what it compares with, and when it has won.

    `against` is what the loss says it is measured against. A goal has won where the prediction is not `y`,
    also where its loss aims at a wanted class (`towards`). A `targeted` goal descends the loss towards `y`
    instead, and has won where the prediction *is* `y`. Of a soft label the likeliest class counts.
    """

    loss: losses.Loss
    y: losses.Labels
    against: Tensor
    targeted: bool = False

    @classmethod
    def of(cls, model: nn.Module, x: Tensor, y: Tensor, loss: str, *, targeted: bool) -> "Goal":
        """The goal for a batch; asks the model for clean logits only where the loss needs them."""
        chosen = losses.get(loss)
        if chosen.against == "label":
            return cls(chosen, y, y, targeted)
        if targeted:
            raise ConfigError(
                f"attack.targeted: loss {loss!r} compares with the clean image and has no target"
            )
        with torch.no_grad():
            return cls(chosen, y, model(x).detach())

    @classmethod
    def towards(cls, wanted: Int64[Tensor, " n"], y: Int64[Tensor, " n"], loss: str) -> "Goal":
        """Away from class `y` towards the class `wanted`; any class other than `y` will do."""
        return cls(losses.get(loss, targeted=True), y, torch.stack([y, wanted], 1))

    def value(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """What to increase, per example."""
        value = self.loss(logits, self.against)
        return -value if self.targeted else value

    def won(self, logits: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
        """Whether the attack has what it wants, per example."""
        wrong = losses.is_wrong(logits, losses.likeliest(self.y))
        return ~wrong if self.targeted else wrong

    def __getitem__(self, rows: Tensor) -> "Goal":
        return Goal(self.loss, self.y[rows], self.against[rows], self.targeted)


def gradient_at(
    leaf: Float[Tensor, "n ..."], value: Float[Tensor, " n"], *, again: bool = False
) -> Float[Tensor, "n ..."]:
    """Gradient of each image's `value` at `leaf`; `again` keeps what another gradient of the same pass needs.

    Entries that are not finite become zero, so that an image stays an image.

    Raises:
        ModelError: the value does not depend on the input through autograd.
    """
    if not value.requires_grad:
        raise ModelError(NO_INPUT_GRADIENT)
    (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=again)
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def input_gradient(
    model: nn.Module, x_adv: Float[Tensor, "n ..."], goal: Goal
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """`gradient_at` of the goal's value at `x_adv`, the value, and where the goal is reached."""
    leaf = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        value = goal.value(logits)
        gradient = gradient_at(leaf, value)
    return gradient, value.detach(), goal.won(logits.detach())
