"""The nearest misclassified image for a third of the gradients: steps go where it may still come nearer."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustlens.attacks.base import input_gradient
from robustlens.attacks.minimum_norm import FEW, LAST_CHANGE, LAST_STEP, MinimumNorm, cosine
from robustlens.attacks.walks import Images, MomentumWalk, Walk, best_of, project_within, regula_falsi

SCREENING, SECOND = 4, 3
"""Steps of each walk that begins, and then of the better two of them."""

_NEAR = 1.3  # walks begin at boundaries whose linearised distance is at most so many times the nearest one's
_LOOK = 3  # steps between two looks at how fast a distance falls
_AHEAD = 2  # an image leaves where falling as much so many times more would not bring it within eps
_EARLY = 5  # after the screening, how many times the radius's change a distance may lie beyond eps
_LATE = 2  # and later
_DUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "Linf": lambda slope: slope.abs().sum(1),
    "L2": lambda slope: slope.norm(dim=1),
    "L1": lambda slope: slope.abs().amax(1),
}
"""How fast a linear function grows at most, by the norm of the distance."""
_MOMENTUM = 0.35
_LEAST = 0.3  # share of the schedule's change by which a radius shrinks at least


@dataclass(frozen=True)
class AdaptiveMinimumNorm(MinimumNorm):
    """A minimum-norm search as `MinimumNorm`, for a third of its gradients, made for Linf.

    Where it differs: the radius goes to where the linearised margin is zero, at most the schedule's change
    away, instead of changing by that much; steps follow the gradients of the walk's steps, each weighing 0.35
    times the next; walks begin only at boundaries not much farther than the nearest one; an image whose
    distance has stopped falling so far beyond `eps` that it will not come within leaves the search; the last
    point is judged too; and secants take the place of bisection.

    Args:
        steps: gradient steps of one image from its first walk to the end of the best one; those of the other
            walks come on top. Fewer than 8 are spent on the best beginning alone.
        walks: how many begin in a try, 4 or 8, at the nearest boundaries as they look from x.
        threat, gamma, step_size, targeted, stop_at_success, restarts, seed, restart: see `MinimumNorm`.

    In L2 and L1 distances keep falling for longer than this search looks; take `MinimumNorm` there.
    """

    steps: int = SCREENING + SECOND + 16
    step_size: float = 1.5
    walks: int = FEW

    @property
    def _rivals(self) -> int:
        return self.walks + 1

    def _walks(self, boundaries: int) -> int:
        return self.walks

    def _explore(self, model: nn.Module, images: Images, walks: list[Walk]) -> Walk:
        first, second = (SCREENING, SECOND) if self.steps > SCREENING + SECOND else (0, 0)
        every = [MomentumWalk.of(walk) for walk in walks]
        far = torch.stack([walk.radius for walk in every], 1)
        begins = far <= _NEAR * far.amin(1, keepdim=True)
        screened = [
            self._part(model, images, walk, begins[:, number], 0, first) for number, walk in enumerate(every)
        ]
        pair = best_of(screened, 2)
        going = self._reachable(pair[0], 0.0, _EARLY * self._change(first)) & self._unfinished(*pair)
        pair = [self._part(model, images, walk, going, first, first + second) for walk in pair]
        (best,) = best_of(pair, 1)
        going = going & self._unfinished(best)
        best = self._part(model, images, best, going, first + second, self.steps)
        rows = torch.nonzero(going & self._unfinished(best)).squeeze(1)
        best = best.put(rows, self._judged_end(model, images[rows], best[rows]))
        rows = torch.nonzero(going & self._unfinished(best) & best.distance.isfinite()).squeeze(1)
        best.nearest[rows] = regula_falsi(model, images[rows], best.nearest[rows])
        return best

    def _change(self, step: int) -> float:
        """The largest change of the radius at a step, as a share."""
        return cosine(self.gamma, LAST_CHANGE, step / self.steps)

    def _reachable(self, walk: Walk, fall: Tensor | float, slack: float) -> Tensor:
        """Whether an image may still come within eps, whose distance fell by `fall` at the last look."""
        known = walk.distance.isfinite()
        return ~known | (walk.distance - _AHEAD * fall <= (1 + slack) * self.threat.eps)

    def _part(
        self, model: nn.Module, images: Images, walk: MomentumWalk, going: Tensor, begin: int, end: int
    ) -> MomentumWalk:
        """The steps `begin` to `end` of a walk, of the images that are `going`."""
        rows = torch.nonzero(going).squeeze(1)
        now, images, alone = walk[rows], images[rows], begin == SCREENING + SECOND
        before = now.distance
        for step in range(begin, end):
            left = self._unfinished(now)
            if alone and (step - begin) % _LOOK == 0 and step > begin:
                left &= self._reachable(now, before - now.distance, _LATE * self._change(step))
                before = now.distance
            if not bool(left.all()):
                walk = walk.put(rows, now)
                rows, images, now, before = rows[left], images[left], now[left], before[left]
            if len(rows) == 0:
                break
            now = self._move(model, images, now, step)
        return walk.put(rows, now)

    def _move(self, model: nn.Module, images: Images, walk: MomentumWalk, step: int) -> MomentumWalk:
        """One gradient step: judge the point, set the radius, go on."""
        gradient, value, won = input_gradient(model, walk.x_adv, images.goal)
        value, won = images.judged(value, won)
        size = self.threat.distance(walk.x_adv, images.x)
        judged = walk.judged(size, value, won)
        radius = self._next_radius(images, judged, gradient, value, won, self._change(step))
        momentum = _MOMENTUM * walk.momentum + _scaled(gradient)
        x_adv = self._ascend(images.x, walk.x_adv, momentum, radius, self._length(step))
        x_adv = project_within(self.threat, x_adv, images.x, radius)
        return replace(judged, radius=radius, x_adv=x_adv, momentum=momentum)

    def _length(self, step: int) -> float:
        return cosine(self.step_size, LAST_STEP, step / self.steps)

    def _next_radius(
        self, images: Images, walk: Walk, gradient: Tensor, value: Tensor, won: Tensor, change: float
    ) -> Tensor:
        """Where the linearised margin is zero; as in `MinimumNorm` while no misclassified point is known."""
        size, slope = self.threat.distance(walk.x_adv, images.x), gradient.flatten(1)
        steepness = _DUAL[self.threat.norm](slope)
        way = (2 * images.rounding - value) / (steepness * size).clamp_min(torch.finfo(size.dtype).tiny)
        radius = size * (1 + way.nan_to_num(0.0).clamp(-change, change))
        radius = torch.where(won, radius.minimum(walk.distance * (1 - _LEAST * change)), radius)
        growing = self._radius(images, walk, gradient, value, won, change)
        return torch.where(walk.distance.isinf(), growing, radius)

    @torch.no_grad()
    def _judged_end(self, model: nn.Module, images: Images, walk: MomentumWalk) -> MomentumWalk:
        """The walk with its last point judged, which no step was taken from."""
        logits = model(walk.x_adv)
        value, won = images.judged(images.goal.value(logits), images.goal.won(logits))
        return walk.judged(self.threat.distance(walk.x_adv, images.x), value, won)


def _scaled(gradient: Tensor) -> Tensor:
    """Each gradient over its L1 norm, whatever its scale; zero stays zero."""
    slope = gradient.flatten(1)
    largest = slope.abs().amax(1, keepdim=True)
    slope = slope / torch.where(largest > 0, largest, 1.0)
    return (slope / slope.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)
