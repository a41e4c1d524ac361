"""One gradient step on one batch, as a recipe says: images, attack, perturbation of the weights, objective.

Everything that is drawn is a function of (seed, epoch, step), so that a resumed run draws the same again.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustlens import attacks, models, noise, objectives, weights
from robustlens.attacks import Attack
from robustlens.config import Recipe
from robustlens.data import Split, augment
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel
from robustlens.training.crafting import Crafter
from robustlens.training.distributed import averaged_over_ranks, averaging
from robustlens.training.images import TrainingImages
from robustlens.training.network import perturbation_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_AUGMENT, _ATTACK, _MIXUP, _WEIGHTS = 1, 2, 4, 5  # sub-streams of a step's randomness; 3 is the layers' own

_COMPARED = 8  # images on which a faster copy of the network has to show its logits

Draws = Callable[..., torch.Generator]
"""Generator of a sub-stream of a step's randomness, new at every call: `draws(number, ...)`."""


@dataclass
class MicroBatch:
    """Images that the objective is given at once; `share` is their part of the batch."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    share: float


class TrainingStep:
    """Gradient step on a batch, again and again.

    Args:
        recipe: says how.
        model: the network, on its device.
        images: the training images, pseudo-labelled ones among them.
        optimizer: of the network's parameters.
        fabric: device and precision.
        num_classes: for labels that mixup makes soft.

    Attributes:
        memory: tensors that one step of an epoch leaves to the next.
        following: rows of the step after this one, which are read meanwhile; None: there is none.

    Raises:
        ConfigError: parts of the recipe that do not go together.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        images: Split,
        optimizer: torch.optim.Optimizer,
        fabric: "Fabric",
        num_classes: int,
    ) -> None:
        self.recipe, self.optimizer = recipe, optimizer
        self.fabric, self.num_classes = fabric, num_classes
        self.memory: dict[str, Tensor] = {}
        self.following: Tensor | None = None
        self.objective = objectives.get(recipe.objective, **recipe.objective_options)
        # Compiled or averaging, a network shares every tensor with `model`, which the trainer saves.
        self.model = self._compiled(model)
        # Backward passes through `shared` average gradients over the ranks; attacks and ascents need none.
        self.shared = self.model if fabric.world_size == 1 else self._compiled(averaging(fabric, model))
        self.threat = ThreatModel.of(recipe.threat)
        self.attack = self._inner_attack()
        self.augment = augment.of_spec(recipe.data, images.crop)
        self.use(images)
        self.perturbation = perturbation_of(recipe, model)
        self._check()
        self.crafter: Crafter | None = None
        if self.attack is not None and recipe.attack.replays == 1:  # a free step crafts by itself
            few = images.x(slice(_COMPARED)).to(fabric.device)
            self.crafter = Crafter(self.attack, model, self.model, few, recipe, fabric)

    def use(self, images: Split) -> None:
        """Train on these images from now on."""
        self.images = TrainingImages(images, self.fabric.device)

    def __call__(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Step on the images at `rows`; returns the mean of the objective, without the L1 penalty."""
        draws = partial(noise.generator_for, self.recipe.seed, epoch, step)
        self.objective = objectives.after(self.objective, epoch / self.recipe.optimizer.epochs)
        x, y = self._batch(rows, draws)
        if step == 0:
            augment.check_range(self.augment, x)
        batches = self._micro_batches(x, y)
        gradients = self._craft(batches, partial(draws, _ATTACK), self._weights_to_follow(epoch))
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.fabric.device)
        with self._perturbed(epoch, batches, gradients, draws):
            for batch in batches:
                with averaged_over_ranks(self.fabric, self.shared, batch is batches[-1]):
                    loss = self._loss(self.shared, batch)
                    self.fabric.backward(loss)
                total += loss.detach()
        self._add_penalty()
        self.optimizer.step()
        return total

    def perturbs(self, epoch: int) -> bool:
        """Whether the weights are perturbed in this epoch: the warm-up of that is over."""
        spec = self.recipe.perturbation
        return spec is not None and epoch >= spec.warmup_epochs

    def _compiled(self, network: nn.Module) -> nn.Module:
        """`network`, compiled if the recipe says so: torch differentiates what it has compiled only once."""
        if not self.recipe.compile or objectives.takes_second_derivatives(self.objective):
            return network
        return models.compiled_apart(network)

    # -- what goes together ----------------------------------------------------------------------

    def _inner_attack(self) -> Attack | None:
        """The attack whose images the objective trains on, if it looks at any."""
        build = self.objective.inner_attack if self.threat.eps > 0 else None
        return None if build is None else build(self.threat, self.recipe.attack)

    def _check(self) -> None:
        recipe = self.recipe
        for field, spec in recipe.perturbations.items():
            if spec.from_attack:
                self._check_from_attack(f"{field}.from_attack")
        if recipe.mixup is not None and not objectives.takes_soft_labels(self.objective):
            raise ConfigError(f"mixup: {recipe.objective!r} takes no soft labels; use another objective")
        if recipe.attack.replays > 1 and self.attack is None:
            raise ConfigError(
                f"attack.replays: {recipe.objective!r} at eps {self.threat.eps:g} does not look at "
                "adversarial images; use at"
            )

    def _check_from_attack(self, where: str) -> None:
        if self.attack is None or not attacks.gives_weight_gradients(self.attack):
            raise ConfigError(f"{where}: {self.recipe.objective!r} does not train on PGD's images; use at")
        if self.perturbation is not None and not self.perturbation.follows_gradient:
            raise ConfigError(f"{where}: this perturbation follows no gradient; leave it out")

    # -- the batch -------------------------------------------------------------------------------

    def _batch(self, rows: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Images and labels at `rows`, augmented and mixed: this rank's share of them.

        A rank reads and augments its own images alone, where what is drawn for an image depends on nothing
        else. Mixup, and an augmentation of the user's, may look at the whole batch: then each rank makes it.
        """
        own = slice(self.fabric.global_rank, None, self.fabric.world_size)
        following = self.following
        alone = self.recipe.mixup is None and getattr(self.augment, "by_example", False)
        if alone:
            rows, following = rows[own], None if following is None else following[own]
        x = self.images.augmented(rows, self.augment, draws(_AUGMENT))
        y = self.images.labels(rows)
        self.images.announce(following)
        if self.recipe.mixup is not None:
            x, y = augment.mixup(x, y, self.num_classes, self.recipe.mixup, draws(_MIXUP))
        return (x, y) if alone else (x[own], y[own])

    def _micro_batches(self, x: Tensor, y: Tensor) -> list[MicroBatch]:
        """The batch in as many micro-batches as gradients are accumulated over.

        A batch has its labelled images first and the pseudo-labelled ones after them; in steps through it
        every micro-batch, and BatchNorm in it, gets its share of both.
        """
        number = min(self.recipe.optimizer.accumulate, len(x))
        pairs = [(x[first::number], y[first::number]) for first in range(number)]
        return [MicroBatch(images, images, labels, len(images) / len(x)) for images, labels in pairs]

    def _craft(
        self,
        batches: Sequence[MicroBatch],
        new_generator: Callable[[], torch.Generator],
        followed: Sequence[nn.Parameter] = (),
    ) -> list[Tensor] | None:
        """Make the adversarial images of every micro-batch, at the weights as they are.

        Returns the attack's gradients of the `followed` weights, over the whole batch; None without any.
        """
        if self.crafter is None:
            return None
        totals = [torch.zeros_like(weight) for weight in followed]
        for batch in batches:
            crafted = self.crafter(batch.x, batch.y, weights=followed, generator=new_generator())
            batch.x_adv = crafted.x_adv
            gradients = crafted.weight_gradients or []
            totals = [t + g * batch.share for t, g in zip(totals, gradients, strict=True)]
        return totals or None

    # -- the weights -----------------------------------------------------------------------------

    def _losses(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        """The objective of each image of a micro-batch, at the weights as they are."""
        with self.fabric.autocast():
            return self.objective(model, batch.x, batch.x_adv, batch.y)

    def _loss(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        """Share of the batch's mean objective that a micro-batch adds, at the weights as they are."""
        with self.fabric.autocast():
            return self._losses(model, batch).mean() * batch.share

    def _weights_to_follow(self, epoch: int) -> list[nn.Parameter]:
        """Weights whose gradients are taken from the attack, as their perturbation will follow these."""
        spec = self.recipe.perturbation
        if self.perturbation is None or spec is None or not (spec.from_attack and self.perturbs(epoch)):
            return []
        return self.perturbation.weights()

    def _perturbed(
        self, epoch: int, batches: Sequence[MicroBatch], gradients: list[Tensor] | None, draws: Draws
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the weights where the training gradient is taken: at w, or at w + v after the warm-up."""
        if self.perturbation is None or not self.perturbs(epoch):
            return contextlib.nullcontext()
        if gradients is not None:
            return self.perturbation.perturbed_along(gradients)
        rounds = count(1)

        def craft_again() -> None:
            self._craft(batches, partial(draws, _ATTACK, next(rounds)))

        loss_of = self._losses if self.perturbation.takes_image_losses else self._loss
        return self.perturbation.perturbed(
            [partial(loss_of, self.model, batch) for batch in batches],
            craft=craft_again,
            generator=draws(_WEIGHTS),
        )

    @torch.no_grad()
    def _add_penalty(self) -> None:
        """Add the gradient of the L1 penalty on the matrices among the weights, taken at w.

        As with weight decay, which the optimizer adds, a perturbation of the weights does not enter, and
        a weight without a gradient stays.
        """
        factor = self.recipe.optimizer.l1
        for weight in weights.matrix_parameters(self.model) if factor else ():
            if weight.grad is not None:
                weight.grad.add_(weight.sign(), alpha=factor)


class FreeTrainingStep(TrainingStep):
    """Adversarial training "for free" (Shafahi et al. 2019, algorithm 1): every batch `attack.replays` times.

    One backward pass gives the gradient of the weights and that of the images. The weights step, and the
    perturbation `delta` of the images ascends by eps; it is kept for the next replay, and for the next batch
    of the epoch. So an epoch makes `replays` times as many weight steps as another's, at three passes each.
    """

    def __call__(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Step `replays` times on the images at `rows`; returns the mean of the objective over these."""
        x, y = self._batch(rows, partial(noise.generator_for, self.recipe.seed, epoch, step))
        if step == 0:
            augment.check_range(self.augment, x)
            self.memory["delta"] = torch.zeros_like(x)
        total = torch.zeros((), device=x.device)
        for _ in range(self.recipe.attack.replays):
            total += self._replay(x, y)
        return total / self.recipe.attack.replays

    def _replay(self, x: Tensor, y: Tensor) -> Tensor:
        """Step the weights and the images along the gradients of one backward pass; returns the objective."""
        x_adv = self.threat.project(x + self.memory["delta"], x).requires_grad_()
        loss = self._loss(self.shared, MicroBatch(x, x_adv, y, 1.0))
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self._add_penalty()
        self.optimizer.step()
        assert x_adv.grad is not None
        ascended = self.threat.ascend(x_adv.detach(), x_adv.grad, self.threat.eps)
        self.memory["delta"] = self.threat.project(ascended, x) - x
        return loss.detach()


def step_for(recipe: Recipe) -> type[TrainingStep]:
    """Kind of step that a recipe takes."""
    return FreeTrainingStep if recipe.attack.replays > 1 else TrainingStep
