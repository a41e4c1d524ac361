"""Parts that attacks share: their signature, their surrogate and its gradient, rows of a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks.inputs import trusted
from robustlens.errors import ConfigError, ModelError
from robustlens.losses import Labels
from robustlens.models.inference import tracking
from robustlens.threat import ThreatModel

NO_INPUT_GRADIENT = (
    "model: its logits carry no gradient with respect to the input, so a gradient attack cannot "
    "run; remove the no_grad, detach or rounding inside its forward pass, or evaluate it with --adaptive "
    "(adaptive=True) and square, which needs no gradient"
)


class NoInputGradientError(ModelError):
    """Autograd leads from a model's logits to no image."""


@runtime_checkable
class Attack(Protocol):
    """A frozen recipe for adversarial images: always feasible, and without a trace in the model."""

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images for `x`; `y` are the true labels (the wanted ones if targeted).

        Random numbers are those of the image and of a seed: the attack's own without a generator, or one
        that is drawn from it, e.g. from `torch.default_generator`.
        """


@runtime_checkable
class Repeated(Attack, Protocol):
    """An attack made of independent tries: restarts, target classes, other attacks.

    An evaluation runs try after try over all images that are still robust, so that its batches are always
    full.
    """

    def tries(self) -> tuple[Attack, ...]:
        """The tries in order, each an attack of its own; their union breaks what the whole breaks."""


def tries_of(attack: Attack) -> tuple[Attack, ...]:
    """The tries of a repeated attack; the attack itself otherwise."""
    return attack.tries() if isinstance(attack, Repeated) else (attack,)


@runtime_checkable
class Filling(Attack, Protocol):
    """An attack that can ask the model about several points of an image in one pass."""

    def filling(self, batch_size: int) -> Attack:
        """The same attack, to the same result, which asks about so many points at once where it can."""


# -- crafting for training -------------------------------------------------------------------------


@dataclass(frozen=True)
class Crafted:
    """Adversarial images for training, and a gradient of the weights that came with them.

    Attributes:
        x_adv: the images, (n, ...).
        weight_gradients: for each weight that was asked about, the gradient of the mean loss of the batch at
            the last gradient step of the attack; None for an attack that gives none.
    """

    x_adv: Tensor
    weight_gradients: list[Tensor] | None = None


@runtime_checkable
class _Crafting(Attack, Protocol):
    """An attack that can give the weights' gradient of its last backward pass."""

    @property
    def gives_weight_gradients(self) -> bool:
        """Whether it does so with its settings."""

    def craft(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Labels,
        *,
        weights: Sequence[nn.Parameter],
        generator: torch.Generator | None = None,
    ) -> Crafted:
        """The images of a call, with the gradients of `weights`."""


def gives_weight_gradients(attack: Attack) -> bool:
    """Whether `craft` gets gradients of the weights from `attack`."""
    return isinstance(attack, _Crafting) and attack.gives_weight_gradients


def craft(
    attack: Attack,
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Labels,
    *,
    weights: Sequence[nn.Parameter] = (),
    generator: torch.Generator | None = None,
) -> Crafted:
    """Adversarial images of any attack, and where it gives them the gradients of `weights`.

    Images and labels are not checked, which would wait for the device at every step.
    """
    with trusted():
        if weights and isinstance(attack, _Crafting) and attack.gives_weight_gradients:
            return attack.craft(model, x, y, weights=weights, generator=generator)
        return Crafted(attack(model, x, y, generator=generator))


# -- rows of a batch -------------------------------------------------------------------------------

_Rows = TypeVar("_Rows", bound="Rows")


@dataclass
class Rows:
    """The state of an attack for each image: a dataclass of tensors (or a `Goal`), one entry an image.

    `state[rows]` selects images, which is how an attack drops those that it is done with.
    """

    def __getitem__(self: _Rows, rows: Tensor) -> _Rows:
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def per_image(values: Float[Tensor, " n"] | Bool[Tensor, " n"], like: Float[Tensor, "n ..."]) -> Tensor:
    """One value for each image, with as many dimensions as the images `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def require_radius(threat: ThreatModel) -> None:
    """Raise `ConfigError` for an infinite radius, which only a minimum-norm search can do with."""
    if threat.eps == math.inf:
        raise ConfigError("threat.eps: found inf, expected a finite radius; only MinimumNorm takes inf")


def likely_classes(logits: Float[Tensor, "n c"], y: Labels, count: int) -> Int64[Tensor, "n count"]:
    """The `count` classes with the largest logits other than `y`, most likely first.

    Raises:
        ConfigError: the labels are soft, so that no class is the right one.
    """
    if y.ndim != 1:
        raise ConfigError("attack: found soft labels (mixup), expected one class an image")
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(count, dim=1).indices


# -- the surrogate and its gradient ----------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A surrogate loss on a batch, the tensor that it compares with, and when the attack has won.

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
    def towards(cls, target: Int64[Tensor, " n"], y: Int64[Tensor, " n"], loss: str) -> "Goal":
        """Away from class `y` towards the class `target`; any class other than `y` will do."""
        return cls(losses.get(loss, targeted=True), y, torch.stack([y, target], 1))

    def value(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """The quantity to maximise, per example."""
        value = self.loss(logits, self.against)
        return -value if self.targeted else value

    def won(self, logits: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
        """Whether the attack has succeeded, per example."""
        wrong = losses.is_wrong(logits, losses.likeliest(self.y))
        return ~wrong if self.targeted else wrong

    def __getitem__(self, rows: Tensor) -> "Goal":
        return Goal(self.loss, self.y[rows], self.against[rows], self.targeted)


def gradient_at(
    leaf: Float[Tensor, "n ..."], value: Float[Tensor, " n"], *, retain_graph: bool = False
) -> Float[Tensor, "n ..."]:
    """Gradient of each image's `value` at `leaf`; `retain_graph` keeps the graph for another gradient.

    Entries that are not finite become zero, so that an image stays an image.

    Raises:
        NoInputGradientError: the value does not depend on the input through autograd.
    """
    return _gradients(leaf, value, (), retain_graph=retain_graph)[0]


def input_gradient(
    model: nn.Module, x_adv: Float[Tensor, "n ..."], goal: Goal
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """`gradient_at` of the goal's value at `x_adv`, the value, and where the goal is reached."""
    return input_and_weight_gradients(model, x_adv, goal, ())[:3]


def input_and_weight_gradients(
    model: nn.Module, x_adv: Float[Tensor, "n ..."], goal: Goal, weights: Sequence[nn.Parameter]
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"], Bool[Tensor, " n"], list[Tensor]]:
    """As `input_gradient`, and the gradients of the batch's summed value with respect to `weights`.

    All from one backward pass. A weight that the network does not use gets a gradient of zero; weights that
    are frozen are so again afterwards.
    """
    leaf = x_adv.detach().requires_grad_()
    with tracking(weights), torch.enable_grad():
        logits = model(leaf)
        value = goal.value(logits)
        gradient, weight_gradients = _gradients(leaf, value, weights)
    return gradient, value.detach(), goal.won(logits.detach()), weight_gradients


def _gradients(
    leaf: Tensor, value: Tensor, weights: Sequence[nn.Parameter], *, retain_graph: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the summed `value`: that of the image, finite, and those of the weights."""
    if not value.requires_grad:
        raise NoInputGradientError(NO_INPUT_GRADIENT)
    gradient, *of_weights = torch.autograd.grad(
        value.sum(), [leaf, *weights], retain_graph=retain_graph, allow_unused=True
    )
    if gradient is None:
        raise NoInputGradientError(NO_INPUT_GRADIENT)
    pairs = zip(weights, of_weights, strict=True)
    weight_gradients = [torch.zeros_like(weight) if each is None else each for weight, each in pairs]
    return gradient.nan_to_num(0.0, 0.0, 0.0), weight_gradients
