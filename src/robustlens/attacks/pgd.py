"""Projected gradient descent, and the one-step attack that it generalises."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import losses, noise
from robustlens.attacks.base import Crafted, Goal, input_and_weight_gradients, require_radius
from robustlens.attacks.best import Best, in_turn
from robustlens.attacks.inputs import ImagesLike, LabelsLike, checked_inputs
from robustlens.attacks.restarts import Restarts, require_at_least
from robustlens.attacks.targets import checked_targets, wanted_classes
from robustlens.errors import ConfigError
from robustlens.losses import Labels
from robustlens.threat import ThreatModel, checked_threat


@dataclass(frozen=True)
class PGD(Restarts):
    """Projected gradient ascent on a surrogate loss (Madry et al. 2018, section 2.1), for any norm.

    Args:
        threat: what may be changed, and how far.
        steps: gradient steps for each restart.
        step_size: length of a step in the threat's norm, in pixel units; None for the field's default
            (`ThreatModel.default_step_size`).
        random_start: begin at a random point of the ball (uniform, then clipped to the box) or at x.
        loss: "ce", "margin" (with it, this is the PGD form of Carlini-Wagner), "dlr" or "kl".
        targeted: `y` holds the wanted classes, and the attack moves towards them.
        targets: the wanted classes where `y` holds the true ones: a class for each image, as a tensor or a
            sequence, or "least-likely", the class of the smallest logit at x other than `y` (Kurakin et al.
            2017). An image that gets its wanted class counts as won, one that gets another does not.
        model_mode: "eval", or "train" to reproduce training code that crafts in train mode.
        keep: "best" returns, for each image, the iterate with the highest loss, where an iterate that
            fools the model outranks one that does not; "last" returns the last iterate, as published
            training code does, and saves the forward pass that would judge it.
        stop_at_success: drop an image from the batch once it is broken. Verdicts are the same, only
            sooner; the image returned is the first that fools the model rather than the worst.
        restarts, seed, restart: see `Restarts`.

    Raises:
        ConfigError: an argument out of range, or a loss that does not fit.

    Random starts belong to the image (see `noise`): without a generator the same image starts at the same
    point in every call, so in every epoch, whatever `torch.manual_seed` says. To draw new starts, as other
    libraries do, give a generator; `generator=torch.default_generator` draws from torch's own random state.

    Differs from the paper: L2 projections are exact on ball and pixel box together (see `threat`).
    """

    threat: ThreatModel
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    loss: str = "ce"
    targeted: bool = False
    model_mode: str = "eval"
    keep: str = "best"
    stop_at_success: bool = False
    targets: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        losses.get(self.loss)
        require_radius(self.threat)
        require_at_least(1, self, "steps")
        if self.step_size is not None and not self.step_size > 0:
            raise ConfigError(f"attack.step_size: found {self.step_size}, expected a number > 0")
        if self.keep not in ("best", "last") or self.model_mode not in ("eval", "train"):
            modes = f"keep {self.keep!r}, model_mode {self.model_mode!r}"
            raise ConfigError(f"attack: found {modes}; expected best or last, eval or train")
        if self.keep == "last" and (self.restarts > 1 or self.stop_at_success):
            raise ConfigError("attack.keep: 'last' does not compare iterates; use 'best' with restarts")
        if self.restarts > 1 and not self.random_start:
            raise ConfigError("attack.restarts: without a random start every restart is the same; use 1")
        if self.targets is not None:
            if self.targeted:
                raise ConfigError("attack.targets: found beside targeted, where y holds the wanted classes")
            object.__setattr__(self, "targets", checked_targets(self.targets))

    def tries(self) -> tuple["PGD", ...]:
        """One attack for each restart.

        Raises:
            ConfigError: `targets` holds a class for each image: the tries of an evaluation get survivors
                alone, so that classes and images would not be in step.
        """
        if isinstance(self.targets, tuple):
            raise ConfigError(
                "attack.targets: found a class for each image, expected 'least-likely' in an evaluation, "
                "whose attacks get the images that are left"
            )
        return super().tries()

    @property
    def gives_weight_gradients(self) -> bool:
        """Whether `craft` may be called: the attack ends with its last step, as training code has it."""
        return self.keep == "last"

    def stepped(self, x_adv: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        """The iterate after `x_adv`: a step along the gradient, projected."""
        length = self.threat.default_step_size if self.step_size is None else self.step_size
        return self.threat.project(self.threat.ascend(x_adv, gradient, length), x)

    @property
    def _mode(self) -> str:
        return self.model_mode

    def _images(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        if self.targets is not None:
            towards = replace(self, targeted=True, targets=None)
            return towards._images(model, x, wanted_classes(model, x, y, self.targets), seed)
        goal = Goal.of(model, x, y, self.loss, targeted=self.targeted)
        if self.restarts > 1:
            return in_turn(replace(self, seed=seed).tries(), model, x, y, goal)
        if self.keep == "last":
            return self._ascend(model, x, goal, self.keys(x, seed)).x_adv
        best = Best(x)
        # x itself is feasible too; without a random start it is the first iterate anyway.
        if self.random_start and not self.stop_at_success:
            best.judge(model, torch.arange(len(x), device=x.device), x, goal)
        self._ascend(model, x, goal, self.keys(x, seed), best)
        return best.x_adv

    def craft(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Labels,
        *,
        weights: Sequence[nn.Parameter],
        generator: torch.Generator | None = None,
    ) -> Crafted:
        """Adversarial images as a call makes them with `keep="last"`, and gradients of `weights`.

        These are of the mean loss of the batch, from the very backward pass of the last step: at the last
        iterate but one, with the network in `model_mode`. They cost half a backward pass, where a pass of
        its own would cost three times as much. Weights that the network does not use get zeros.

        Raises:
            ConfigError: the attack keeps the best iterate, which no training needs.
            ModelError: the loss does not depend on the input through autograd.
        """
        if not self.gives_weight_gradients:
            raise ConfigError("attack.keep: found 'best', expected 'last' to craft for training")
        if self.targets is not None:
            raise ConfigError("attack.targets: found with craft, expected none in training")
        seed = noise.seed_from(generator, self.seed)
        with checked_inputs(model, x, y, self.threat, self.model_mode) as (x, y):
            if len(x) == 0:
                return Crafted(x.clone(), [torch.zeros_like(weight) for weight in weights])
            goal = Goal.of(model, x, y, self.loss, targeted=self.targeted)
            return self._ascend(model, x, goal, self.keys(x, seed), weights=weights)

    def _ascend(
        self,
        model: nn.Module,
        x: Tensor,
        goal: Goal,
        key: Int64[Tensor, " n"],
        best: Best | None = None,
        weights: Sequence[nn.Parameter] = (),
    ) -> Crafted:
        """One try: its last iterate. Every iterate is offered to `best`, if any."""
        count, rows = len(x), torch.arange(len(x), device=x.device)
        weight_gradients = [torch.zeros_like(weight) for weight in weights]
        x_adv = self.threat.start_from(key, x) if self.random_start else x
        for step in range(self.steps):
            if len(x_adv) == 0:
                break
            asked = weights if step == self.steps - 1 else ()
            gradient, value, won, sums = input_and_weight_gradients(model, x_adv, goal, asked)
            weight_gradients = [each / count for each in sums]
            if best is not None:
                best.offer(rows, x_adv, value, won)
            if self.stop_at_success and bool(won.any()):
                left = ~won
                rows, x, x_adv, gradient, goal = rows[left], x[left], x_adv[left], gradient[left], goal[left]
            x_adv = self.stepped(x_adv, gradient, x)
        if best is not None and len(x_adv):
            best.judge(model, rows, x_adv, goal)
        return Crafted(x_adv, weight_gradients)


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method (Goodfellow, Shlens and Szegedy 2015), for any norm.

    One step of steepest ascent of length `step_size` (None: eps) from x, or from a random point
    of the ball with `random_start` (Wong, Rice and Kolter 2020, who step 1.25 eps), then projected.
    Arguments otherwise as `PGD`.
    """

    threat: ThreatModel
    step_size: float | None = None
    random_start: bool = False
    loss: str = "ce"
    targeted: bool = False
    model_mode: str = "eval"
    seed: int = 0

    def __post_init__(self) -> None:
        checked_threat(self.threat, "attack")
        self._one_step()  # which refuses other wrong arguments

    def __call__(
        self, model: nn.Module, x: ImagesLike, y: LabelsLike, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        return self._one_step()(model, x, y, generator=generator)

    def _one_step(self) -> PGD:
        return PGD(
            self.threat,
            steps=1,
            step_size=(self.threat.eps or None) if self.step_size is None else self.step_size,
            random_start=self.random_start,
            loss=self.loss,
            targeted=self.targeted,
            model_mode=self.model_mode,
            keep="last",
            seed=self.seed,
        )
