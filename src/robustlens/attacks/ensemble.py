"""Attacks that take turns: each goes on with the images that none before it has broken."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens.attacks.base import Attack, Goal, tries_of
from robustlens.attacks.best import in_turn
from robustlens.errors import ConfigError
from robustlens.models import frozen


@dataclass(frozen=True)
class Ensemble:
    """Several attacks as one, e.g. `Ensemble(tuple(chosen("standard", threat).values()))`.

    Args:
        attacks: in the order in which they run; the cheap and strong ones first.

    Returned is the first point that fools the model, or else the one with the largest margin of the wrong.
    Each attack keeps its own seed; a generator is not used.

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
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n ..."]:
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        x = x.detach()
        with frozen(model):
            return in_turn(self.tries(), model, x, y, Goal.of(model, x, y, "margin", targeted=False))
