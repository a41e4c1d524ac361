"""`ThreatModel`: a norm ball cut with the pixel box."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustlens import noise
from robustlens.config import norm_name, radius_problem
from robustlens.errors import ConfigError
from robustlens.threat.norms import NORMS


@dataclass(frozen=True)
class ThreatModel:
    """All images within distance `eps` of x, in `norm`, with every pixel inside `bounds`.

    Args:
        norm: "Linf", "L2" or "L1" (aliases such as "linf" and "l_2" are accepted).
        eps: radius, in the units of the image ([0, 1] by default: write 8/255, not 8); infinite for
            a minimum-norm attack that may go as far as it must.
        bounds: smallest and largest pixel value.

    Raises:
        ConfigError: unknown norm, eps negative or NaN, or bounds that are empty or reversed; a finite
            Linf radius wider than the box, which almost always is a radius in 0..255 units.

    >>> ThreatModel("linf", eps=8 / 255).norm
    'Linf'
    """

    norm: str
    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", norm_name(self.norm))
        low, high = self.bounds
        if not low < high:
            raise ConfigError(f"threat.bounds: found {self.bounds}, expected (low, high) with low < high")
        problem = None if self.eps == math.inf else radius_problem(self.norm, self.eps, self.bounds)
        if problem:
            raise ConfigError(f"threat.eps: {problem}")

    @property
    def default_step_size(self) -> float:
        """The field's step: eps/4 for Linf (2/255 at 8/255), 15/128 eps for L2, eps/4 for L1."""
        return NORMS[self.norm].step_ratio * self.eps

    def at(self, eps: float) -> "ThreatModel":
        """The same threat with another radius."""
        return ThreatModel(self.norm, eps, self.bounds)

    def distance(self, x_adv: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """Distance of each pair, in this norm."""
        return NORMS[self.norm].size((x_adv - x).flatten(1))

    def project(self, x_adv: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The nearest feasible images (Euclidean projection on ball and box together)."""
        low, high = self.bounds
        origin = x.flatten(1)
        delta = NORMS[self.norm].project((x_adv - x).flatten(1), self.eps, low - origin, high - origin)
        return (origin + delta).clamp(low, high).view_as(x)

    def ascend(
        self,
        x_adv: Float[Tensor, "n ..."],
        gradient: Float[Tensor, "n ..."],
        step_size: float | Float[Tensor, " n"],
    ) -> Float[Tensor, "n ..."]:
        """One step of steepest ascent of length `step_size` in this norm, not yet projected."""
        low, high = self.bounds
        room = torch.where(gradient > 0, x_adv < high, x_adv > low)
        step = NORMS[self.norm].ascend(gradient.flatten(1), room.flatten(1))
        size = step_size[:, None] if isinstance(step_size, Tensor) else step_size
        return x_adv + (size * step).view_as(x_adv)

    def project_on_hyperplane(
        self, x_from: Float[Tensor, "n ..."], gradient: Float[Tensor, "n ..."], gap: Float[Tensor, " n"]
    ) -> Float[Tensor, "n ..."]:
        """The nearest images at which a linear function is larger by `gap`, or smaller for a negative one.

        Nearest in this norm to `x_from`, which lies inside `bounds`, among all images inside them, however
        far (`eps` does not enter). Where the function cannot change as much, the image at which it changes
        most. This is the projection on a hyperplane and a box of Croce and Hein 2020 (FAB, section 3.1).

        Args:
            x_from: where to start.
            gradient: of the linear function.
            gap: the change that it has to make.
        """
        low, high = self.bounds
        origin = x_from.flatten(1)
        delta = NORMS[self.norm].project_on_hyperplane(gradient.flatten(1), gap, low - origin, high - origin)
        return (origin + delta).clamp(low, high).view_as(x_from)

    def random_start(
        self, x: Float[Tensor, "n ..."], generator: torch.Generator | None = None, *, restart: int = 0
    ) -> Float[Tensor, "n ..."]:
        """A random feasible image for each x: uniform in the ball, then projected on the box.

        The draw belongs to the example (see `robustlens.noise`): it does not depend on the batch.
        """
        key = noise.fold(noise.keys(x, noise.seed_from(generator)), restart)
        return self.start_from(key, x)

    def start_from(self, key: Tensor, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """As `random_start`, from keys of the caller."""
        flat = x.flatten(1)
        return self.project(x + self.eps * NORMS[self.norm].sample(key, flat).view_as(x), x)
