"""`ThreatModel`: a norm ball cut with the pixel box."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from robustlens import noise
from robustlens.config import ThreatSpec, norm_name, radius_problem
from robustlens.errors import ConfigError
from robustlens.results import ThreatRecord
from robustlens.threat.norms import NORMS


@dataclass(frozen=True)
class ThreatModel:
    """All images within distance `eps` of x, in `norm`, with every pixel inside `bounds`.

    Args:
        norm: "Linf", "L2" or "L1" (aliases such as "linf" and "l_2" are accepted).
        eps: radius, in the units of the image ([0, 1] by default: write 8/255, not 8); infinite for
            a minimum-norm attack that may go as far as it must.
        bounds: smallest and largest pixel value, of all channels. Attacks need finite ones.

    Raises:
        ConfigError: unknown norm, eps no number, negative or NaN, or bounds that are empty, reversed or not
            two numbers; a finite radius wider than the box, which almost always is one in 0..255 units.

    >>> ThreatModel("linf", eps=8 / 255).norm
    'Linf'
    """

    norm: str
    eps: float
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", norm_name(self.norm))
        if not isinstance(self.eps, Real | Tensor):
            raise ConfigError(f"threat.eps: found {self.eps!r}, expected a number, as 8/255 without quotes")
        object.__setattr__(self, "bounds", _checked_bounds(self.bounds))
        problem = None if self.eps == math.inf else radius_problem(self.norm, self.eps, self.bounds)
        if problem:
            raise ConfigError(f"threat.eps: {problem}")

    @classmethod
    def of(cls, spec: ThreatSpec) -> "ThreatModel":
        """The threat model that a recipe or a plan asks for."""
        return cls(spec.norm, spec.eps)

    def record(self) -> ThreatRecord:
        """This threat model as results keep it."""
        return ThreatRecord(self.norm, self.eps, self.bounds)

    def require_box(self) -> None:
        """Raise `ConfigError` for infinite bounds: an attack needs to know where images end."""
        if not all(map(math.isfinite, self.bounds)):
            raise ConfigError(f"threat.bounds: found {self.bounds}, expected finite numbers to attack within")

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
        """The nearest feasible images (Euclidean projection on ball and box together); see `contract`."""
        low, high = self.bounds
        origin = x.flatten(1)
        delta = NORMS[self.norm].project((x_adv - x).flatten(1), self.eps, low - origin, high - origin)
        return self.contract((origin + delta).clamp(low, high).view_as(x), x)

    def contract(self, x_adv: Float[Tensor, "n ..."], x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Images that rounding has put outside the ball, inside it; all others as they are.

        Pixels and sums are rounded: images are measured in float64, and those that are outside by more than
        1e-6 (of the box, where that is smaller) end inside: their changes are scaled down, but for pixels at
        the box, and rounded towards x.

        Args:
            x_adv: images in the box.
            x: the centres of their balls, in the box.
        """
        low, high = self.bounds
        allowed = 1e-6 * min(1.0, high - low)
        sums = 1 if self.norm == "Linf" else x[:1].numel()
        largest = torch.finfo(x_adv.dtype).eps * max(abs(low), abs(high), self.eps)
        if sums * largest <= allowed or math.isinf(self.eps):
            return x_adv
        norm, origin = NORMS[self.norm], x.flatten(1).double()
        delta = x_adv.flatten(1).double() - origin
        outside = norm.size(delta) > self.eps + allowed
        rows = torch.arange(len(x), device=x.device)
        if x.device.type == "cpu":  # elsewhere, to look for those outside would wait for the device
            rows = rows[outside]
            if len(rows) == 0:
                return x_adv
        few, origin, outside = x_adv[rows], origin[rows], outside[rows][:, None]
        delta = norm.contract(delta[rows], self.eps * (1 - 1e-12), ((few > low) & (few < high)).flatten(1))
        inside = (origin + delta).to(x_adv.dtype)
        beyond = (inside.double() - origin).abs() > delta.abs()
        inside = torch.where(beyond, inside.nextafter(x[rows].flatten(1)), inside)
        x_adv = x_adv.clone()
        x_adv[rows] = torch.where(outside, inside, few.flatten(1)).view_as(few)
        return x_adv

    def ascend(
        self,
        x_adv: Float[Tensor, "n ..."],
        gradient: Float[Tensor, "n ..."],
        step_size: float | Float[Tensor, " n"],
    ) -> Float[Tensor, "n ..."]:
        """One step of steepest ascent of length `step_size` in this norm, not yet projected."""
        norm, (low, high), room = NORMS[self.norm], self.bounds, None
        if norm.avoids_the_box:
            room = torch.where(gradient > 0, x_adv < high, x_adv > low).flatten(1)
        step = norm.ascend(gradient.flatten(1), room)
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


def checked_threat(threat: object, where: str) -> ThreatModel:
    """The threat model that a caller gave.

    Raises:
        ConfigError: it is none; `where` is for the message.
    """
    if not isinstance(threat, ThreatModel):
        raise ConfigError(
            f"{where}: found {threat!r} as the threat, expected a ThreatModel, as "
            'rl.ThreatModel("Linf", eps=8/255)'
        )
    return threat


def _checked_bounds(bounds: object) -> tuple[float, float]:
    """The bounds as two finite numbers."""
    try:
        low, high = (float(end) for end in bounds)  # type: ignore[attr-defined]
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"threat.bounds: found {bounds!r}, expected two numbers for all channels; keep normalisation "
            "inside the model"
        ) from None
    if not low < high:
        raise ConfigError(f"threat.bounds: found {bounds}, expected (low, high) with low < high")
    return low, high
