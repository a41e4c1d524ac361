"""Attacks that take turns: each goes on with the images that none before it has broken."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks.base import Attack, Goal, tries_of
from robustlens.attacks.best import in_turn
from robustlens.attacks.inputs import ImagesLike, LabelsLike, checked_inputs
from robustlens.errors import ConfigError


@dataclass(frozen=True)
class Ensemble:
    """Several attacks as one, e.g. `Ensemble(tuple(chosen("standard", threat).values()))`.

    Args:
        attacks: in the order in which they run; the cheap and strong ones first.

    Returned is the first point that fools the model, or else the one with the largest margin of the wrong.
    Each attack keeps its own seed unless a generator is given, from which each try then draws one.

    Raises:
        ConfigError: no attack.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ConfigError("ensemble: found no attacks, expected at least one")

    def tries(self) -> tuple[Attack, ...]:
        """Every try of every attack."""
        return tuple(each for attack in self.attacks for each in tries_of(attack))

    def __call__(
        self, model: nn.Module, x: ImagesLike, y: LabelsLike, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        if generator is not None:  # which may be torch's own: that is put back inside
            generator = noise.generator_for(noise.seed_from(generator))
        threat = next((attack.threat for attack in self.attacks if hasattr(attack, "threat")), None)
        with checked_inputs(model, x, y, threat) as (x, y):
            if len(x) == 0:
                return x.clone()
            goal = Goal.of(model, x, y, "margin", targeted=False)
            return in_turn(self.tries(), model, x, y, goal, generator=generator)
