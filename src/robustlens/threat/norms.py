"""Norms: distance, projection, steepest ascent, random start and nearest point of a hyperplane, for each."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from robustlens import noise
from robustlens.threat.filling import greedy_fill, water_fill

_TINY = 1e-12


@runtime_checkable
class Norm(Protocol):
    """Geometry of a norm. Shapes: `delta`, `gradient`, `low`, `high` are (n, d); results (n, d)."""

    @property
    def step_ratio(self) -> float:
        """The field's step size as a share of eps (PGD-10 training, PGD-20 test)."""

    @property
    def avoids_the_box(self) -> bool:
        """Whether an ascent looks where the box blocks it."""

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each row, (n,)."""

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        """Euclidean projection on the ball of radius `eps` cut with the box [low, high] (which holds 0)."""

    def contract(self, delta: Tensor, eps: float, free: Tensor) -> Tensor:
        """`delta` inside the ball, which rounding has made it leave; only what is `free` moves if it can."""

    def ascend(self, gradient: Tensor, room: Tensor | None) -> Tensor:
        """Unit step of steepest ascent.

        `room` is False where the box blocks the coordinate; None for a norm that does not avoid the box.
        """

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        """A point of the unit ball, drawn from the example's key."""

    def project_on_hyperplane(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The smallest `delta` of the box with <gradient, delta> = `gap`, (n,), of either sign.

        Where no point of the box goes as far, the corner that goes furthest. No gradient is no delta.
        """


def _as_filling(
    gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A `project_on_hyperplane` in positive numbers: `direction`, `slope`, `room` (n, d), `total` (n, 1).

    Coordinates move along `direction`, each at most by its `room`, until `slope` times that sums to `total`.
    Slopes are scaled to at most 1: squares of tiny gradients would vanish in float32.
    """
    gap, most = gap[:, None], torch.finfo(gradient.dtype).max
    direction = gradient.sign() * torch.where(gap < 0, -1.0, 1.0).to(gradient.dtype)
    # Of the two ends of the box, the one that lies ahead; none where there is no slope.
    room = (direction * low.clamp_min(-most)).maximum(direction * high.clamp_max(most))
    slope = gradient.abs()
    steepest = slope.amax(1, keepdim=True)
    steepest = torch.where(steepest > 0, steepest, 1.0)
    return direction, slope / steepest, room, gap.abs() / steepest


def _contract(delta: Tensor, eps: float, free: Tensor, power: int) -> Tensor:
    """The free coordinates scaled down; all of them where the others leave the ball by themselves."""
    cost = delta.abs() ** power
    fixed, loose = (cost * ~free).sum(1, keepdim=True), (cost * free).sum(1, keepdim=True)
    left = (eps**power - fixed).clamp_min(0) / loose.clamp_min(torch.finfo(delta.dtype).tiny)
    others = (eps**power / fixed.clamp_min(_TINY)).clamp_max(1)  # 1 but where they leave the ball
    return torch.where(free, left.clamp_max(1), others) ** (1 / power) * delta


@dataclass(frozen=True)
class _Linf:
    step_ratio: float = 1 / 4  # 2/255 for 8/255
    avoids_the_box: bool = False

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().amax(1)

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        return delta.clamp(-eps, eps).clamp(low, high)

    def contract(self, delta: Tensor, eps: float, free: Tensor) -> Tensor:
        return delta.clamp(-eps, eps)

    def ascend(self, gradient: Tensor, room: Tensor | None) -> Tensor:
        return gradient.sign()

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        return noise.uniform(key, like) * 2 - 1

    def project_on_hyperplane(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """All coordinates go equally far, each as far as the box allows."""
        direction, slope, room, total = _as_filling(gradient, gap, low, high)
        return direction * water_fill(slope, torch.ones_like(slope), room, total)


@dataclass(frozen=True)
class _L2:
    step_ratio: float = 15 / 128  # 15/255 for 128/255
    avoids_the_box: bool = False

    def size(self, delta: Tensor) -> Tensor:
        return delta.norm(dim=1)

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        """Exact projection, by growing the set of coordinates at the box.

        By the optimality conditions the projection is `clamp(t * delta, low, high)` for one t in [0, 1].
        Rescaling and then clamping, which most public code does, is weaker.
        """
        share = _share_by_rounds if delta.device.type == "cpu" else _share_by_sorting
        delta = (share(delta, eps, low, high) * delta).clamp(low, high)
        # Rounding may leave the norm a hair above eps: pull it back, which keeps it inside the box.
        return delta * (eps / self.size(delta).clamp_min(_TINY)).clamp_max(1.0)[:, None]

    def contract(self, delta: Tensor, eps: float, free: Tensor) -> Tensor:
        return _contract(delta, eps, free, power=2)

    def ascend(self, gradient: Tensor, room: Tensor | None) -> Tensor:
        # Scaled by the largest entry first: squares of tiny gradients would vanish in float32.
        largest = gradient.abs().amax(1, keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        return scaled / self.size(scaled).clamp_min(_TINY)[:, None]

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        """Uniform in the ball: a Gaussian direction at radius u^(1/d)."""
        direction = noise.normal(noise.fold(key, 1), like)
        radius = noise.uniform(noise.fold(key, 2), like[:, :1]) ** (1.0 / max(like.shape[1], 1))
        return direction / self.size(direction).clamp_min(_TINY)[:, None] * radius

    def project_on_hyperplane(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Coordinates go in proportion to their slope, each as far as the box allows."""
        direction, slope, room, total = _as_filling(gradient, gap, low, high)
        return direction * water_fill(slope, slope, room, total)


def _share_by_rounds(delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
    """The t in [0, 1] at which `clamp(t * delta, low, high)` has the norm `eps`, (n, 1); 1 where it is less.

    For a given set of clamped coordinates t has a closed form; from below, t and the set only grow, so the
    rounds end, most often after a few. Each looks whether the set has grown.
    """
    t = (eps / delta.norm(dim=1).clamp_min(_TINY)).clamp_max(1.0)[:, None]
    before = torch.zeros_like(delta, dtype=torch.bool)
    while True:
        scaled = t * delta
        clamped = (scaled > high) | (scaled < low)
        if torch.equal(clamped, before):
            return t
        before = clamped
        box = scaled.clamp(low, high)
        budget = eps**2 - (box * clamped).square().sum(1, keepdim=True)
        free = (delta * ~clamped).square().sum(1, keepdim=True)
        grown = (budget.clamp_min(0) / free.clamp_min(_TINY)).sqrt()
        t = torch.where(free > _TINY, grown, 1.0).clamp_max(1.0).maximum(t)


def _share_by_sorting(delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
    """As `_share_by_rounds`, without a look at a value, for which a CPU would wait for the device.

    Sorted by the t at which they are clamped, the first k coordinates are at the box and the others are not;
    the norm grows from k to k + 1, so that counting finds the k at which it would pass `eps`.
    """
    kind, delta, low, high = delta.dtype, delta.double(), low.double(), high.double()
    size, end = delta.abs(), torch.where(delta > 0, high, -low)
    at = torch.where(size > 0, end / size.clamp_min(torch.finfo(torch.float64).tiny), torch.inf)
    at, order = at.sort(dim=1)
    ends, squares = end.gather(1, order).square(), size.gather(1, order).square()
    clamped = torch.where(at < torch.inf, ends, 0.0).cumsum(1)
    free = (squares.flip(1).cumsum(1).flip(1) - squares).clamp_min(0)
    norms = clamped + torch.where(free > 0, at.square() * free, 0.0)
    count = (norms <= eps**2).sum(1, keepdim=True)
    first = squares.sum(1, keepdim=True)
    clamped, free = (
        torch.cat(pair, 1).gather(1, count) for pair in ((torch.zeros_like(first), clamped), (first, free))
    )
    t = ((eps**2 - clamped).clamp_min(0) / free.clamp_min(_TINY)).sqrt()
    return torch.where(free > _TINY, t, 1.0).clamp_max(1.0).to(kind)


@dataclass(frozen=True)
class _L1:
    step_ratio: float = 1 / 4
    avoids_the_box: bool = True
    share: float = 0.05
    """Share of coordinates that one step moves (SLIDE, Tramer and Boneh 2019, moves a top quantile)."""

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().sum(1)

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        """Projection on the L1 ball cut with the box (Croce and Hein 2021, proposition 2.2).

        The solution soft-thresholds `delta` by one value and clamps it to the box; the L1 norm falls with the
        threshold, so bisection finds it. The upper end is kept, so the result leaves the ball by the rounding
        of sums alone (`ThreatModel.contract`).
        """
        below, above = torch.zeros_like(delta[:, :1]), delta.abs().amax(1, keepdim=True)

        def shrunk(threshold: Tensor) -> Tensor:
            return (delta.sign() * (delta.abs() - threshold).clamp_min(0)).clamp(low, high)

        inside = self.size(shrunk(below))[:, None] <= eps
        for _ in range(50):
            middle = (below + above) / 2
            too_far = self.size(shrunk(middle))[:, None] > eps
            below, above = torch.where(too_far, middle, below), torch.where(too_far, above, middle)
        return shrunk(torch.where(inside, 0.0, above))

    def contract(self, delta: Tensor, eps: float, free: Tensor) -> Tensor:
        return _contract(delta, eps, free, power=1)

    def ascend(self, gradient: Tensor, room: Tensor | None) -> Tensor:
        assert room is not None
        size = gradient.abs() * room
        count = max(1, round(self.share * gradient.shape[1]))
        top = size.topk(count, dim=1).indices
        step = torch.zeros_like(gradient).scatter(1, top, gradient.sign().gather(1, top)) * room
        return step / self.size(step).clamp_min(1.0)[:, None]

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        """Laplace noise (its direction is uniform on the L1 sphere) at radius u^(1/d)."""
        u = noise.uniform(noise.fold(key, 1), like) - 0.5
        direction = -u.sign() * (1 - 2 * u.abs()).clamp_min(_TINY).log()
        radius = noise.uniform(noise.fold(key, 2), like[:, :1]) ** (1.0 / max(like.shape[1], 1))
        return direction / self.size(direction).clamp_min(_TINY)[:, None] * radius

    def project_on_hyperplane(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The steepest coordinate goes first, to the end of its room, and so on until nothing is missing."""
        direction, slope, room, total = _as_filling(gradient, gap, low, high)
        return direction * greedy_fill(slope, slope, room, total)


NORMS: dict[str, Norm] = {"Linf": _Linf(), "L2": _L2(), "L1": _L1()}
