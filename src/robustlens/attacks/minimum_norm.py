"""The nearest misclassified image: several walks along the decision boundary, for any norm and any radius."""

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks.base import Goal, Rows, gradient_at, input_gradient, likely_classes
from robustlens.errors import ConfigError
from robustlens.models import frozen
from robustlens.threat import NORMS, ThreatModel

RIVALS = 9
"""Classes whose boundaries are compared at x: the most likely ones, as many as targeted attacks take."""

WALKS = 4
"""Walks that begin; the better two of them go on, then the better one."""

LAST_STEP, LAST_CHANGE = 0.01, 0.001
"""Where the schedules of the step and of the radius end."""

TOLERANCE = 1e-4
"""Relative width at which bisection ends."""

_HAIR = 1e-3  # walks begin by this share beyond the expected boundary, which rounding would otherwise decide
_USUAL = 0.99  # the walks end within a percent of the boundary as a rule: bisection asks there first
_ROUNDS = 40  # of bisection at most; only a model that is wrong arbitrarily near x needs as many


@dataclass(frozen=True)
class MinimumNorm:
    """A fast minimum-norm attack, after FMN (Pintor et al. 2021, algorithm 1) and DDN (Rony et al. 2019).

    A walk has a radius of its own for each image. Where it is misclassified, the radius shrinks by a share,
    elsewhere it grows; then the walk steps up the margin loss and is projected on the ball of that radius and
    the pixel box. Both the share and the step fall with a cosine. Bisection between x and the nearest
    misclassified point met ends the search.

    Args:
        threat: what may be changed. The search goes as far as it must, and `eps` decides what counts as
            found; it may be infinite.
        steps: gradient steps for each image, of all its walks together: a half for four walks, a quarter
            for the better two of them, a quarter for the best. Fewer than 8 steps are one walk.
        gamma: share by which the radius changes at first.
        step_size: length of the first step as a multiple of the distance from x that the walk has.
        restarts: tries, each with four other beginnings.
        targeted: `y` holds the wanted classes, and only they count.
        stop_at_success: drop an image once it is broken, without bisection: the verdict only, sooner.
        seed: base of the random beginnings where no generator is given.
        restart: number of the (first) restart.

    Returned is the nearest misclassified point found, which the model has been seen to misclassify; x itself
    where there is none within eps, and where x is misclassified. `distance` tells these apart. A point counts
    once its margin is larger than the rounding errors of the logits, so that a forward pass in another batch
    agrees.

    Raises:
        ConfigError: an argument out of range.

    Where we differ from the papers: there are several walks, of which the better go on, since on nonlinear
    models the first class met decides the result; they begin at the points nearest to x on the linearised
    boundaries of x (`ThreatModel.reach`, exact for a linear model and its pixel box), the nearest boundary
    first, and at random points at that distance once the classes have run out. Until something is found the
    radius grows by twice the linearised distance to the boundary. Projections are exact on ball and box
    together; steps are proportional to the distance (FMN: absolute), signed for Linf. The radius
    changes faster (FMN: 0.05). Bisection is not in the papers.
    """

    threat: ThreatModel
    steps: int = 100
    gamma: float = 0.2
    step_size: float = 2.0
    restarts: int = 1
    targeted: bool = False
    stop_at_success: bool = False
    seed: int = 0
    restart: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.restart < 0:
            found = f"steps {self.steps}, restarts {self.restarts}, restart {self.restart}"
            raise ConfigError(f"attack: found {found}; expected >= 1, and restart >= 0")
        if not 0 < self.gamma < 1:
            raise ConfigError(f"attack.gamma: found {self.gamma}, expected a share between 0 and 1")
        if not self.step_size > 0:
            raise ConfigError(f"attack.step_size: found {self.step_size}, expected a number > 0")

    def tries(self) -> tuple["MinimumNorm", ...]:
        """One attack for each restart."""
        return tuple(replace(self, restarts=1, restart=self.restart + i) for i in range(self.restarts))

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "n ..."]:
        """The nearest misclassified images found, feasible, same shape as `x`; see `Attack`."""
        return self._nearest(model, x, y, generator)[0]

    def distance(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int64[Tensor, " n"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        """Distances of what the attack finds: 0 where x is misclassified, inf where nothing is within eps.

        An upper bound of the true distance; the share of images beyond a radius bounds the robust accuracy
        there from above.
        """
        return self._nearest(model, x, y, generator)[1]

    def _nearest(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The nearest points of all tries, and their distances."""
        seed, x = noise.seed_from(generator, self.seed), x.detach()
        nearest, distance = x.clone(), x.new_full((len(x),), torch.inf)
        rows = torch.arange(len(x), device=x.device)
        with frozen(model):
            for attack in replace(self, seed=seed).tries():
                if len(rows) == 0:
                    break
                goal = Goal.of(model, x[rows], y[rows], "margin", targeted=self.targeted)
                point, reached = attack._search(model, x[rows], goal)
                nearer = reached < distance[rows]
                nearest[rows[nearer]], distance[rows[nearer]] = point[nearer], reached[nearer]
                rows = torch.nonzero(distance.isinf() if self.stop_at_success else distance > 0).squeeze(1)
        return nearest, distance

    def _search(self, model: nn.Module, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """One try: the nearest points and their distances."""
        nearest, distance = x.clone(), x.new_zeros(len(x))
        row, images, points = self._linearise(model, x, goal)
        walks, plan, taken = self._begin(images, points), self._plan(), 0
        whole = sum(steps for _, steps in plan)
        for count, steps in plan:
            walks = _best_of(walks, count)
            shares = [(taken + step) / whole for step in range(steps)]
            taken += steps
            for number, walk in enumerate(walks):
                rows = torch.nonzero(self._unfinished(*walks)).squeeze(1)
                walks[number] = walk.put(rows, self._walk(model, images[rows], walk[rows], shares))
        (best,) = walks
        rows = torch.nonzero(best.distance.isfinite() & self._unfinished(best)).squeeze(1)
        best.nearest[rows] = _bisect(model, images[rows], best.nearest[rows])
        exact = self.threat.distance(best.nearest.double(), images.x.double())
        within = best.distance.isfinite() & (exact <= self.threat.eps)
        nearest[row] = torch.where(_wide(within, x), best.nearest, images.x)
        distance[row] = torch.where(within, exact, torch.inf).to(x.dtype)
        return nearest, distance

    def _plan(self) -> tuple[tuple[int, int], ...]:
        """How many walks go on for how many steps, stage by stage."""
        share = self.steps // (2 * WALKS)
        if not share:
            return ((1, self.steps),)
        return (WALKS, share), (2, share), (1, self.steps - (WALKS + 2) * share)

    def _unfinished(self, *walks: "_Walk") -> Tensor:
        """Which images are to be looked at further."""
        found = torch.stack([walk.distance <= self.threat.eps for walk in walks]).any(0)
        return ~found if self.stop_at_success else torch.ones_like(found)

    def _linearise(self, model: nn.Module, x: Tensor, goal: Goal) -> tuple[Tensor, "_Images", Tensor]:
        """The images that the model gets right, by number, and the nearest points of their boundaries.

        The boundaries are those of the model linearised at x; the points are (n, rivals, ...).
        """
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
            count = 1 if self.targeted else min(RIVALS, logits.shape[1] - 1)
            rivals = likely_classes(logits.detach(), goal.y, count)
            gap = logits.gather(1, goal.y[:, None]) - logits.gather(1, rivals)
            gap = -gap if self.targeted else gap
        logits, images = logits.detach(), _Images.of(x, goal, logits.detach())
        points, distances = [], []
        for i in range(count):
            slope = -gradient_at(leaf, gap[:, i], again=i + 1 < count)
            point, distance = _boundary(self.threat, images, gap[:, i].detach(), slope)
            points.append(point)
            distances.append(distance)
        order = torch.stack(distances, 1).argsort(dim=1, stable=True)
        row = torch.nonzero(~goal.won(logits)).squeeze(1)
        return row, images[row], torch.stack(points, 1)[row[:, None], order[row]]

    def _begin(self, images: "_Images", points: Tensor) -> list["_Walk"]:
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
        for number in range(WALKS * self.restart, WALKS * (self.restart + 1)):
            unit = norm.sample(noise.fold(key, number), x.flatten(1)).view_as(x)
            point = (x + _wide(far, x) * unit).clamp(low, high)
            if number < points.shape[1]:
                flat = threat.distance(points[:, number], x) == 0
                point = torch.where(_wide(flat, x), point, points[:, number])
            walks.append(_Walk.at(point, x, threat.distance(point, x)))
        return walks

    def _walk(self, model: nn.Module, images: "_Images", walk: "_Walk", shares: list[float]) -> "_Walk":
        """A stage of a walk; `shares` say how far the schedules are at each step."""
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

    def _step(self, model: nn.Module, images: "_Images", walk: "_Walk", share: float) -> "_Walk":
        """One gradient step: judge the point, change the radius, go on."""
        gradient, value, won = input_gradient(model, walk.x_adv, images.goal)
        won = won & ~(value < images.rounding)  # a NaN is wrong
        size = self.threat.distance(walk.x_adv, images.x)
        nearer = won & (size < walk.distance)
        judged = replace(
            walk,
            nearest=torch.where(_wide(nearer, walk.x_adv), walk.x_adv, walk.nearest),
            distance=torch.where(nearer, size, walk.distance),
            value=walk.value.maximum(value),
        )
        radius = self._radius(images, judged, gradient, value, won, _cosine(self.gamma, LAST_CHANGE, share))
        length = _cosine(self.step_size, LAST_STEP, share)
        x_adv = self._climb(images.x, walk.x_adv, gradient, radius, length)
        return replace(judged, radius=radius, x_adv=_onto(self.threat, x_adv, images.x, radius))

    def _radius(
        self, images: "_Images", walk: "_Walk", gradient: Tensor, value: Tensor, won: Tensor, change: float
    ) -> Tensor:
        """Smaller where the point is wrong, larger elsewhere; beyond the boundary while nothing is found."""
        x_adv = walk.x_adv
        smaller = walk.radius.minimum(walk.distance) * (1 - change)
        radius = torch.where(won, smaller, walk.radius * (1 + change))
        lost = walk.distance.isinf()
        if bool(lost.any()):
            gap = (images.rounding - value)[lost].nan_to_num(0.0)
            way = self.threat.distance(self.threat.reach(x_adv[lost], gradient[lost], gap), x_adv[lost])
            size = self.threat.distance(x_adv[lost], images.x[lost])
            radius[lost] = size + (2 * way).maximum(change * size)
        return radius

    def _climb(self, x: Tensor, x_adv: Tensor, gradient: Tensor, radius: Tensor, length: float) -> Tensor:
        """Step up the margin: signed for Linf, along the gradient otherwise, as projections are Euclidean."""
        stride, slope = NORMS["Linf" if self.threat.norm == "Linf" else "L2"], gradient.flatten(1)
        size = stride.size((x_adv - x).flatten(1)).maximum(radius / math.sqrt(max(slope.shape[1], 1)))
        return x_adv + _wide(length * size, x) * stride.ascend(slope, slope != 0).view_as(x)


@dataclass
class _Images(Rows):
    """What is looked at: the images, what to climb there, and how far rounding may move a margin."""

    x: Float[Tensor, "n ..."]
    goal: Goal
    rounding: Float[Tensor, " n"]

    @classmethod
    def of(cls, x: Tensor, goal: Goal, logits: Tensor) -> "_Images":
        """Images of which these are the logits."""
        unit = torch.finfo(torch.promote_types(logits.dtype, torch.float32)).eps
        largest = torch.where(logits.isfinite(), logits.abs(), 0.0).amax(1)
        return cls(x, goal, (16 * unit * largest).to(x.dtype))


@dataclass
class _Walk(Rows):
    """One walk for each image: where it is, its radius, and the nearest misclassified point that it met."""

    x_adv: Float[Tensor, "n ..."]
    radius: Float[Tensor, " n"]
    nearest: Float[Tensor, "n ..."]
    distance: Float[Tensor, " n"]
    value: Float[Tensor, " n"]

    @classmethod
    def at(cls, point: Tensor, x: Tensor, radius: Tensor) -> "_Walk":
        """A walk that begins at `point`."""
        nothing = torch.full_like(radius, torch.inf)
        return cls(point, radius, x, nothing, -nothing)

    def put(self, rows: Tensor, part: "_Walk") -> "_Walk":
        """This walk with `part` in place of its `rows`."""
        names = [field.name for field in fields(self)]
        return _Walk(*(getattr(self, name).index_copy(0, rows, getattr(part, name)) for name in names))


def _best_of(walks: list[_Walk], count: int) -> list[_Walk]:
    """For each image its `count` best walks: the nearest find, then the largest margin of the wrong."""
    if count >= len(walks):
        return walks
    values = torch.stack([walk.value for walk in walks], 1)
    distances = torch.stack([walk.distance for walk in walks], 1)
    order = values.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, distances.gather(1, order).argsort(dim=1, stable=True))
    every = torch.arange(len(order), device=order.device)
    stacked = [torch.stack([getattr(walk, field.name) for walk in walks]) for field in fields(_Walk)]
    return [_Walk(*(tensor[order[:, place], every] for tensor in stacked)) for place in range(count)]


def _boundary(threat: ThreatModel, images: _Images, gap: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The points nearest to x a hair beyond a linear boundary, and how far they are.

    `gap` (n,) is to be closed, `slope` says where it closes. Infinitely far where the pixel box forbids it.
    """
    gap = ((gap + images.rounding) * (1 + _HAIR)).nan_to_num(0.0)
    point = threat.reach(images.x, slope, gap)
    closed = (slope * (point - images.x)).flatten(1).sum(1)
    return point, torch.where(closed >= 0.9 * gap, threat.distance(point, images.x), torch.inf)


@torch.no_grad()
def _bisect(model: nn.Module, images: _Images, nearest: Tensor) -> Tensor:
    """Closer points on the way from x to `nearest` that are misclassified still."""
    far, nearest = nearest, nearest.clone()
    below, above = torch.zeros_like(images.rounding), torch.ones_like(images.rounding)
    for number in range(_ROUNDS):
        rows = torch.nonzero(above - below > TOLERANCE * above).squeeze(1)
        if len(rows) == 0:
            break
        now = images[rows]
        middle = (below + above)[rows] / 2 if number else torch.full_like(above, _USUAL)
        point = torch.lerp(now.x, far[rows], _wide(middle, far))
        logits = model(point)
        won = now.goal.won(logits) & ~(now.goal.value(logits) < now.rounding)
        above[rows], below[rows] = (
            torch.where(won, middle, above[rows]),
            torch.where(won, below[rows], middle),
        )
        nearest[rows[won]] = point[won]
    return nearest


def _onto(threat: ThreatModel, x_adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """As `ThreatModel.project`, with a radius for each image: on the unit ball, everything scaled to it."""
    low, high = threat.bounds
    scale, origin = radius.clamp_min(1e-12)[:, None], x.flatten(1)
    delta = (x_adv - x).flatten(1) / scale
    delta = NORMS[threat.norm].project(delta, 1.0, (low - origin) / scale, (high - origin) / scale)
    return (origin + scale * delta).clamp(low, high).view_as(x)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """One value for each image, with the dimensions of the images."""
    return values.view(-1, *[1] * (like.dim() - 1))
