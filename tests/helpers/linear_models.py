"""Linear classifiers whose nearest misclassified image is known exactly, pixel box included.

Towards class t an attack has to close the gap f_y - f_t, so the nearest image is the smallest delta with
<w_t - w_y, delta> = gap and x + delta in the box. All is worked out in float64, by ways of its own: nothing of
the package is used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BOUNDS = (0.0, 1.0)
ROUNDS = 80


@dataclass(frozen=True)
class LinearProblem:
    """A linear model, images of which many pixels are at the box, and the labels that the model gives them."""

    model: nn.Linear
    x: Tensor
    y: Tensor
    bounds: tuple[float, float] = BOUNDS

    def distances(self, norm: str, slack: float = 0.0) -> Tensor:
        """Exact distance to the nearest image of another class, (n,) float64; inf where there is none.

        `slack` counts rounding errors of a float32 forward pass (see `rounding`): the distances to where the
        gap is closed up to -slack times its rounding, a lower bound for what such a model may be found at,
        or an upper bound where slack is negative.
        """
        return self.class_distances(norm, slack).amin(1)

    def class_distances(self, norm: str, slack: float = 0.0) -> Tensor:
        """As `distances` for each class, (n, classes); inf for the label itself and where the box forbids."""
        gap, gradient = self.gaps()
        origin = self.x.double()[:, None]
        room = torch.where(gradient > 0, self.bounds[1] - origin, origin - self.bounds[0])
        gap = gap - slack * self.rounding()
        found = torch.where(gap > 0, smallest(norm, gradient.abs(), gap, room), 0.0)
        return found.scatter(1, self.y[:, None], torch.inf)

    def gaps(self) -> tuple[Tensor, Tensor]:
        """f_y - f_t at x, (n, classes), and its fall w_t - w_y, (n, classes, dim), in float64."""
        weight, bias = self.model.weight.detach().double(), self.model.bias.detach().double()
        logits = self.x.double() @ weight.T + bias
        gap = logits.gather(1, self.y[:, None]) - logits
        return gap, weight[None] - weight[self.y][:, None]

    def rounding(self) -> Tensor:
        """A generous bound on the rounding error of a gap in the model's own precision, (n, classes)."""
        unit = torch.finfo(self.model.weight.dtype).eps
        weight, bias = self.model.weight.detach().double(), self.model.bias.detach().double()
        reach = torch.maximum(torch.tensor(abs(self.bounds[0])), torch.tensor(abs(self.bounds[1]))).double()
        size = (weight.square().sum(1).sqrt() * reach * weight.shape[1] ** 0.5 + bias.abs()).amax()
        return torch.full((len(self.x), len(weight)), float(4 * unit * size), dtype=torch.float64)


def linear_problem(
    dim: int,
    classes: int = 2,
    *,
    n: int = 50,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    bounds: tuple[float, float] = BOUNDS,
) -> LinearProblem:
    """A random problem with a binding box: more than a third of the pixels lie on it."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(dim, classes, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, dim, generator=generator))
        model.bias.copy_(torch.randn(classes, generator=generator) * 0.1)
    low, high = bounds
    unit = (torch.rand(n, dim, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1)
    x = (low + (high - low) * unit).to(dtype)
    return LinearProblem(model, x, model(x).argmax(1), bounds)


def smallest(norm: str, slope: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """Smallest norm of a delta with 0 <= delta <= room and <slope, delta> = gap, slope >= 0.

    Shapes: `slope` and `room` (..., dim), `gap` and the result (...). Inf where even all the room is too little.

    Linf: delta = min(room, r) for the smallest r that will do. L2: delta = min(room, t slope), which the
    optimality conditions say. L1: the steepest coordinate first, each to the box, the last one in part.
    """
    slope = slope.expand(torch.broadcast_shapes(slope.shape, room.shape))
    most = (slope * room).sum(-1)
    if norm == "L1":
        order = slope.argsort(-1, descending=True)
        slope, room = slope.gather(-1, order), room.expand_as(slope).gather(-1, order)
        closed = (slope * room).cumsum(-1)
        left = (gap[..., None] - (closed - slope * room)).clamp_min(0)
        found = torch.where(slope > 0, (left / slope.clamp_min(1e-300)).minimum(room), 0.0).sum(-1)
    else:
        direction = torch.ones_like(slope) if norm == "Linf" else slope

        def delta(t: Tensor) -> Tensor:
            return (t[..., None] * direction).minimum(room)

        low = torch.zeros_like(gap)
        high = torch.where(direction > 0, room / direction.clamp_min(1e-300), 0.0).amax(-1)
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            enough = (slope * delta(middle)).sum(-1) >= gap
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        found = delta(high).amax(-1) if norm == "Linf" else delta(high).square().sum(-1).sqrt()
    return torch.where(most >= gap, found, torch.inf)
