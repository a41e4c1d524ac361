"""The images that an attacker may reach, and linear functions over them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robustlens.certification.bounds import Bounds, rounding, smallest
from robustlens.threat import ThreatModel

DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}
"""Order of the norm that a linear function grows by, at most, over a ball of each norm."""
_ROUNDS = 40


@dataclass(frozen=True, eq=False)
class Ball:
    """Images within `eps` of x in a norm, with every pixel inside the threat's bounds.

    Args:
        x: centres (n, ...), float64.
        eps: radius of each, (n,), float64.
        threat: norm and pixel bounds.
    """

    x: Float[Tensor, "n ..."]
    eps: Float[Tensor, " n"]
    threat: ThreatModel

    @property
    def box(self) -> Bounds:
        """The smallest box around it, rounded outwards."""
        low, high = self.threat.bounds
        eps = self.eps.view(-1, *[1] * (self.x.ndim - 1))
        infinity = torch.tensor(math.inf).to(self.x)
        lower = (self.x - eps).nextafter(-infinity).clamp_min(low)
        return Bounds(lower, (self.x + eps).nextafter(infinity).clamp_max(high))

    def smallest(self, rows: Float[Tensor, "n s ..."], *, exact: bool = False) -> Float[Tensor, "n s"]:
        """A lower bound of each linear function over the ball.

        The better of two: over the box around it, and over the ball without pixel bounds. With `exact`, in L2
        and L1, over both at once: by weak duality the smallest value of <a, d> + lambda (|d|^p - eps^p) over
        the box is a lower bound for every lambda >= 0, and the best lambda is looked for by bisection.
        """
        over_box = smallest(rows, self.box)
        if self.threat.norm == "Linf":
            return over_box
        flat, x = rows.flatten(2), self.x.flatten(1)
        size = torch.linalg.vector_norm(flat, DUAL[self.threat.norm], dim=2)
        centre = (flat @ x[:, :, None]).squeeze(2)
        total = (flat.abs() @ x.abs()[:, :, None]).squeeze(2) + self.eps[:, None] * size
        lost = rounding(2 * x.shape[1]) * total
        best = over_box.maximum(centre - self.eps[:, None] * size - lost)
        return best.maximum(centre + self._dual(flat) - lost) if exact else best

    def _dual(self, rows: Float[Tensor, "n s d"]) -> Float[Tensor, "n s"]:
        """Largest dual value that bisection over lambda meets."""
        power = 1 if self.threat.norm == "L1" else 2
        box, x, eps = self.box, self.x.flatten(1)[:, None], self.eps[:, None]
        low, high = (each.flatten(1)[:, None] - x for each in box)
        top = rows.abs().amax(2)
        if power == 2:  # where no pixel is at its bound, lambda is the norm over 2 eps
            top = torch.linalg.vector_norm(rows, dim=2) / (2 * eps.clamp_min(torch.finfo(rows.dtype).tiny))
        below, above = torch.zeros_like(top), top
        best = torch.full_like(top, -math.inf)
        for _ in range(_ROUNDS):
            scale = ((below + above) / 2)[:, :, None]
            if power == 2:
                step = (
                    (-rows / (2 * scale).clamp_min(torch.finfo(rows.dtype).tiny)).maximum(low).minimum(high)
                )
            else:
                step = torch.where(rows.abs() > scale, torch.where(rows > 0, low, high), 0.0)
            size = step.abs().pow(power).sum(2)
            value = (rows * step).sum(2) + scale.squeeze(2) * (size - eps**power)
            error = (rows * step).abs().sum(2) + scale.squeeze(2) * (size + eps**power)
            best = best.maximum(value - rounding(rows.shape[2]) * error)
            outside = size > eps**power
            below = torch.where(outside, scale.squeeze(2), below)
            above = torch.where(outside, above, scale.squeeze(2))
        return best.nan_to_num(-math.inf, -math.inf, -math.inf)
