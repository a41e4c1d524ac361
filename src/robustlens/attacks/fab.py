"""The fast adaptive boundary attack: the nearest misclassified image, by tangent planes of the boundary."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustlens import losses
from robustlens.attacks.base import Goal, Rows, gradient_at, likely_classes
from robustlens.attacks.best import Best, in_turn
from robustlens.attacks.restarts import TargetedRestarts, require_at_least
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

Predict = Callable[[Tensor], Tensor]
"""Logits of flat points, (n, d) -> (n, classes)."""

SEARCH_STEPS = 3
OVERSHOOT = 0.01
"""Of the final search: its steps, and by which share of the remaining way it passes the expected boundary."""

_CLOSED = 0.9  # a plane is out of reach where the box allows less than this share of the way to it


@dataclass(frozen=True)
class FAB(TargetedRestarts):
    """The fast adaptive boundary attack (Croce and Hein 2020, algorithm 1), plain or targeted (FAB-T).

    At its point, each step linearises the boundaries between y and its rivals and goes to the nearest of
    these planes, `eta` times as far, drawn by at most `alpha_max` towards the point of the plane nearest to
    x. From a misclassified point it first goes back towards x, to `beta` of the way. The nearest
    misclassified point is kept, and brought closer by a final search.

    Args:
        threat: what may be changed, and how far. The search goes as far as it must, and `eps` decides what
            counts as found; it may be infinite, for a minimum-norm attack.
        steps: of each try.
        alpha_max: the largest weight of the point that is nearest to x.
        eta: how far a step goes, as a multiple of the way to the plane.
        beta: share of the way from x that is kept after a misclassified point.
        stop_at_success: drop an image once a misclassified point is found within eps; otherwise the search
            goes on for the nearest.
        restarts, seed, restart, targets, target_rank: see `TargetedRestarts`. Restart 0 begins at x, the
            others at random points within eps / 2. With targets a step costs one gradient, otherwise one for
            each other class.

    Returned is the nearest misclassified point found, or its projection on the ball where it lies outside; x
    itself where none was found.

    Raises:
        ConfigError: an argument out of range; a random start in an infinite ball.

    Where we differ from the authors' code: the forward pass that judges a point is also the one that
    linearises there, so a step costs one forward pass, not two; after a misclassified point the plane is the
    one there, not where the search goes back to. Which plane is nearest is decided with the pixel box
    considered. Random starts are uniform in the ball of radius eps / 2, not on its surface. The final search
    (three steps of regula falsi between x and the point found) is the paper's, which AutoAttack's code leaves
    out; before it we try the point nearest to x on the last plane.
    """

    threat: ThreatModel
    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    stop_at_success: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, self, "steps")
        if not (0 <= self.alpha_max <= 1 and 0 <= self.beta <= 1 and self.eta >= 1):
            shares = f"alpha_max {self.alpha_max}, beta {self.beta}, eta {self.eta}"
            raise ConfigError(f"attack: found {shares}; expected shares of 1, and eta >= 1")
        if self.threat.eps == math.inf and self.restart + self.restarts > 1:
            raise ConfigError("attack.restarts: random starts need a finite eps, found inf; use 1")

    def _images(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        if not (self.targets or self.restarts > 1):
            return self._search(model, x, y, self.keys(x, seed))
        tries = replace(self, seed=seed).tries()
        if self.stop_at_success:
            return in_turn(tries, model, x, y, Goal.of(model, x, y, "margin", targeted=False))
        return self._nearest_of(tries, model, x, y)

    def _nearest_of(self, tries: tuple["FAB", ...], model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The nearest misclassified point that any of the tries finds, or else the most nearly so."""
        best, rows = Best(x), torch.arange(len(x), device=x.device)
        for attack in tries:
            x_adv = attack(model, x, y)
            with torch.no_grad():
                logits = model(x_adv)
            wrong = losses.is_wrong(logits, y)
            value = torch.where(wrong, -self.threat.distance(x_adv, x), losses.margin(logits, y))
            best.offer(rows, x_adv, value, wrong)
        return best.x_adv

    def _search(self, model: nn.Module, x: Tensor, y: Tensor, key: Tensor) -> Tensor:
        """One try."""

        def predict(points: Tensor) -> Tensor:
            return model(points.view(len(points), *x.shape[1:]))

        leaf, logits = _leaf_and_logits(predict, x.flatten(1), gradient=not self.restart)
        rivals = self._rivals(logits.detach(), y)
        if rivals.shape[1] == 0:
            return x.clone()  # there are fewer classes
        nearest = _Nearest(self.threat, leaf.detach(), y, logits.detach())
        rows = torch.arange(len(x), device=x.device)
        if self.restart:
            start = self.threat.at(self.threat.eps / 2).start_from(key, x)
            leaf, logits = _leaf_and_logits(predict, start.flatten(1))
        for step in range(1, self.steps + 1):
            nearest.offer(rows, leaf.detach(), logits.detach())
            left = ~self._done(nearest.distance[rows])
            if not bool(left.any()):
                break
            tangents = _Tangents.of(leaf, logits, y[rows], rivals[rows])[left]
            rows = rows[left]
            points, nearest.on_plane[rows] = self._step(nearest.x[rows], tangents)
            leaf, logits = _leaf_and_logits(predict, points, gradient=step < self.steps)
        else:
            nearest.offer(rows, leaf, logits)
        self._close_in(predict, nearest)
        return nearest.within_eps().view_as(x)

    def _rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        """The classes to whose boundaries to go, (n, k); none where there are fewer than asked for."""
        others = likely_classes(logits, y, logits.shape[1] - 1)
        return others if self.target_rank is None else others[:, self.target_rank : self.target_rank + 1]

    def _done(self, distance: Tensor) -> Tensor:
        """Whether the search is over where the nearest misclassified point is at `distance`."""
        return (distance == 0) | (distance <= self.threat.eps if self.stop_at_success else False)

    def _step(self, x: Tensor, tangents: "_Tangents") -> tuple[Tensor, Tensor]:
        """The next point of the search, and the point nearest to x on the plane (a hair beyond it)."""
        threat, points = self.threat, tangents.points
        back = torch.where(tangents.wrong[:, None], x + self.beta * (points - x), points)
        plane = tangents.nearest(threat, back)
        near = threat.project_on_hyperplane(back, plane.slope[:, 0], -plane.height_at(back)[:, 0])
        hair = 1 + torch.finfo(x.dtype).eps ** 0.5
        on_plane = threat.project_on_hyperplane(x, plane.slope[:, 0], -plane.height_at(x)[:, 0] * hair)
        to_near, to_plane = threat.distance(near, back), threat.distance(on_plane, x)
        share = to_near / (to_near + to_plane).clamp_min(torch.finfo(x.dtype).tiny)
        alpha = share.clamp_max(self.alpha_max)[:, None]
        onwards = (1 - alpha) * (back + self.eta * (near - back)) + alpha * (x + self.eta * (on_plane - x))
        return onwards.clamp(*threat.bounds), on_plane

    @torch.no_grad()
    def _close_in(self, predict: Predict, nearest: "_Nearest") -> None:
        """The final search: the point of the plane nearest to x, then regula falsi between x and the best."""
        rows = torch.nonzero(~self._done(nearest.distance)).squeeze(1)
        if len(rows) == 0:
            return
        nearest.offer(rows, nearest.on_plane[rows], predict(nearest.on_plane[rows]))
        rows = rows[nearest.distance[rows].isfinite() & ~self._done(nearest.distance[rows])]
        below, low = nearest.x[rows], nearest.margin_at_x[rows]
        for _ in range(SEARCH_STEPS if len(rows) else 0):
            above, high = nearest.x_adv[rows], nearest.margin[rows]
            share = low / (low - high)
            share = torch.where(share.isfinite(), share, 0.5).clamp(0, 1)[:, None]
            middle = (below + (share + OVERSHOOT * (1 - share)) * (above - below)).to(below.dtype)
            logits = predict(middle)
            nearer = nearest.offer(rows, middle, logits)
            below = torch.where(nearer[:, None], below, middle)
            low = torch.where(nearer, low, losses.margin(logits, nearest.y[rows]))


class _Nearest:
    """The nearest misclassified point of each image so far. Points are flat, (n, d)."""

    def __init__(self, threat: ThreatModel, x: Tensor, y: Tensor, logits: Tensor) -> None:
        self.threat, self.x, self.y = threat, x, y
        self.x_adv = x.clone()
        self.distance = torch.where(losses.is_wrong(logits, y), 0.0, torch.inf).to(x.dtype)
        self.margin_at_x = losses.margin(logits, y)
        self.margin = self.margin_at_x.clone()
        self.on_plane = x.clone()  # the point nearest to x on the last plane

    def offer(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Keep the points that are misclassified and nearer than the nearest so far; returns where."""
        y = self.y[rows]
        distance = self.threat.distance(points, self.x[rows])
        distance = torch.where(losses.is_wrong(logits, y), distance, torch.inf)
        nearer = distance < self.distance[rows]
        chosen = rows[nearer]
        self.x_adv[chosen], self.distance[chosen] = points[nearer], distance[nearer]
        self.margin[chosen] = losses.margin(logits, y)[nearer]
        return nearer

    def within_eps(self) -> Tensor:
        """The points, those outside the ball projected on it."""
        outside = self.distance > self.threat.eps
        x_adv = torch.where(outside[:, None], self.threat.project(self.x_adv, self.x), self.x_adv)
        return self.threat.contract(x_adv.clamp(*self.threat.bounds), self.x)


@dataclass
class _Tangents(Rows):
    """The model linearised at `points`: the height of each rival above y there, and its slope."""

    points: Float[Tensor, "n d"]
    wrong: Bool[Tensor, " n"]
    height: Float[Tensor, "n k"]
    slope: Float[Tensor, "n k d"]

    @classmethod
    def of(cls, leaf: Tensor, logits: Tensor, y: Tensor, rivals: Tensor) -> "_Tangents":
        """From a forward pass, by one backward pass for each rival."""
        height = logits.gather(1, rivals) - logits.gather(1, y[:, None])
        count = height.shape[1]
        slope = [gradient_at(leaf, height[:, i], retain_graph=i + 1 < count) for i in range(count)]
        logits, finite = logits.detach(), height.isfinite()  # a class that is ruled out has no plane
        return cls(
            leaf.detach(),
            losses.is_wrong(logits, y),
            torch.where(finite, height.detach(), 0.0).to(leaf.dtype),  # of logits of any type
            torch.stack(slope, 1) * finite[:, :, None],
        )

    def height_at(self, origin: Tensor) -> Tensor:
        """Heights of the linearised model elsewhere, (n, k)."""
        return self.height + (self.slope * (origin - self.points)[:, None]).sum(2)

    def nearest(self, threat: ThreatModel, origin: Tensor) -> "_Tangents":
        """The one rival (k = 1) whose plane is nearest to `origin` within the box."""
        if self.height.shape[1] == 1:
            return self
        gap = -self.height_at(origin)
        origin = origin[:, None].expand_as(self.slope)
        projected = threat.project_on_hyperplane(
            origin.flatten(0, 1), self.slope.flatten(0, 1), gap.flatten()
        )
        distance = threat.distance(projected, origin.flatten(0, 1)).view_as(gap)
        closed = (self.slope * (projected.view_as(origin) - origin)).sum(2)
        reachable = (closed.abs() >= _CLOSED * gap.abs()) & (self.slope != 0).any(2)
        rival = torch.where(reachable, distance, torch.inf).argmin(1)[:, None]
        height, slope = self.height.gather(1, rival), self.slope.take_along_dim(rival[:, :, None], 1)
        return replace(self, height=height, slope=slope)


def _leaf_and_logits(predict: Predict, points: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
    """A leaf at `points` and its logits; with `gradient`, so that they can be differentiated."""
    leaf = points.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        return leaf, predict(leaf)
