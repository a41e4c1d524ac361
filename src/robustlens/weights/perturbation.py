"""Base of the perturbations of the weights: they move for a training step, and come back bit for bit."""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robustlens import processes
from robustlens.errors import ConfigError, NumericsError
from robustlens.models import preserved_state
from robustlens.weights.matrices import matrix_parameters

TINY = 1e-20
"""Added to norms that are divided by."""


@contextlib.contextmanager
def offset_weights(
    weights: Sequence[nn.Parameter], by: Sequence[Tensor], alpha: float = 1.0
) -> Iterator[None]:
    """Hold `weights` at w + alpha `by`; they come back bit for bit, from a copy, also after an error inside.

    Args:
        weights: the tensors that move.
        by: one tensor of the same shape for each.
        alpha: factor of all of these.
    """
    saved = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            torch._foreach_add_(list(weights), list(by), alpha=alpha)
        torch.clear_autocast_cache()  # an enclosing autocast keeps low-precision copies of the weights
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), saved)
        torch.clear_autocast_cache()


LossFn = Callable[[], Tensor]
"""Scalar that a perturbation increases: the mean loss of a batch, at the weights as they are.

For one that `takes_image_losses`, the loss of each image instead (n,).
"""


Craft = Callable[[], None]
"""Makes the adversarial images of a batch anew, at the weights as they are."""


@runtime_checkable
class Scaler(Protocol):
    """Factor of the loss, against gradients that vanish in float16: a `torch.amp.GradScaler`."""

    def scale(self, outputs: Tensor) -> Tensor:
        """The loss, times the factor."""


class WeightPerturbation(abc.ABC):
    """Perturbation of the weights, so that the training gradient is taken at w + v instead of at w.

        with perturbation.perturbed(loss_fn):
            loss_fn().backward()
        optimizer.step()

    Inside, the weights are at w + v; after it they are w again, bit for bit, also if the body raises. No
    gradient is accumulated: `.grad` is what the body makes it. BatchNorm's running statistics do not see the
    passes that look for v, and dropout draws the same mask in them as in the body.

    To add one: a subclass that says which tensors move (`weights`) and by how much (`offsets`); one that
    follows a gradient says so and can take it from elsewhere (`offsets_along`).

    Args:
        model: the network being trained, in the mode in which it is trained; a `DistributedDataParallel` too.

    Raises:
        ConfigError: the model has no weight to perturb.
    """

    name: str = "weight_perturbation"
    """In messages: the recipe's field that asks for it."""
    follows_gradient: bool = False
    """Whether `offsets_along` is there, so that the gradient may come from elsewhere."""
    takes_image_losses: bool = False
    """Whether `perturbed` is given the loss of each image (n,), of which not all count, not their mean."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        if not self.weights():
            raise ConfigError(f"{self.name}: the model has no trainable weight that it could move")

    def weights(self) -> list[nn.Parameter]:
        """Tensors that are perturbed."""
        return matrix_parameters(self.model)

    @abc.abstractmethod
    def offsets(
        self, losses: Sequence[LossFn], craft: Craft | None, generator: torch.Generator | None
    ) -> list[Tensor]:
        """The perturbation v, one tensor for each weight; arguments as those of `perturbed`."""

    def offsets_along(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The perturbation v that follows `gradients`, one tensor for each weight."""
        raise ConfigError(f"{self.name}.from_attack: found true, but it follows no gradient; leave it out")

    def scalars(self, losses: Sequence[LossFn]) -> list[LossFn]:
        """Scalars that v increases, from what `perturbed` is given: as they are, where these are scalars."""
        return list(losses)

    @contextlib.contextmanager
    def perturbed(
        self,
        loss_fn: LossFn | Sequence[LossFn],
        *,
        craft: Craft | None = None,
        generator: torch.Generator | None = None,
        scaler: Scaler | None = None,
    ) -> Iterator[None]:
        """Hold the weights at w + v.

        Args:
            loss_fn: the scalar that v increases. Where gradients are accumulated, one function for each
                micro-batch: v increases their sum. In data-parallel training each rank gives its own, v
                increases the mean over ranks, and is the same on all of them. Each image's loss (n,) where
                the perturbation `takes_image_losses`.
            craft: makes the adversarial images that `loss_fn` uses anew, at the weights as they are when it
                is called; only an alternating perturbation (AWP with `alternations` above 1) calls it.
            generator: of what is drawn, the same on every rank; None for torch's global random state, in
                data-parallel training that of the first rank.
            scaler: of a float16 loop; `loss_fn` gives the loss as it is, and v ascends the scaled one. Where
                that overflows, the weights stay at w: the body overflows there as well, and the scaler skips
                the step and lowers its factor, as it does without the perturbation.

        Raises:
            ConfigError: `loss_fn` is a loss and no function of one, or gives none that can be followed.
            NumericsError: a loss or its gradient is not finite, and there is no scaler; the weights are
                untouched.
        """
        losses = self.scalars(self._functions(loss_fn))
        if scaler is not None:
            losses = [partial(_scaled, scaler, loss) for loss in losses]
        try:
            offsets = self.offsets(losses, craft, generator)
        except NumericsError:
            if scaler is None:
                raise
            offsets = [torch.zeros_like(weight) for weight in self.weights()]
        with offset_weights(self.weights(), offsets):
            yield

    @contextlib.contextmanager
    def perturbed_along(self, gradients: Sequence[Tensor]) -> Iterator[None]:
        """Hold the weights at w + v for v along `gradients`, one for each weight, which come from elsewhere.

        The attack's last backward pass gives them for a third of the price of a pass of their own
        (`attacks.craft`). They are the gradients of the attack's loss at its last but one iterate, with the
        network in the attack's mode, and so only near those that `perturbed` takes; for AWP, measured on
        CIFAR-10 (docs/results), it costs no robustness, and flattens two thirds as much.

        Raises:
            ConfigError: this perturbation follows no gradient.
            NumericsError: a gradient is not finite; the weights are untouched.
        """
        with offset_weights(self.weights(), self.offsets_along(self._mean_gradients(gradients))):
            yield

    def gradient(self, losses: Sequence[LossFn]) -> list[Tensor]:
        """Gradient of the sum of `losses` at the weights as they are, the same on every rank."""
        weights = self.weights()
        totals = [torch.zeros_like(weight) for weight in weights]
        no_sync = getattr(self.model, "no_sync", contextlib.nullcontext)  # the means are taken below
        with preserved_state(self.model), torch.enable_grad(), no_sync():
            for loss_fn in losses:
                gradients = torch.autograd.grad(self._checked(loss_fn()), weights, allow_unused=True)
                totals = [t if g is None else t + g for t, g in zip(totals, gradients, strict=True)]
        return self._mean_gradients(totals)

    def _functions(self, loss_fn: LossFn | Sequence[LossFn]) -> list[LossFn]:
        """The functions that `perturbed` is given."""
        functions = list(loss_fn) if isinstance(loss_fn, Sequence) else [loss_fn]
        for each in functions:
            if not callable(each):
                raise ConfigError(
                    f"{self.name}: found {type(each).__name__}, expected a function that computes the loss "
                    "at the weights as they are, as perturbed(lambda: cross_entropy(model(x_adv), y))"
                )
        return functions

    def _checked(self, loss: object) -> Tensor:
        """The loss that a function gives."""
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
            shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            raise ConfigError(
                f"{self.name}: found a loss that is a {type(loss).__name__}{shape}, expected one number "
                "with a gradient, as the mean over the images"
            )
        return loss

    def _mean_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Means of gradients over the ranks; `NumericsError`, on all of these, where one is not finite."""
        means = _means_over_ranks(gradients)
        finite = torch.isfinite(torch.stack([mean.norm() for mean in means]))
        if not bool(finite.all()):
            broken = f"of {int((~finite).sum())} of {len(means)} tensors"
            raise NumericsError(f"{self.name}: the gradient {broken} is not finite; lower the learning rate")
        return means


def _scaled(scaler: Scaler, loss_fn: LossFn) -> Tensor:
    return scaler.scale(loss_fn())


def relative(weights: Sequence[Tensor], directions: Sequence[Tensor], gamma: float) -> list[Tensor]:
    """Each direction, scaled to the length `gamma` ||w_l|| of its weight."""
    lengths = torch.stack(torch._foreach_norm([weight.detach() for weight in weights]))
    sizes = torch.stack(torch._foreach_norm(list(directions)))
    factors = (gamma * lengths / (sizes + TINY)).unbind()
    return [direction * factor for direction, factor in zip(directions, factors, strict=True)]


def _means_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mean of each tensor over the ranks, by one sum of all of them: a message each would wait for each."""
    if not processes.are_connected():
        return list(tensors)
    total = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(total)
    means = (total / torch.distributed.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [mean.view_as(tensor) for mean, tensor in zip(means, tensors, strict=True)]


def check_size(name: str, value: float) -> None:
    """Raise `ConfigError` for a size, of the setting `name`, that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name}: found {value}, expected a finite number >= 0")
