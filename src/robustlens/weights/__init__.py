"""What is done to the weights around a step: perturbed for it, averaged over steps, or held to a capacity."""

import abc
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


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weights with two or more dimensions: no bias, and nothing of a normalisation layer."""
    return [p for p in model.parameters() if p.requires_grad and p.ndim > 1]


LossFn = Callable[[], Tensor]
"""Gives a scalar that the perturbation climbs: the mean loss of a batch, at the weights as they are."""


class WeightPerturbation(abc.ABC):
    """Where the training gradient is taken: at w + v instead of at w.

        with perturbation.perturbed(loss_fn):
            loss_fn().backward()
        optimizer.step()

    Inside, the weights are at w + v; after it they are w again, bit for bit, also if the body raises. No
    gradient is accumulated: `.grad` is what the body makes it. BatchNorm's running statistics do not see the
    passes that look for v, and dropout draws the same mask in them as in the body.

    To add one: a subclass that says which tensors move (`weights`) and where to (`offsets`).

    Args:
        model: the network being trained, in the mode in which it is trained; a `DistributedDataParallel` too.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        if not self.weights():
            raise ConfigError(f"{self.name}: the model has no trainable weight that it could move")

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """In messages."""

    def weights(self) -> list[nn.Parameter]:
        """The tensors that are perturbed."""
        return matrices(self.model)

    @abc.abstractmethod
    def offsets(
        self, losses: Sequence[LossFn], craft: Callable[[], None] | None, generator: torch.Generator | None
    ) -> list[Tensor]:
        """The perturbation v, one tensor for each weight."""

    @contextlib.contextmanager
    def perturbed(
        self,
        loss_fn: LossFn | Sequence[LossFn],
        *,
        craft: Callable[[], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[None]:
        """Hold the weights at w + v.

        Args:
            loss_fn: the scalar that v climbs. Where gradients are accumulated, one function for each
                micro-batch: v climbs their sum. In data-parallel training each rank gives its own, all
                climb the mean over ranks, and v is the same on all of them.
            craft: makes the adversarial images that `loss_fn` uses anew, at the weights as they are when it
                is called; only what alternates (AWP with `alternations` above 1) calls it.
            generator: of what is drawn, the same on every rank; None for torch's global random state, in
                data-parallel training that of the first rank.

        Raises:
            NumericsError: a loss or its gradient is not finite; the weights are untouched.
        """
        losses = [loss_fn] if callable(loss_fn) else list(loss_fn)
        with displaced(self.weights(), self.offsets(losses, craft, generator)):
            yield

    def gradient(self, losses: Sequence[LossFn]) -> list[Tensor]:
        """Gradient of the sum of `losses` at the weights as they are, the same on every rank."""
        weights = self.weights()
        total = [torch.zeros_like(weight) for weight in weights]
        silent = getattr(self.model, "no_sync", contextlib.nullcontext)  # these gradients are averaged below
        with state_kept(self.model), torch.enable_grad(), silent():
            for loss_fn in losses:
                loss = loss_fn()
                found = torch.autograd.grad(loss, weights, allow_unused=True)
                total = [t if g is None else t + g for t, g in zip(total, found, strict=True)]
        return self._agreed(total)

    def _agreed(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Their means over the ranks; `NumericsError`, on all of these, where one is not finite."""
        means = [_mean_over_ranks(gradient) for gradient in gradients]
        finite = torch.isfinite(torch.stack([mean.norm() for mean in means]))
        if not bool(finite.all()):
            found = f"of {int((~finite).sum())} of {len(means)} tensors"
            raise NumericsError(f"{self.name}: the gradient {found} is not finite; lower the learning rate")
        return means


class AdversarialWeightPerturbation(WeightPerturbation):
    """AWP (Wu, Xia and Wang 2020, algorithm 1): take the gradient step from the worst weights nearby.

    Every weight tensor with two or more dimensions moves, as a share of its own norm. With one step

        v_l = gamma * ||w_l|| * g_l / ||g_l||,      g the gradient of `loss_fn` at w,

    and with more steps v ascends by gamma / steps of ||w_l|| each, and is kept within gamma ||w_l||. Each of
    the `alternations` makes the adversarial images anew at w + v, and then ascends further.

    Args:
        model: the network being trained, in the mode in which it is trained.
        gamma: relative size of the perturbation; 0.01 for AT, 0.005 for TRADES, MART and RST.
        steps: weight steps of each alternation (the paper's K2).
        alternations: rounds of images and weights (the paper's A). Above 1 `perturbed` needs its `craft`.

    Raises:
        ConfigError: an argument is out of range, or the model has no weight to perturb.

    Differs from the authors' code: the weights come back *before* `optimizer.step()`, so weight decay
    acts on w and not on w + v (the two agree when weight decay is 0); they are restored from a copy
    instead of by subtraction, which in float32 misses about 1 % of them; BatchNorm's running statistics
    do not see the ascent pass; dropout draws the same mask in both passes.
    """

    name = "awp"

    def __init__(
        self, model: nn.Module, gamma: float = 0.01, *, steps: int = 1, alternations: int = 1
    ) -> None:
        _check_size("awp.gamma", gamma)
        if steps < 1 or alternations < 1:
            found = f"steps {steps}, alternations {alternations}"
            raise ConfigError(f"awp: found {found}, expected at least 1 of each")
        self.gamma, self.steps, self.alternations = gamma, steps, alternations
        super().__init__(model)

    def offsets(
        self,
        losses: Sequence[LossFn],
        craft: Callable[[], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """The perturbation v, one tensor for each weight; the images at w are there already."""
        if self.alternations > 1 and craft is None:
            raise ConfigError("awp.alternations: found more than 1, which need `perturbed(..., craft=...)`")
        weights = self.weights()
        v = [torch.zeros_like(weight) for weight in weights]
        for step in range(self.alternations * self.steps):
            with displaced(weights, v):
                if craft is not None and step and step % self.steps == 0:
                    craft()
                gradients = self.gradient(losses)
            further = self.along(gradients, self.gamma / self.steps)
            v = [before + step_ for before, step_ in zip(v, further, strict=True)]
            if self.alternations > 1:  # the steps of one alternation cannot leave the ball
                v = [self._within(weight, moved) for weight, moved in zip(weights, v, strict=True)]
        return v

    def along(self, gradients: Sequence[Tensor], gamma: float | None = None) -> list[Tensor]:
        """The ascent from w along known gradients: each tensor by `gamma` of its norm (None: the whole)."""
        return _relative(self.weights(), gradients, self.gamma if gamma is None else gamma)

    @contextlib.contextmanager
    def perturbed_along(self, gradients: Sequence[Tensor]) -> Iterator[None]:
        """Hold the weights at w + v for v along `gradients`, which come from elsewhere.

        The attack's last backward pass gives them for a third of the price of AWP's own
        (`attacks.PGD.craft`). They are the gradients of the attack's loss at its last but one iterate, with
        the network in the attack's mode, and so only near those that AWP asks for; measured on
        CIFAR-10 (docs/results) it costs no robustness, and flattens two thirds as much.

        Raises:
            NumericsError: a gradient is not finite; the weights are untouched.
        """
        with displaced(self.weights(), self.along(self._agreed(gradients))):
            yield

    def _within(self, weight: Tensor, v: Tensor) -> Tensor:
        """v, shortened to gamma of the weight's norm where it is longer."""
        longest = self.gamma * weight.detach().norm()
        return v * torch.clamp(longest / (v.norm() + _TINY), max=1.0)


class RandomWeightPerturbation(WeightPerturbation):
    """RWP: as AWP, along a Gaussian direction instead of the worst one. It costs no extra pass.

    v_l = gamma * ||w_l|| * n_l / ||n_l||. The random counterpart against which Wu et al. 2020 (section 3)
    argue for adversarial weights, and a method of its own (He et al. 2019, "Parametric noise injection";
    Li et al. 2022, "Efficient generalization improvement guided by random weight perturbation", who scale
    filter by filter and mix both gradients).

    Args:
        model: the network being trained.
        gamma: relative size of the perturbation of each tensor.
    """

    name = "rwp"

    def __init__(self, model: nn.Module, gamma: float = 0.01) -> None:
        _check_size("rwp.gamma", gamma)
        self.gamma = gamma
        super().__init__(model)

    def offsets(
        self,
        losses: Sequence[LossFn],
        craft: Callable[[], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """A random perturbation; the loss does not matter."""
        weights = self.weights()
        draws = [torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w) for w in weights]
        if generator is None and _in_parallel():  # the global random states of the ranks need not agree
            for draw in draws:
                torch.distributed.broadcast(draw, src=0)
        return _relative(weights, draws, self.gamma)


class SharpnessAwareMinimization(WeightPerturbation):
    """SAM (Foret et al. 2021, eq. 2): v = rho g / ||g||, one norm over all parameters.

    Biases and normalisation layers move as well, and nothing is scaled by the size of a tensor: the two ways
    in which AWP differs.

    Args:
        model: the network being trained.
        rho: length of the perturbation.
    """

    name = "sam"

    def __init__(self, model: nn.Module, rho: float = 0.05) -> None:
        _check_size("sam.rho", rho)
        self.rho = rho
        super().__init__(model)

    def weights(self) -> list[nn.Parameter]:
        """All trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def offsets(
        self,
        losses: Sequence[LossFn],
        craft: Callable[[], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """One step of length rho along the gradient."""
        gradients = self.gradient(losses)
        length = torch.stack([gradient.norm() for gradient in gradients]).norm()
        return [gradient * (self.rho / (length + _TINY)) for gradient in gradients]


def _relative(weights: Sequence[Tensor], directions: Sequence[Tensor], gamma: float) -> list[Tensor]:
    """Each direction, scaled to the length `gamma` ||w_l|| of its tensor."""
    return [
        direction * (gamma * weight.detach().norm() / (direction.norm() + _TINY))
        for weight, direction in zip(weights, directions, strict=True)
    ]


def _in_parallel() -> bool:
    """Whether several processes train one network together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _mean_over_ranks(tensor: Tensor) -> Tensor:
    if not _in_parallel():
        return tensor
    total = tensor.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def _check_size(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name}: found {value}, expected a finite number >= 0")


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
    weights = matrices(model)
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise NumericsError("capacity: a weight is NaN or infinite; lower the rate")
    for weight in weights:
        u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        weight.copy_(((u * s.clamp(low, high)) @ vh).view(weight.shape))
