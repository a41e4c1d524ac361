"""The nearest misclassified image: several walks along the decision boundary, for any norm and any radius."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks.base import Goal, gradient_at, input_gradient, likely_classes, per_image
from robustlens.attacks.inputs import ImagesLike, LabelsLike, checked_inputs
from robustlens.attacks.restarts import Restarts, require_at_least
from robustlens.attacks.walks import Images, Walk, best_of, bisect, nearest_on_boundary, project_within
from robustlens.errors import ConfigError
from robustlens.threat import NORMS, ThreatModel

RIVALS = 9
"""Classes whose boundaries are compared at x: the most likely ones, as many as targeted attacks take."""

FEW, MANY = 4, 8
"""Walks that may begin in a try; the better half goes on, then the better two, then the best."""

LAST_STEP, LAST_CHANGE = 0.01, 0.001
"""Ends of the schedules of the step and of the radius."""


@dataclass(frozen=True)
class MinimumNorm(Restarts):
    """A fast minimum-norm attack, after FMN (Pintor et al. 2021, algorithm 1) and DDN (Rony et al. 2019).

    A walk has a radius of its own for each image. Where it is misclassified, the radius shrinks by a share,
    elsewhere it grows; then the walk ascends the margin loss and is projected on the ball of that radius and
    the pixel box. Both the share and the step fall with a cosine. Bisection between x and the nearest
    misclassified point ends the search.

    Args:
        threat: what may be changed. The search goes as far as it must, and `eps` decides what counts as
            found; it may be infinite.
        steps: gradient steps for each image, of all its walks together: a half for eight walks, a quarter for
            the better four of them, nearly a quarter for the better two, the rest for the best; or a half for
            four walks, a quarter for the better two, a quarter for the best. Fewer than 8 steps are one walk.
        gamma: share by which the radius changes at first.
        step_size: length of the first step as a multiple of the distance from x that the walk has.
        walks: how many begin in a try, 4 or 8; with fewer than nine classes or 16 steps 4.
        targeted: `y` holds the wanted classes, and only they count.
        stop_at_success: drop an image once it is broken, without bisection: the verdict only, sooner.
        restarts, seed, restart: see `Restarts`; each try has other beginnings.

    Returned is the nearest misclassified point found, which the model has been seen to misclassify; x itself
    where there is none within eps, and where x is misclassified. `distance` tells these apart. A point counts
    once its margin is larger than the rounding errors of the logits, so that a forward pass in another batch
    agrees.

    Raises:
        ConfigError: an argument out of range.

    Where we differ from the papers: there are several walks, of which the better go on, since on nonlinear
    models the first class reached decides the result; they begin at the points nearest to x on the linearised
    boundaries of x (`ThreatModel.project_on_hyperplane`, exact for a linear model and its pixel box), the
    nearest boundary first, and at random points at that distance once the classes have run out. As long as
    no misclassified point is known the radius grows by twice the linearised distance to the boundary.
    Projections are exact on ball and box together; steps are proportional to the distance (FMN:
    absolute), signed for Linf. The radius changes faster (FMN: 0.05). Bisection is not in the papers.
    """

    threat: ThreatModel
    steps: int = 100
    gamma: float = 0.2
    step_size: float = 2.0
    targeted: bool = False
    stop_at_success: bool = False
    walks: int = MANY

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, self, "steps")
        if not 0 < self.gamma < 1:
            raise ConfigError(f"attack.gamma: found {self.gamma}, expected a share between 0 and 1")
        if not self.step_size > 0:
            raise ConfigError(f"attack.step_size: found {self.step_size}, expected a number > 0")
        if self.walks not in (FEW, MANY):
            raise ConfigError(f"attack.walks: found {self.walks}, expected {FEW} or {MANY}")

    def distance(
        self, model: nn.Module, x: ImagesLike, y: LabelsLike, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n"]:
        """Distances of the points of a call: 0 where x is misclassified, inf where nothing is within eps.

        An upper bound of the true distance; the share of images beyond a radius bounds the robust accuracy
        there from above.
        """
        seed = noise.seed_from(generator, self.seed)
        with checked_inputs(model, x, y, self.threat) as (x, y):
            return self._nearest(model, x, y, seed)[1]

    @property
    def _rivals(self) -> int:
        """Classes whose boundaries are compared at x, the most likely ones."""
        return RIVALS

    def _walks(self, boundaries: int) -> int:
        """Walks that begin in a try. With few boundaries most begin at random: four use the steps better."""
        return self.walks if min(boundaries, self.steps // 2) >= self.walks else FEW

    def _images(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        return self._nearest(model, x, y, seed)[0]

    def _nearest(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The nearest points of all tries, and their distances."""
        nearest, distance = x.clone(), x.new_full((len(x),), torch.inf)
        rows = torch.arange(len(x), device=x.device)
        for attack in replace(self, seed=seed).tries():
            if len(rows) == 0:
                break
            goal = Goal.of(model, x[rows], y[rows], "margin", targeted=self.targeted)
            points, distances = attack._search(model, x[rows], goal)
            nearer = distances < distance[rows]
            nearest[rows[nearer]], distance[rows[nearer]] = points[nearer], distances[nearer]
            rows = torch.nonzero(distance.isinf() if self.stop_at_success else distance > 0).squeeze(1)
        return nearest, distance

    def _search(self, model: nn.Module, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """One try: the nearest points and their distances."""
        nearest, distance = x.clone(), x.new_zeros(len(x))
        row, images, points = self._linearise(model, x, goal)
        best = self._explore(model, images, self._begin(images, points))
        exact = self.threat.distance(best.nearest.double(), images.x.double())
        within = best.distance.isfinite() & (exact <= self.threat.eps)
        nearest[row] = torch.where(per_image(within, images.x), best.nearest, images.x)
        distance[row] = torch.where(within, exact, torch.inf).to(x.dtype)
        return nearest, distance

    def _explore(self, model: nn.Module, images: Images, walks: list[Walk]) -> Walk:
        """The best walk of each image, its nearest point on the boundary."""
        plan, taken = self._plan(len(walks)), 0
        whole = sum(steps for _, steps in plan)
        for count, steps in plan:
            walks = best_of(walks, count)
            shares = [(taken + step) / whole for step in range(steps)]
            taken += steps
            for number, walk in enumerate(walks):
                rows = torch.nonzero(self._unfinished(*walks)).squeeze(1)
                walks[number] = walk.put(rows, self._walk(model, images[rows], walk[rows], shares))
        (best,) = walks
        rows = torch.nonzero(best.distance.isfinite() & self._unfinished(best)).squeeze(1)
        best.nearest[rows] = bisect(model, images[rows], best.nearest[rows])
        return best

    def _plan(self, count: int) -> tuple[tuple[int, int], ...]:
        """Number of walks and of their steps, stage by stage, where `count` walks begin."""
        share = self.steps // (2 * count)
        if not share:
            return ((1, self.steps),)
        stages = [(count, share), (count // 2, share)]
        if count > 4:
            stages.append((2, 2 * share))
        spent = sum(walks * steps for walks, steps in stages)
        return (*stages, (1, self.steps - spent))

    def _unfinished(self, *walks: Walk) -> Tensor:
        """The images whose search goes on."""
        broken = torch.stack([walk.distance <= self.threat.eps for walk in walks]).any(0)
        return ~broken if self.stop_at_success else torch.ones_like(broken)

    def _linearise(self, model: nn.Module, x: Tensor, goal: Goal) -> tuple[Tensor, Images, Tensor]:
        """The images that the model gets right, by number, and the nearest points of their boundaries.

        The boundaries are those of the model linearised at x; the points are (n, rivals, ...).
        """
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
            count = 1 if self.targeted else min(self._rivals, logits.shape[1] - 1)
            rivals = likely_classes(logits.detach(), goal.y, count)
            gap = logits.gather(1, goal.y[:, None]) - logits.gather(1, rivals)
            gap = -gap if self.targeted else gap
        logits, images = logits.detach(), Images.of(x, goal, logits.detach())
        points, distances = [], []
        for i in range(count):
            slope = -gradient_at(leaf, gap[:, i], retain_graph=i + 1 < count)
            point, distance = nearest_on_boundary(self.threat, images, gap[:, i].detach(), slope)
            points.append(point)
            distances.append(distance)
        order = torch.stack(distances, 1).argsort(dim=1, stable=True)
        row = torch.nonzero(~goal.won(logits)).squeeze(1)
        return row, images[row], torch.stack(points, 1)[row[:, None], order[row]]

    def _begin(self, images: Images, points: Tensor) -> list[Walk]:
        """The walks of this try: at `points`, then at random points about as far as the first of them.

        Where the model is flat at x there is no such point: half across the box then.
        """
        threat, x = self.threat, images.x
        norm, key = NORMS[threat.norm], noise.keys(x, self.seed)
        low, high = threat.bounds
        across = norm.size(torch.full_like(x, high - low).flatten(1)) / 2
        distance = threat.distance(points[:, 0], x)
        far = torch.where(distance > 0, distance, across)
        walks = []
        count = self._walks(points.shape[1])
        for number in range(count * self.restart, count * (self.restart + 1)):
            unit = norm.sample(noise.fold(key, number), x.flatten(1)).view_as(x)
            point = (x + per_image(far, x) * unit).clamp(low, high)
            if number < points.shape[1]:
                flat = threat.distance(points[:, number], x) == 0
                point = torch.where(per_image(flat, x), point, points[:, number])
            walks.append(Walk.at(point, x, threat.distance(point, x)))
        return walks

    def _walk(self, model: nn.Module, images: Images, walk: Walk, shares: list[float]) -> Walk:
        """A stage of a walk; `shares` are the positions of its steps in the schedules."""
        rows, now = torch.arange(len(images.x), device=images.x.device), walk
        for share in shares:
            unfinished = self._unfinished(now)
            if not bool(unfinished.all()):
                walk = walk.put(rows, now)
                rows, images, now = rows[unfinished], images[unfinished], now[unfinished]
            if len(rows) == 0:
                break
            now = self._step(model, images, now, share)
        return walk.put(rows, now)

    def _step(self, model: nn.Module, images: Images, walk: Walk, share: float) -> Walk:
        """One gradient step: judge the point, change the radius, go on."""
        gradient, value, won = input_gradient(model, walk.x_adv, images.goal)
        value, won = images.judged(value, won)
        judged = walk.judged(self.threat.distance(walk.x_adv, images.x), value, won)
        radius = self._radius(images, judged, gradient, value, won, cosine(self.gamma, LAST_CHANGE, share))
        length = cosine(self.step_size, LAST_STEP, share)
        x_adv = self._ascend(images.x, walk.x_adv, gradient, radius, length)
        return replace(judged, radius=radius, x_adv=project_within(self.threat, x_adv, images.x, radius))

    def _radius(
        self, images: Images, walk: Walk, gradient: Tensor, value: Tensor, won: Tensor, change: float
    ) -> Tensor:
        """Smaller where the point is wrong, larger elsewhere; beyond the boundary while no point is."""
        x_adv = walk.x_adv
        smaller = walk.radius.minimum(walk.distance) * (1 - change)
        radius = torch.where(won, smaller, walk.radius * (1 + change))
        lost = walk.distance.isinf()
        if bool(lost.any()):
            gap = (images.rounding - value)[lost].nan_to_num(0.0)
            crossed = self.threat.project_on_hyperplane(x_adv[lost], gradient[lost], gap)
            way = self.threat.distance(crossed, x_adv[lost])
            size = self.threat.distance(x_adv[lost], images.x[lost])
            radius[lost] = size + (2 * way).maximum(change * size)
        return radius

    def _ascend(self, x: Tensor, x_adv: Tensor, gradient: Tensor, radius: Tensor, length: float) -> Tensor:
        """A step up the margin: signed for Linf, else along the gradient, as projections are Euclidean."""
        stride, slope = NORMS["Linf" if self.threat.norm == "Linf" else "L2"], gradient.flatten(1)
        size = stride.size((x_adv - x).flatten(1)).maximum(radius / math.sqrt(max(slope.shape[1], 1)))
        return x_adv + per_image(length * size, x) * stride.ascend(slope, slope != 0).view_as(x)


def cosine(first: float, last: float, share: float) -> float:
    """From `first` to `last` along a half period of the cosine, at `share` of the way."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
