"""Square: random search over windows of the image, by the scores of the model and never by a gradient."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from robustlens import noise
from robustlens.attacks.base import Goal, Rows, require_radius
from robustlens.attacks.best import Best, in_turn
from robustlens.errors import ConfigError
from robustlens.models import frozen
from robustlens.threat import ThreatModel

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Where, on a scale of 10,000 queries, the share of pixels is halved."""

_BLOCK = 16
"""Moves whose random numbers are drawn at once: one by one they would cost as much as the moves."""

_NUMBERS = 4
"""Random numbers of a move besides one a channel: a place (2), a pixel, a turn."""


def share_at(move: int, queries: int, share: float = 0.8) -> float:
    """The share of the image that move number `move` (from 0) changes: `share`, halved at published points.

    The points are those of the authors' code for 10,000 queries, scaled to `queries`.

    >>> [share_at(move, 10_000) for move in (10, 11, 50, 51)]
    [0.8, 0.4, 0.4, 0.2]
    """
    return share / 2 ** bisect_left(_HALVINGS, move * 10_000 // queries)


@dataclass(frozen=True)
class Square:
    """Square attack (Andriushchenko et al. 2020) for Linf and L2, and its L1 form (Croce and Hein 2021).

    Each query changes one window of the best point so far, of random place and sign, and keeps the change if
    the margin falls. Windows shrink with the queries (`share_at`). It needs no gradient, so it also breaks
    models that only hide theirs.

    Args:
        threat: what may be changed, and how far.
        queries: points that each restart asks the model about; it asks about the image itself besides.
        restarts: independent tries; each goes on only with the images that no try has broken yet.
        share: share of the image that the first windows cover, in (0, 1].
        seed: base of the random numbers where no generator is given.
        restart: number of the (first) restart, which enters its random numbers.

    Raises:
        ConfigError: an argument out of range.

    Windows are squares in the last two axes of images (n, c, h, w), and stretches of the last axis of
    (n, c, l) and (n, d); all axes before those count as channels. Images that are wrong come back
    as they are.

    Where we differ from the authors' code:

    - Random numbers belong to the image (see `noise`); AutoAttack moves all images of a batch at one place.
    - Windows reach the last row and column, as in the paper.
    - Linf: a move that would change nothing is turned round. The code draws its signs again (AutoAttack
      wastes the query), which is the same where there is one channel.
    - L2: what the box cuts off a window goes to its other pixels, which uses the ball up. The code clips.
    - L1: a window spends what it has on its steepest pixels, each as far as the box lets it go. The code
      scales the window up by the number of channels and projects the whole image on ball and box: sparse only
      where there are several channels, and dearer than a small network's forward pass.
    - L2 and L1: the window that is cleared lies about a changed pixel. The code draws it anywhere, where a
      sparse perturbation mostly has nothing to clear.
    """

    uses_gradients: ClassVar[bool] = False

    threat: ThreatModel
    queries: int = 5000
    restarts: int = 1
    share: float = 0.8
    seed: int = 0
    restart: int = 0

    def __post_init__(self) -> None:
        require_radius(self.threat)
        if self.queries < 1 or self.restarts < 1:
            found = f"queries {self.queries}, restarts {self.restarts}"
            raise ConfigError(f"attack: found {found}; expected >= 1")
        if not 0 < self.share <= 1:
            raise ConfigError(f"attack.share: found {self.share}, expected a share in (0, 1]")

    def tries(self) -> tuple["Square", ...]:
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
        """Adversarial images, feasible, same shape as `x`; see `Attack`."""
        seed, x = noise.seed_from(generator, self.seed), x.detach()
        with frozen(model), torch.no_grad():
            goal = Goal.of(model, x, y, "margin", targeted=False)
            if self.restarts > 1:
                return in_turn(replace(self, seed=seed).tries(), model, x, y, goal)
            best = Best(x)
            best.judge(model, torch.arange(len(x), device=x.device), x, goal)
            rows = torch.nonzero(~best.won).squeeze(1)
            if len(rows):
                key = noise.fold(noise.keys(x[rows], seed), self.restart)
                self._search(model, x[rows], goal[rows], key, rows, best)
            return best.x_adv

    def _search(self, model: nn.Module, x: Tensor, goal: Goal, key: Tensor, rows: Tensor, best: Best) -> None:
        """One try on images that are right at x. What it breaks, and what it is left with, goes to `best`."""
        grid = _Grid.of(x.shape[1:])
        moves = (_Corners if self.threat.norm == "Linf" else _Bumps)(self.threat, grid)
        standing = _Standing.at(x, goal, key, rows, grid)
        moves.start(standing)
        standing.value, won = standing.judged(model)
        standing = standing.without(won, best)
        for share, numbers in groupby(range(self.queries - 1), self._share):
            move = moves.covering(share, x.device)
            for number in numbers:
                if len(standing.rows) == 0:
                    return
                place = standing.draw(number)
                trial = move(standing, place)
                value, won = standing.judged(model)
                standing.settle(trial, value, won | (value > standing.value))
                standing = standing.without(won, best)
        best.offer(standing.rows, standing.x_adv, standing.value, torch.zeros_like(standing.rows).bool())

    def _share(self, move: int) -> float:
        return share_at(move, self.queries, self.share)


@dataclass(frozen=True)
class _Grid:
    """How the pixels of an image lie in a row: channel by channel, line by line."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> "_Grid":
        """The grid of an image of this shape; an image that is one pixel high or wide is a line."""
        *channels, height, width = shape if len(shape) > 2 else (*shape[:-1], 1, shape[-1])
        if width == 1:
            height, width = width, height
        return cls(math.prod(channels), height, width)

    def side(self, share: float) -> int:
        """The side of a window that covers this share of the image."""
        return round(share * self.width if self.height == 1 else math.sqrt(share * self.height * self.width))

    def window(self, side: int) -> tuple[int, int]:
        """Height and width of a window of this side, or of the largest that fits."""
        if self.height == 1:
            return 1, min(side, self.width)
        return (min(side, self.height, self.width),) * 2

    def cells(self, window: tuple[int, int], device: torch.device) -> Int64[Tensor, " cells"]:
        """The pixels of the window in the top left corner, in all channels."""
        pixels = torch.arange(self.channels * self.height * self.width, device=device)
        return pixels.view(self.channels, self.height, self.width)[:, : window[0], : window[1]].flatten()

    def anywhere(self, u: Float[Tensor, "n 2"], window: tuple[int, int]) -> Int64[Tensor, "n 1"]:
        """The top left pixel of a window that lies anywhere, from two uniform numbers."""
        top = (u[:, :1] * (self.height - window[0] + 1)).long()
        left = (u[:, 1:] * (self.width - window[1] + 1)).long()
        return top * self.width + left

    def around(self, pixel: Int64[Tensor, "n 1"], window: tuple[int, int]) -> Int64[Tensor, "n 1"]:
        """The top left pixel of the window whose middle is as near to `pixel` as it gets."""
        within = pixel % (self.height * self.width)
        top = (within // self.width - window[0] // 2).clamp(0, self.height - window[0])
        left = (within % self.width - window[1] // 2).clamp(0, self.width - window[1])
        return top * self.width + left


@dataclass
class _Standing(Rows):
    """The images that a try has not broken yet: `rows` is their place in its batch, `key` is for their noise.

    `spent` is what x_adv uses of the budget of an L2 or L1 ball (see `_Bumps`), in float64. For a block of
    moves, `numbers` are uniform random numbers (n, block, count), and `pixels` (n, block) are some of those
    that x_adv changed as the block began.
    """

    rows: Tensor
    key: Tensor
    x: Tensor
    x_adv: Tensor
    spent: Tensor
    value: Tensor
    goal: Goal
    numbers: Tensor
    pixels: Tensor

    @classmethod
    def at(cls, x: Tensor, goal: Goal, key: Tensor, rows: Tensor, grid: _Grid) -> "_Standing":
        x, zeros = x.contiguous(), x.new_zeros(len(x), dtype=torch.float64)
        numbers = x.new_zeros(len(x), _BLOCK, _NUMBERS + grid.channels, dtype=torch.float32)
        return cls(rows, key, x, x.clone(), zeros, zeros, goal, numbers, numbers[:, :, 0].long())

    def draw(self, number: int) -> int:
        """The place of a move in its block; draws the random numbers of the block as it begins."""
        block, place = divmod(number, _BLOCK)
        if place == 0:
            self.numbers = noise.uniform(noise.fold(self.key, 2 + block), self.numbers)
        return place

    def judged(self, model: nn.Module) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """The margin at x_adv, and whether the model is wrong there."""
        logits = model(self.x_adv)
        return self.goal.value(logits), self.goal.won(logits)

    def settle(self, trial: "_Trial", value: Tensor, better: Tensor) -> None:
        """Keep a trial where it is better, and take it back elsewhere."""
        x_adv = self.x_adv.flatten(1)
        kept = torch.where(better[:, None], x_adv.gather(1, trial.cells), trial.before)
        x_adv.scatter_(1, trial.cells, kept)
        self.spent = torch.where(better, trial.spent, self.spent)
        self.value = torch.where(better, value, self.value)

    def without(self, won: Tensor, best: Best) -> "_Standing":
        """The images that are not won; those that are go to `best`."""
        if not bool(won.any()):
            return self
        best.offer(self.rows[won], self.x_adv[won], self.value[won], won[won])
        return self[torch.nonzero(~won).squeeze(1)]


class _Trial(NamedTuple):
    """What a move did to x_adv: the cells it wrote (n, cells), what they held before, and `spent` after."""

    cells: Tensor
    before: Tensor
    spent: Tensor


_Move = Callable[[_Standing, int], _Trial]
"""Writes into x_adv, by the random numbers at that place of the block."""


@dataclass(frozen=True)
class _Corners:
    """Moves in an Linf ball: a window goes to a corner of the ball, one sign a channel (algorithm 2)."""

    threat: ThreatModel
    grid: _Grid

    def start(self, standing: _Standing) -> None:
        """Vertical stripes: one sign for each column of each channel."""
        x, grid = standing.x, self.grid
        u = noise.uniform(noise.fold(standing.key, 0), x.new_empty(len(x), grid.channels, 1, grid.width))
        standing.x_adv = self._corner(x, _sign(u).expand(-1, -1, grid.height, -1).reshape(x.shape))

    def covering(self, share: float, device: torch.device) -> _Move:
        """Moves of windows that cover this share of the image."""
        window = self.grid.window(max(1, self.grid.side(share)))
        return partial(self._move, window, self.grid.cells(window, device))

    def _move(self, window: tuple[int, int], cells: Tensor, standing: _Standing, place: int) -> _Trial:
        x, x_adv, u = standing.x.flatten(1), standing.x_adv.flatten(1), standing.numbers[:, place]
        cells = self.grid.anywhere(u[:, :2], window) + cells
        origin, before = x.gather(1, cells), x_adv.gather(1, cells)
        way = _sign(u[:, _NUMBERS:]).repeat_interleave(math.prod(window), 1)
        after = self._corner(origin, way)
        idle = (after == before).all(1, keepdim=True)
        x_adv.scatter_(1, cells, torch.where(idle, self._corner(origin, -way), after))
        return _Trial(cells, before, standing.spent)

    def _corner(self, x: Tensor, way: Tensor) -> Tensor:
        return (x + self.threat.eps * way.to(x.dtype)).clamp(*self.threat.bounds)


@dataclass(frozen=True)
class _Bumps:
    """Moves in an L2 or L1 ball: one window is cleared, and what it spent goes to another (algorithm 3).

    What a pixel spends of the budget eps^p is its change to the power p: so the formulas of both norms agree.
    """

    threat: ThreatModel
    grid: _Grid

    @property
    def _power(self) -> int:
        return 2 if self.threat.norm == "L2" else 1

    @property
    def _budget(self) -> float:
        return self.threat.eps**self._power

    def start(self, standing: _Standing) -> None:
        """Bumps beside holes all over the image, five by five of them on a square one."""
        x, grid = standing.x.flatten(1), self.grid
        window = grid.window(max(1, max(grid.window(grid.width)) // 5))
        tiles = x.new_empty(len(x), grid.channels, grid.height // window[0], grid.width // window[1])
        turned = noise.uniform(noise.fold(standing.key, 1), tiles[:, :1])
        signs = _sign(noise.uniform(noise.fold(standing.key, 0), tiles))
        bumps = _bumps(window, self._power, x.device)
        tiled = (bumps[(turned * len(bumps)).long()] * signs[..., None]).unflatten(-1, window)
        tiled = tiled.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        over, beside = grid.height - tiled.shape[2], grid.width - tiled.shape[3]
        way = pad(tiled, (beside // 2, beside - beside // 2, over // 2, over - over // 2)).flatten(1)
        x_adv = self._spend(x, way, torch.full_like(way[:, :1], self._budget), evenly=True)
        standing.x_adv = x_adv.view_as(standing.x)
        standing.spent = self._cost(_difference(x_adv, x)).sum(1)

    def covering(self, share: float, device: torch.device) -> _Move:
        """Moves of windows that cover this share of the image; their sides are odd where they can."""
        window = self.grid.window(max(3, self.grid.side(share) // 2 * 2 + 1))
        bumps = _bumps(window, self._power, device)
        return partial(self._move, window, self.grid.cells(window, device), bumps)

    def _move(
        self, window: tuple[int, int], cells: Tensor, bumps: Tensor, standing: _Standing, place: int
    ) -> _Trial:
        if place == 0:
            standing.pixels = _changed(standing.x, standing.x_adv, standing.numbers[:, :, 2])
        x, x_adv, u = standing.x.flatten(1), standing.x_adv.flatten(1), standing.numbers[:, place]
        new = self.grid.anywhere(u[:, :2], window) + cells
        freed = self.grid.around(standing.pixels[:, place, None], window) + cells
        both = torch.cat([new, freed], 1)
        before, origin, cleared = x_adv.gather(1, both), x.gather(1, new), x.gather(1, freed)
        change = _difference(before, torch.cat([origin, cleared], 1))
        held, given = change.unflatten(1, (2, self.grid.channels, -1)).unbind(1)
        x_adv.scatter_(1, freed, cleared)
        left = _difference(x_adv.gather(1, new), origin).view_as(held)
        taken = self._cost(given).sum(2) + self._cost(left).sum(2)
        budget = taken + (self._budget - standing.spent).clamp_min(0)[:, None] / self.grid.channels
        bump = bumps[(u[:, 3] * len(bumps)).long()][:, None] * _sign(u[:, _NUMBERS:])[:, :, None]
        way = self._unit(bump + self._unit(held)) * budget[:, :, None] ** (1 / self._power)
        after = self._spend(origin, way.flatten(1), budget.sum(1, keepdim=True))
        x_adv.scatter_(1, new, after)
        spent = standing.spent - taken.sum(1) + self._cost(_difference(after, origin)).sum(1)
        return _Trial(both, before, spent)

    def _cost(self, change: Tensor) -> Tensor:
        return change.square() if self._power == 2 else change.abs()

    def _unit(self, change: Tensor) -> Tensor:
        """`change` with norm 1 in every channel; a channel of nothing stays."""
        size = self._cost(change).sum(-1, keepdim=True) ** (1 / self._power)
        return change / size.clamp_min(1e-12)

    def _spend(self, x: Tensor, way: Tensor, budget: Tensor, *, evenly: bool = False) -> Tensor:
        """The point within `budget` (n, 1) of x and inside the box that lies furthest along `way`.

        In L2 the change is `way`, scaled and clipped. In L1 it is the steepest pixels, each as far as the box
        lets it go, or `evenly` all pixels in proportion. Rounding never adds to the distance.
        """
        low, high = self.threat.bounds
        origin = x.double()
        room = torch.where(way > 0, high - origin, origin - low).clamp_min(0)
        if self._power == 2:
            change = _fill(way.square(), room.square(), budget).sqrt()
        else:
            change = (_fill if evenly else _steepest)(way.abs(), room, budget)
        after = (origin + change * way.sign()).clamp(low, high).to(x.dtype)
        beyond = (after.double() - origin).abs() > change
        return torch.where(beyond, torch.nextafter(after, x), after)


def _sign(u: Tensor) -> Tensor:
    """Minus or plus one, from uniform numbers."""
    return torch.where(u < 0.5, -1.0, 1.0)


def _difference(x_adv: Tensor, x: Tensor) -> Tensor:
    """In float64, where that of float32 images is exact."""
    return x_adv.double() - x.double()


def _changed(x: Tensor, x_adv: Tensor, u: Float[Tensor, "n block"]) -> Int64[Tensor, "n block"]:
    """Pixels that x_adv changes, each as likely, from uniform numbers. Any pixel where it changes none."""
    count = (x_adv != x).flatten(1).cumsum(1)
    rank = (u * count[:, -1:]).long()
    return torch.searchsorted(count, rank, right=True).clamp_max(count.shape[1] - 1)


def _fill(speed: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """`min(t * speed, room)` with the t at which it sums to `total` (n, 1), or all the room if that is less.

    The sum is concave and piecewise linear in t, so it is the lowest of the lines that its pieces lie on, and
    t is the largest solution of any of them.
    """
    limits = torch.finfo(speed.dtype)
    order = (room / speed.clamp_min(limits.tiny)).argsort(1)
    held = room.gather(1, order)
    pace = speed.gather(1, order).flip(1).cumsum(1).flip(1)
    t = ((total - (held.cumsum(1) - held)) / pace.clamp_min(limits.tiny)).amax(1, keepdim=True)
    return (t.clamp_max(limits.max) * speed).minimum(room)


def _steepest(slope: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """`total` (n, 1) handed out in order of slope, to each as much as it has room for."""
    order = slope.argsort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    handed = (total - (room.cumsum(1) - room)).clamp_min(0).minimum(room)
    return torch.zeros_like(slope).scatter_(1, order, handed)


def _bumps(window: tuple[int, int], power: int, device: torch.device) -> Float[Tensor, "turns pixels"]:
    """A bump beside a hole in a window, of norm 1: side by side, and in a square one above the other too."""
    height, width = window
    halves = [_bump(width // 2, height, power), -_bump(width - width // 2, height, power)]
    beside = torch.cat(halves).T
    turns = [beside, beside.T] if height == width > 1 else [beside]
    return torch.stack([turn.flatten() / turn.norm(power) for turn in turns]).to(device)


def _bump(height: int, width: int, power: int) -> Float[Tensor, "height width"]:
    """Squares about the middle, one upon the other: the kth from within is 1/k^2 high in L2, 1/k^4 in L1."""
    down, across = (torch.arange(size) - size // 2 for size in (height, width))
    distance = torch.maximum(down.abs()[:, None], across.abs()[None])
    count = max(height // 2, width // 2) + 1
    steps = torch.arange(count, 0, -1, dtype=torch.float64).pow(-4 / power)
    bump = steps.cumsum(0).flip(0)[distance]
    return bump / bump.norm(power)
