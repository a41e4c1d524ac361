"""PGD whose step is one compiled graph: loss, gradient of the images, ascent and projection."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks.base import Goal
from robustlens.attacks.inputs import checked_inputs
from robustlens.attacks.pgd import PGD
from robustlens.errors import ConfigError
from robustlens.models import compiled_apart

Step = Callable[[nn.Module, Tensor, Tensor, Goal], Tensor]
"""The next iterate of a network, from the one before, the images, and what the attack aims at."""


@dataclass(frozen=True)
class CompiledPGD:
    """The attack `pgd`, for training: the same images but for rounding, in fewer and larger kernels.

    torch compiles at the first call, again for every other shape of a batch and for every other network; so
    give it one network, and batches of one size.

    Args:
        pgd: keeps the last iterate, and asks a network in eval mode.
        graphs: replay CUDA graphs, which spares the launch of kernels; results then lie in memory that the
            next call uses again, from which the last images are copied.

    Raises:
        ConfigError: `pgd` compares iterates or aims at classes, which no training needs, or asks a network in
            train mode, whose layers change inside a step.
    """

    pgd: PGD
    graphs: bool = False
    _step: Step = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pgd.keep != "last":
            raise ConfigError("attack.keep: found 'best', expected 'last' to craft for training")
        if self.pgd.model_mode != "eval":
            raise ConfigError(
                "attack.model_mode: found 'train', expected 'eval' for a compiled step; use PGD"
            )
        if self.pgd.targets is not None:
            raise ConfigError(
                f"attack.targets: found {self.pgd.targets!r}, expected none to craft for training"
            )
        mode = "reduce-overhead" if self.graphs else None
        object.__setattr__(self, "_step", compiled_apart(self._next, dynamic=False, mode=mode))

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        pgd, seed = self.pgd, noise.seed_from(generator, self.pgd.seed)
        with checked_inputs(model, x, y, pgd.threat, beforehand=True) as (x, y):
            if len(x) == 0:
                return x.clone()
            goal = Goal.of(model, x, y, pgd.loss, targeted=pgd.targeted)
            if self.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            x_adv = pgd.threat.start_from(pgd.keys(x, seed), x) if pgd.random_start else x
            for _ in range(pgd.steps):
                x_adv = self._step(model, x_adv, x, goal)
            return x_adv.clone() if self.graphs else x_adv

    def _next(self, model: nn.Module, x_adv: Tensor, x: Tensor, goal: Goal) -> Tensor:
        """One step, in operations of which torch makes one graph."""
        gradient = torch.func.grad(lambda images: goal.value(model(images)).sum())(x_adv)
        return self.pgd.stepped(x_adv, gradient.nan_to_num(0.0, 0.0, 0.0), x)
