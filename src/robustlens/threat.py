"""Threat models: what an attacker may do to an image.

A threat model is a norm ball around the image cut with the pixel box. Everything that depends on the norm
lives here, in one small class per norm: distance, Euclidean projection, steepest ascent, random start. An
attack is written once and works for every norm.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from robustlens import noise
from robustlens.config import norm_name, radius_problem
from robustlens.errors import ConfigError

_TINY = 1e-12


@runtime_checkable
class Norm(Protocol):
    """What a norm has to know. Shapes: `delta`, `gradient`, `low`, `high` are (n, d); results (n, d)."""

    @property
    def step_ratio(self) -> float:
        """The field's step size as a share of eps (PGD-10 training, PGD-20 test)."""

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each row, (n,)."""

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        """Euclidean projection on the ball of radius `eps` cut with the box [low, high] (which holds 0)."""

    def ascend(self, gradient: Tensor, room: Tensor) -> Tensor:
        """Unit step of steepest ascent; `room` is False where the box blocks the coordinate."""

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        """A point of the unit ball, drawn from the example's key."""

    def reach(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The smallest `delta` of the box with <gradient, delta> = `gap`, (n,), of either sign.

        Where no point of the box goes as far, the corner that goes furthest. No gradient is no delta.
        """


def _way(gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A `reach` as a task of positive numbers only: `direction`, `slope`, `room` (n, d) and `need` (n, 1).

    Coordinates move along `direction`, each at most by its `room`, until `slope` times that sums to `need`.
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


def _fill(slope: Tensor, speed: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The move `min(t * speed, room)` with the t at which `slope` times the move sums to `need`.

    That sum is concave in t and bends where a coordinate has used up its room. So Newton's method, begun
    where none has, comes from below and only adds coordinates that are held; a few rounds are exact.
    """
    limits = torch.finfo(slope.dtype)
    gain, rate = slope * room, slope * speed
    held = torch.zeros_like(slope, dtype=torch.bool)
    while True:
        # Products, as torch.where is several times as slow on a CPU.
        used, pace = (gain * held).sum(1, keepdim=True), (rate * ~held).sum(1, keepdim=True)
        t = ((need - used) / pace.clamp_min(limits.tiny)).clamp(0, limits.max)
        move = t * speed
        grown = held | (move >= room)
        if torch.equal(grown, held):
            return move.minimum(room)
        held = grown


@dataclass(frozen=True)
class _Linf:
    step_ratio: float = 1 / 4  # 2/255 for 8/255

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().amax(1)

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        return delta.clamp(-eps, eps).clamp(low, high)

    def ascend(self, gradient: Tensor, room: Tensor) -> Tensor:
        return gradient.sign()

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        return noise.uniform(key, like) * 2 - 1

    def reach(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """All coordinates go equally far, each until the box holds it."""
        direction, slope, room, need = _way(gradient, gap, low, high)
        return direction * _fill(slope, torch.ones_like(slope), room, need)


@dataclass(frozen=True)
class _L2:
    step_ratio: float = 15 / 128  # 15/255 for 128/255

    def size(self, delta: Tensor) -> Tensor:
        return delta.norm(dim=1)

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        """Exact projection, by growing the set of coordinates that the box holds.

        By the optimality conditions the projection is `clamp(t * delta, low, high)` for one t in [0, 1]. For
        a given clamped set, t has a closed form; from below, t and the set only grow, so a few rounds are
        exact. Rescaling and then clamping, which most public code does, ends inside the ball and is weaker.
        """
        t = (eps / self.size(delta).clamp_min(_TINY)).clamp_max(1.0)[:, None]
        for _ in range(12):
            scaled = t * delta
            held = (scaled > high) | (scaled < low)
            if not bool(held.any()):
                break
            box = scaled.clamp(low, high)
            budget = eps**2 - (box * held).square().sum(1, keepdim=True)
            free = (delta * ~held).square().sum(1, keepdim=True)
            grown = (budget.clamp_min(0) / free.clamp_min(_TINY)).sqrt()
            t = torch.where(free > _TINY, grown, 1.0).clamp_max(1.0).maximum(t)
        delta = (t * delta).clamp(low, high)
        # Rounding may leave the norm a hair above eps: pull it back, which keeps it inside the box.
        return delta * (eps / self.size(delta).clamp_min(_TINY)).clamp_max(1.0)[:, None]

    def ascend(self, gradient: Tensor, room: Tensor) -> Tensor:
        # Scaled by the largest entry first: squares of tiny gradients would vanish in float32.
        largest = gradient.abs().amax(1, keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        return scaled / self.size(scaled).clamp_min(_TINY)[:, None]

    def sample(self, key: Tensor, like: Tensor) -> Tensor:
        """Uniform in the ball: a Gaussian direction at radius u^(1/d)."""
        direction = noise.normal(noise.fold(key, 1), like)
        radius = noise.uniform(noise.fold(key, 2), like[:, :1]) ** (1.0 / max(like.shape[1], 1))
        return direction / self.size(direction).clamp_min(_TINY)[:, None] * radius

    def reach(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Coordinates go as far as they are steep, each until the box holds it."""
        direction, slope, room, need = _way(gradient, gap, low, high)
        return direction * _fill(slope, slope, room, need)


@dataclass(frozen=True)
class _L1:
    step_ratio: float = 1 / 4
    share: float = 0.05
    """Share of coordinates that one step moves (SLIDE, Tramer and Boneh 2019, moves a top quantile)."""

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().sum(1)

    def project(self, delta: Tensor, eps: float, low: Tensor, high: Tensor) -> Tensor:
        """Projection on the L1 ball cut with the box (Croce and Hein 2021, proposition 2.2).

        The solution soft-thresholds `delta` by one value and clamps it to the box; the L1 norm falls with the
        threshold, so bisection finds it. The upper end is kept, so the result never leaves the ball.
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

    def ascend(self, gradient: Tensor, room: Tensor) -> Tensor:
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

    def reach(self, gradient: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The steepest coordinate goes first, to the end of its room, and so on until nothing is missing."""
        direction, slope, room, need = _way(gradient, gap, low, high)
        steepest, order = slope.sort(stable=True, dim=1, descending=True)
        room = room.gather(1, order)
        before = (steepest * room).cumsum(1).roll(1, 1)
        before[:, :1] = 0
        move = (
            ((need - before) / steepest.clamp_min(torch.finfo(slope.dtype).tiny)).clamp_min(0).minimum(room)
        )
        return direction * torch.zeros_like(move).scatter(1, order, move)


NORMS: dict[str, Norm] = {"Linf": _Linf(), "L2": _L2(), "L1": _L1()}


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

    def reach(
        self, x_from: Float[Tensor, "n ..."], gradient: Float[Tensor, "n ..."], gap: Float[Tensor, " n"]
    ) -> Float[Tensor, "n ..."]:
        """The nearest images at which a linear function has grown by `gap`, or fallen where that is negative.

        Nearest in this norm to `x_from`, which lies inside `bounds`, among all images inside them, however
        far (`eps` plays no part). Where the function cannot change as much, the image at which it changes
        most. This is the projection on a hyperplane and a box of Croce and Hein 2020 (FAB, section 3.1).

        Args:
            x_from: where to start.
            gradient: of the linear function.
            gap: by how much it has to change.
        """
        low, high = self.bounds
        origin = x_from.flatten(1)
        delta = NORMS[self.norm].reach(gradient.flatten(1), gap, low - origin, high - origin)
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
        """As `random_start`, from keys that the caller holds."""
        flat = x.flatten(1)
        return self.project(x + self.eps * NORMS[self.norm].sample(key, flat).view_as(x), x)
