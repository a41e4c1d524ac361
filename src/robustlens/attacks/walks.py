"""Walks of the minimum-norm attack: the images that they start from, their state, and the final bisection."""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.attacks.base import Goal, Rows, per_image
from robustlens.threat import NORMS, ThreatModel

TOLERANCE = 1e-4
"""Relative width at which bisection ends."""

_HAIR = 1e-3  # walks begin by this share beyond the expected boundary, which rounding would otherwise decide
_USUAL = 0.99  # the walks end within a percent of the boundary as a rule: bisection asks there first
_SECANTS = 2  # one to either side of where it says the boundary is
_ROUNDS = 40  # of bisection at most; only a model that is wrong arbitrarily near x needs as many


@dataclass
class Images(Rows):
    """The images of a search, the margin to maximise there, and the rounding error that it may have."""

    x: Float[Tensor, "n ..."]
    goal: Goal
    rounding: Float[Tensor, " n"]

    @classmethod
    def of(cls, x: Tensor, goal: Goal, logits: Tensor) -> "Images":
        """Images of which these are the logits."""
        unit = torch.finfo(torch.promote_types(logits.dtype, torch.float32)).eps
        largest = torch.where(logits.isfinite(), logits.abs(), 0.0).amax(1)
        return cls(x, goal, (16 * unit * largest).to(x.dtype))

    def judged(self, value: Tensor, won: Tensor) -> tuple[Tensor, Tensor]:
        """Margins of points in the images' type, and where a point counts: it is won, by no rounding error.

        A NaN is wrong. Logits may be of another type than images; radii and steps follow from their margins.
        """
        value = value.to(self.x.dtype)
        return value, won & ~(value < self.rounding)


SomeWalk = TypeVar("SomeWalk", bound="Walk")


@dataclass
class Walk(Rows):
    """One walk for each image: its point, its radius, and its nearest misclassified point so far."""

    x_adv: Float[Tensor, "n ..."]
    radius: Float[Tensor, " n"]
    nearest: Float[Tensor, "n ..."]
    distance: Float[Tensor, " n"]
    value: Float[Tensor, " n"]

    @classmethod
    def at(cls, point: Tensor, x: Tensor, radius: Tensor) -> "Walk":
        """A walk that begins at `point`."""
        nothing = torch.full_like(radius, torch.inf)
        return cls(point, radius, x, nothing, -nothing)

    def put(self: SomeWalk, rows: Tensor, part: SomeWalk) -> SomeWalk:
        """This walk with `part` in place of its `rows`."""
        names = [field.name for field in fields(self)]
        return type(self)(*(getattr(self, name).index_copy(0, rows, getattr(part, name)) for name in names))

    def judged(self: SomeWalk, size: Tensor, value: Tensor, won: Tensor) -> SomeWalk:
        """This walk once its point is known: how far from x it is, its margin, and whether it is wrong."""
        nearer = won & (size < self.distance)
        return replace(
            self,
            nearest=torch.where(per_image(nearer, self.x_adv), self.x_adv, self.nearest),
            distance=torch.where(nearer, size, self.distance),
            value=self.value.maximum(value),
        )


@dataclass
class MomentumWalk(Walk):
    """A walk that remembers the gradients of its steps."""

    momentum: Float[Tensor, "n ..."]

    @classmethod
    def of(cls, walk: Walk) -> "MomentumWalk":
        """A walk that remembers nothing yet."""
        values = {field.name: getattr(walk, field.name) for field in fields(Walk)}
        return cls(**values, momentum=torch.zeros_like(walk.x_adv))


def best_of(walks: list[SomeWalk], count: int) -> list[SomeWalk]:
    """The `count` best walks of each image: nearest misclassified point, then largest margin."""
    if count >= len(walks):
        return walks
    values = torch.stack([walk.value for walk in walks], 1)
    distances = torch.stack([walk.distance for walk in walks], 1)
    order = values.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, distances.gather(1, order).argsort(dim=1, stable=True))
    every = torch.arange(len(order), device=order.device)
    stacked = [torch.stack([getattr(walk, field.name) for walk in walks]) for field in fields(walks[0])]
    return [type(walks[0])(*(tensor[order[:, place], every] for tensor in stacked)) for place in range(count)]


def nearest_on_boundary(
    threat: ThreatModel, images: Images, gap: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """The points nearest to x a hair beyond a linear boundary, and their distances.

    `gap` (n,) is to be closed, along `slope`. Infinitely far where the pixel box forbids it.
    """
    gap = ((gap.to(images.x.dtype) + images.rounding) * (1 + _HAIR)).nan_to_num(0.0)
    point = threat.project_on_hyperplane(images.x, slope, gap)
    closed = (slope * (point - images.x)).flatten(1).sum(1)
    return point, torch.where(closed >= 0.9 * gap, threat.distance(point, images.x), torch.inf)


@torch.no_grad()
def bisect(model: nn.Module, images: Images, nearest: Tensor) -> Tensor:
    """Closer points on the way from x to `nearest` that are misclassified still."""
    far, nearest = nearest, nearest.clone()
    below, above = torch.zeros_like(images.rounding), torch.ones_like(images.rounding)
    for number in range(_ROUNDS):
        rows = torch.nonzero(above - below > TOLERANCE * above).squeeze(1)
        if len(rows) == 0:
            break
        now = images[rows]
        middle = (below + above)[rows] / 2 if number else torch.full_like(above, _USUAL)
        point = torch.lerp(now.x, far[rows], per_image(middle, now.x))
        logits = model(point)
        _, won = now.judged(now.goal.value(logits), now.goal.won(logits))
        above[rows], below[rows] = (
            torch.where(won, middle, above[rows]),
            torch.where(won, below[rows], middle),
        )
        nearest[rows[won]] = point[won]
    return nearest


@torch.no_grad()
def regula_falsi(model: nn.Module, images: Images, nearest: Tensor) -> Tensor:
    """As `bisect`, where the boundary is expected within a percent: two secants between margins, then halves.

    A smooth margin takes four forward passes instead of eight.
    """
    far, nearest = nearest, nearest.clone()
    below, above = torch.zeros_like(images.rounding), torch.ones_like(images.rounding)
    low, high = torch.full_like(below, -torch.inf), torch.full_like(below, torch.inf)
    for number in range(_ROUNDS):
        rows = torch.nonzero(above - below > TOLERANCE * above).squeeze(1)
        if len(rows) == 0:
            break
        now, left, right = images[rows], below[rows], above[rows]
        middle = (left + right) / 2
        if number < 2:
            middle = right if number else torch.full_like(middle, _USUAL)
        elif number < 2 + _SECANTS:
            share = low[rows] / (low[rows] - high[rows])
            hair = (0.4 if number == 2 else -0.4) * TOLERANCE * right
            secant = left + (right - left) * share + hair
            usable = (secant > left) & (secant < right)  # not of infinite margins either
            middle = torch.where(usable, secant, middle)
        point = torch.lerp(now.x, far[rows], per_image(middle, now.x))
        logits = model(point)
        value, won = now.judged(now.goal.value(logits), now.goal.won(logits))
        value = value - now.rounding
        above[rows], below[rows] = torch.where(won, middle, right), torch.where(won, left, middle)
        high[rows], low[rows] = torch.where(won, value, high[rows]), torch.where(won, low[rows], value)
        nearest[rows[won]] = point[won]
    return nearest


def project_within(threat: ThreatModel, x_adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """As `ThreatModel.project`, with a radius for each image: on the unit ball, everything scaled to it."""
    low, high = threat.bounds
    scale, origin = radius.clamp_min(1e-12)[:, None], x.flatten(1)
    delta = (x_adv - x).flatten(1) / scale
    delta = NORMS[threat.norm].project(delta, 1.0, (low - origin) / scale, (high - origin) / scale)
    return (origin + scale * delta).clamp(low, high).view_as(x)
