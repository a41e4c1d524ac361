"""What is done to the weights around a step: perturbed for it, averaged over steps, or held to a capacity."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from robustlens.errors import ConfigError, NumericsError
from robustlens.models import state_kept

_TINY = 1e-20


@contextlib.contextmanager
def displaced(weights: Sequence[nn.Parameter], by: Sequence[Tensor], alpha: float = 1.0) -> Iterator[None]:
    """Hold `weights` at w + alpha `by`; they come back bit for bit, from a copy, whatever happens inside."""
    saved = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, step in zip(weights, by, strict=True):
                weight.add_(step, alpha=alpha)
        torch.clear_autocast_cache()  # an enclosing autocast keeps low-precision copies of the weights
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, saved, strict=True):
                weight.copy_(original)
        torch.clear_autocast_cache()


class AdversarialWeightPerturbation:
    """AWP (Wu, Xia and Wang 2020, algorithm 1): take the gradient step from the worst weights nearby.

    Inside `perturbed(loss_fn)` every weight tensor with two or more dimensions is at w + v, with

        v_l = gamma * ||w_l|| * g_l / ||g_l||,      g the gradient of `loss_fn` at w,

    so the perturbation of each tensor is `gamma` of its norm. Biases and normalisation layers (one
    dimension) do not move. At the end the weights are w again, bit for bit, also if the body raises.

    Args:
        model: the network being trained, in the mode in which it is trained.
        gamma: relative size of the perturbation; 0.01 for AT, 0.005 for TRADES, MART and RST.

    Raises:
        ConfigError: gamma is negative or not finite, or the model has no weight to perturb.

    Differs from the authors' code: the weights come back *before* `optimizer.step()`, so weight decay
    acts on w and not on w + v (the two agree when weight decay is 0); they are restored from a copy
    instead of by subtraction, which in float32 misses about 1 % of them; BatchNorm's running statistics
    do not see the ascent pass; dropout draws the same mask in both passes.
    """

    def __init__(self, model: nn.Module, gamma: float = 0.01) -> None:
        if not 0 <= gamma < float("inf"):
            raise ConfigError(f"awp.gamma: found {gamma}, expected a finite number >= 0")
        self.model = model
        self.gamma = gamma
        if not self.weights():
            raise ConfigError("awp: the model has no trainable weight with two or more dimensions")

    def weights(self) -> list[nn.Parameter]:
        """The tensors that are perturbed."""
        return [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]

    @contextlib.contextmanager
    def perturbed(self, loss_fn: Callable[[], Tensor]) -> Iterator[None]:
        """Hold the weights at w + v. `loss_fn` gives the scalar that v climbs; it runs once, at w.

        No gradient is accumulated: `.grad` is what the body makes it.

        Raises:
            NumericsError: the loss or its gradient is not finite; the weights are untouched.
        """
        weights = self.weights()
        with displaced(weights, self._ascent(weights, loss_fn)):
            yield

    def _ascent(self, weights: list[nn.Parameter], loss_fn: Callable[[], Tensor]) -> list[Tensor]:
        """The perturbation v, one tensor for each weight."""
        with state_kept(self.model), torch.enable_grad():
            loss = loss_fn()
            found = torch.autograd.grad(loss, weights, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        sizes = [gradient.norm() for gradient in gradients]
        if not bool(torch.isfinite(torch.stack(sizes)).all()):
            raise NumericsError(
                f"awp: the gradient of the loss ({loss.item():g}) is not finite; lower the rate"
            )
        return [
            gradient * (self.gamma * weight.detach().norm() / (size + _TINY))
            for weight, gradient, size in zip(weights, gradients, sizes, strict=True)
        ]


class ExponentialMovingAverage:
    """A running average of the weights, `average <- decay * average + (1 - decay) * w`, after each step.

    Buffers are copied, not averaged: running statistics are averages already. In its first steps the
    decay is lowered to (1 + t) / (10 + t), so that the average does not remember the initial weights.

    Args:
        model: the network being trained.
        decay: share of the past that stays, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"ema.decay: found {decay}, expected a number in (0, 1)")
        self.model = model
        self.decay = decay
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
        for held, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            held.copy_(buffer)


@torch.no_grad()
def bound_singular_values(model: nn.Module, low: float, high: float) -> None:
    """Clip the singular values of every weight matrix to [low, high]: the nearest matrix that has them so.

    With low = 1 / (1 + xi) and high = 1 + xi this is singular value bounding (Jia, Tao, Gao and Xu 2017,
    algorithm 1); with low = 0 it caps the spectral norm. Wen, Li and Jia 2020 use the former to compare
    strengths of adversarial training at the same capacity.

    A convolution counts as the matrix (outputs, inputs * kh * kw), as in that algorithm, and not as the
    operator on a feature map whose singular values `explain.spectrum` gives. BatchNorm rescales what comes
    after it: there the bound holds for the weights, and not for the function. (That paper bounds BatchNorm's
    scales as well; here they are free.)

    Args:
        model: every parameter with two or more dimensions that is trained is clipped, in place.
        low: smallest singular value allowed, >= 0.
        high: largest, >= low.

    Raises:
        NumericsError: a weight is not finite; no weight has been changed.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise NumericsError("capacity: a weight is NaN or infinite; lower the rate")
    for weight in weights:
        u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        weight.copy_(((u * s.clamp(low, high)) @ vh).view(weight.shape))
