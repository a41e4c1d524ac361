"""One gradient step on one batch, as a recipe says: images, attack, perturbation of the weights, objective.

Everything that is drawn is a function of (seed, epoch, step), so that a resumed run draws the same again.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from robustlens import noise, objectives, weights
from robustlens.attacks import PGD
from robustlens.config import Recipe
from robustlens.data import Split, augment
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

_AUGMENT, _ATTACK, _MIXUP, _WEIGHTS = 1, 2, 4, 5  # sub-streams of a step's randomness; 3 is the layers' own

PERTURBATIONS: dict[str, Callable[..., weights.WeightPerturbation]] = {
    "awp": weights.AdversarialWeightPerturbation,
    "rwp": weights.RandomWeightPerturbation,
    "sam": weights.SharpnessAwareMinimization,
}
"""Perturbations of the weights, by the recipe's field that asks for them."""


@dataclass
class Part:
    """A micro-batch: what the objective is given. `share` is its part of the batch."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    share: float


class Step:
    """A gradient step, again and again.

    Args:
        recipe: what to do.
        model: the network, on its device.
        images: the training images, pseudo-labelled ones among them.
        optimizer: of the network's parameters.
        fabric: device and precision.
        num_classes: for labels that mixup makes soft.

    Raises:
        ConfigError: parts of the recipe that do not go together.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        images: Split,
        optimizer: torch.optim.Optimizer,
        fabric: Fabric,
        num_classes: int,
    ) -> None:
        self.recipe, self.images = recipe, images
        # The compiled network shares every tensor with `model`, which the trainer saves.
        self.model: nn.Module = cast(nn.Module, torch.compile(model)) if recipe.compile else model
        # Backward passes through `shared` average gradients over the ranks; attacks and ascents need none.
        self.shared = self.model if fabric.world_size == 1 else fabric.setup_module(self.model)
        if recipe.optimizer.batch_size % fabric.world_size:
            found = f"{recipe.optimizer.batch_size} for {fabric.world_size} processes"
            raise ConfigError(f"optimizer.batch_size: found {found}, expected a multiple of their number")
        self.optimizer, self.fabric, self.num_classes = optimizer, fabric, num_classes
        self.objective = objectives.get(recipe.objective, **recipe.objective_options)
        self.threat = ThreatModel(recipe.threat.norm, recipe.threat.eps)
        build = self.objective.inner_attack if self.threat.eps > 0 else None
        self.attack = None if build is None else build(self.threat, recipe.attack)
        self.augment = augment.get(augmentation(recipe))
        self.perturbation = _perturbation(recipe, model)
        if recipe.awp and recipe.awp.from_attack and not isinstance(self.attack, PGD):
            raise ConfigError(f"awp.from_attack: {recipe.objective!r} does not train on PGD's images; use at")
        if recipe.mixup is not None and not objectives.takes_soft_labels(self.objective):
            raise ConfigError(f"mixup: {recipe.objective!r} takes no soft labels; use another objective")
        if recipe.attack.replays > 1 and build is None:
            raise ConfigError(
                f"attack.replays: {recipe.objective!r} at eps {self.threat.eps:g} does not look at "
                "adversarial images; use at"
            )

    def __call__(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Step on the images at `rows`; returns the mean of the objective, without the L1 penalty."""
        x, y = self._batch(epoch, step, rows)
        parts = self._parts(x, y)
        gradients = self._craft(parts, epoch, step)

        def loss_fn(part: Part, model: nn.Module = self.model) -> Tensor:
            with self.fabric.autocast():
                return self.objective(model, part.x, part.x_adv, part.y).mean() * part.share

        self.optimizer.zero_grad()
        total = torch.zeros((), device=x.device)
        with self._moved(parts, loss_fn, gradients, epoch, step):
            for part in parts:
                loss = loss_fn(part, self.shared)
                self.fabric.backward(loss)
                total += loss.detach()
        self._add_penalty()
        self.optimizer.step()
        return total

    def acts(self, epoch: int) -> bool:
        """Whether the weights are perturbed in this epoch: its warm-up is over."""
        spec = self.recipe.perturbation
        return spec is not None and epoch >= spec.warmup_epochs

    # -- the batch -------------------------------------------------------------------------------

    def _batch(self, epoch: int, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        device, seed = self.fabric.device, self.recipe.seed
        x = self.images.x(rows).to(device)
        y = self.images.labels[rows].to(device)
        x = self.augment(x, noise.generator_for(seed, epoch, step, _AUGMENT))
        if self.recipe.mixup is not None:
            draws = noise.generator_for(seed, epoch, step, _MIXUP)
            x, y = augment.mixup(x, y, self.num_classes, self.recipe.mixup, draws)
        # The whole batch is made on every rank: what is drawn for an image does not depend on their number.
        own = slice(self.fabric.global_rank, None, self.fabric.world_size)
        return x[own], y[own]

    def _parts(self, x: Tensor, y: Tensor) -> list[Part]:
        """The batch in as many micro-batches as gradients are accumulated over.

        A batch has its labelled images first and the pseudo-labelled ones after them; in steps through it
        every micro-batch, and BatchNorm in it, gets its share of both.
        """
        number = min(self.recipe.optimizer.accumulate, len(x))
        pairs = [(x[first::number], y[first::number]) for first in range(number)]
        return [Part(images, images, labels, len(images) / len(x)) for images, labels in pairs]

    def _craft(self, parts: list[Part], epoch: int, step: int) -> list[Tensor] | None:
        """Make the adversarial images of every part; returns the weights' gradients if AWP takes these."""
        if self.attack is None:
            return None
        if not self._from_attack(epoch):
            self._craft_again(parts, epoch, step)
            return None
        assert isinstance(self.attack, PGD)
        assert self.perturbation is not None
        moved = self.perturbation.weights()
        total = [torch.zeros_like(weight) for weight in moved]
        for part in parts:
            draws = noise.generator_for(self.recipe.seed, epoch, step, _ATTACK)
            with self.fabric.autocast():
                part.x_adv, found = self.attack.craft(self.model, part.x, part.y, moved, generator=draws)
            total = [t + g * part.share for t, g in zip(total, found, strict=True)]
        return total

    def _craft_again(self, parts: list[Part], epoch: int, step: int, *round_: int) -> None:
        """Make the adversarial images of every part, at the weights as they are; each round draws anew."""
        assert self.attack is not None
        for part in parts:
            draws = noise.generator_for(self.recipe.seed, epoch, step, _ATTACK, *round_)
            with self.fabric.autocast():
                part.x_adv = self.attack(self.model, part.x, part.y, generator=draws)

    # -- the weights -----------------------------------------------------------------------------

    def _from_attack(self, epoch: int) -> bool:
        awp = self.recipe.awp
        return awp is not None and awp.from_attack and self.acts(epoch)

    def _moved(
        self,
        parts: list[Part],
        loss_fn: Callable[[Part], Tensor],
        gradients: list[Tensor] | None,
        epoch: int,
        step: int,
    ) -> contextlib.AbstractContextManager[None]:
        """Where the gradient is taken: at w, or at w + v once the warm-up is over."""
        if self.perturbation is None or not self.acts(epoch):
            return contextlib.nullcontext()
        if gradients is not None and isinstance(self.perturbation, weights.AdversarialWeightPerturbation):
            return self.perturbation.perturbed_along(gradients)
        rounds = count(1)
        return self.perturbation.perturbed(
            [partial(loss_fn, part) for part in parts],
            craft=lambda: self._craft_again(parts, epoch, step, next(rounds)),
            generator=noise.generator_for(self.recipe.seed, epoch, step, _WEIGHTS),
        )

    @torch.no_grad()
    def _add_penalty(self) -> None:
        """Add the gradient of the L1 penalty on the weights with two or more dimensions, taken at w.

        As with weight decay, which the optimizer adds, a perturbation of the weights does not enter, and
        a weight without a gradient stays.
        """
        factor = self.recipe.optimizer.l1
        for weight in weights.matrix_parameters(self.model) if factor else ():
            if weight.grad is not None:
                weight.grad.add_(weight.sign(), alpha=factor)


class FreeStep(Step):
    """Adversarial training "for free" (Shafahi et al. 2019, algorithm 1): every batch `attack.replays` times.

    One backward pass gives the gradient of the weights and that of the images. The weights step, and the
    perturbation of the images ascends by eps; it is kept for the next replay, and for the next batch of the
    epoch. So an epoch makes `replays` times as many weight steps as another's, at three passes each.
    """

    def __call__(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Step `replays` times on the images at `rows`; returns the mean of the objective over these."""
        x, y = self._batch(epoch, step, rows)
        if step == 0:
            self.moved = torch.zeros_like(x)
        total = torch.zeros((), device=x.device)
        for _ in range(self.recipe.attack.replays):
            x_adv = self.threat.project(x + self.moved, x).requires_grad_()
            with self.fabric.autocast():
                loss = self.objective(self.shared, x, x_adv, y).mean()
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            self._add_penalty()
            self.optimizer.step()
            assert x_adv.grad is not None
            ascended = self.threat.ascend(x_adv.detach(), x_adv.grad, self.threat.eps)
            self.moved = self.threat.project(ascended, x) - x
            total += loss.detach()
        return total / self.recipe.attack.replays


def step_for(recipe: Recipe) -> type[Step]:
    """The kind of step that a recipe takes."""
    return FreeStep if recipe.attack.replays > 1 else Step


def augmentation(recipe: Recipe) -> str:
    """The augmentation of a recipe, by name."""
    chosen = recipe.data.augment
    return augment.default_for(recipe.data.name) if chosen == "auto" else chosen


def _perturbation(recipe: Recipe, model: nn.Module) -> weights.WeightPerturbation | None:
    asked = {name: spec for name in PERTURBATIONS if (spec := getattr(recipe, name)) is not None}
    if not asked:
        return None
    ((name, spec),) = asked.items()
    return PERTURBATIONS[name](model, **spec.model_dump(exclude={"warmup_epochs", "from_attack"}))
