"""Moves of the Square attack: the change that one query makes to each image."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from robustlens import noise
from robustlens.attacks.search_state import CHANNELS, Move, SearchState, Trial
from robustlens.attacks.windows import Grid, bumps_of
from robustlens.threat import ThreatModel, greedy_fill, water_fill


def moves_of(threat: ThreatModel, grid: Grid) -> "_Corners | _Bumps":
    """The moves in a ball of this norm."""
    return (_Corners if threat.norm == "Linf" else _Bumps)(threat, grid)


@dataclass(frozen=True)
class _Corners:
    """Moves in an Linf ball: a window goes to a corner of the ball, one sign a channel (algorithm 2)."""

    threat: ThreatModel
    grid: Grid

    def start(self, state: SearchState) -> None:
        """Vertical stripes: one sign for each column of each channel."""
        x, grid = state.x, self.grid
        u = noise.uniform(noise.fold(state.key, 0), x.new_empty(len(x), grid.channels, 1, grid.width))
        state.x_adv = self._corner(x, _sign(u).expand(-1, -1, grid.height, -1).reshape(x.shape))

    def begin(self, state: SearchState, block: int) -> None:
        """Make a block of moves ready."""
        state.begin(block)

    def covering(self, share: float, device: torch.device) -> Move:
        """Moves of windows that cover this share of the image."""
        window = self.grid.window(max(1, self.grid.side(share)))
        return partial(self._move, window, self.grid.cells(window, device))

    def _move(self, window: tuple[int, int], cells: Tensor, state: SearchState) -> Trial:
        x, x_adv, u = state.x.flatten(1), state.x_adv.flatten(1), state.of_next_move(state.numbers)
        cells = self.grid.anywhere(u[:, :2], window) + cells
        origin, before = x.gather(1, cells), x_adv.gather(1, cells)
        signs = _sign(u[:, CHANNELS:]).repeat_interleave(math.prod(window), 1)
        after = self._corner(origin, signs)
        idle = (after == before).all(1, keepdim=True)
        x_adv.scatter_(1, cells, torch.where(idle, self._corner(origin, -signs), after))
        return Trial(cells, before, state.spent)

    def _corner(self, x: Tensor, signs: Tensor) -> Tensor:
        corner = (x + self.threat.eps * signs.to(x.dtype)).clamp(*self.threat.bounds)
        return self.threat.contract(corner, x)


@dataclass(frozen=True)
class _Bumps:
    """Moves in an L2 or L1 ball: one window is cleared, and its budget goes to another (algorithm 3).

    A pixel spends of the budget eps^p its change to the power p: so the formulas of both norms agree.
    """

    threat: ThreatModel
    grid: Grid

    @property
    def _power(self) -> int:
        return 2 if self.threat.norm == "L2" else 1

    @property
    def _budget(self) -> float:
        return self.threat.eps**self._power

    def start(self, state: SearchState) -> None:
        """Bumps beside holes all over the image, five by five of them on a square one."""
        x, grid = state.x.flatten(1), self.grid
        window = grid.window(max(1, max(grid.window(grid.width)) // 5))
        tiles = x.new_empty(len(x), grid.channels, grid.height // window[0], grid.width // window[1])
        turned = noise.uniform(noise.fold(state.key, 1), tiles[:, :1])
        signs = _sign(noise.uniform(noise.fold(state.key, 0), tiles))
        bumps = bumps_of(window, self._power, x.device)
        tiled = (bumps[(turned * len(bumps)).long()] * signs[..., None]).unflatten(-1, window)
        tiled = tiled.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        rows, columns = grid.height - tiled.shape[2], grid.width - tiled.shape[3]
        direction = pad(tiled, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)).flatten(1)
        budget = torch.full_like(direction[:, :1], self._budget)
        x_adv = self._spend(x, direction, budget, evenly=True)
        state.x_adv = x_adv.view_as(state.x)
        state.spent = self._cost(_difference(x_adv, x)).sum(1)

    def begin(self, state: SearchState, block: int) -> None:
        """Make a block of moves ready."""
        state.begin(block)
        state.pixels = _changed(state.x, state.x_adv, state.numbers[:, :, 2])

    def covering(self, share: float, device: torch.device) -> Move:
        """Moves of windows that cover this share of the image; their sides are odd where they can."""
        window = self.grid.window(max(3, self.grid.side(share) // 2 * 2 + 1))
        bumps = bumps_of(window, self._power, device)
        return partial(self._move, window, self.grid.cells(window, device), bumps)

    def _move(self, window: tuple[int, int], cells: Tensor, bumps: Tensor, state: SearchState) -> Trial:
        """Clear the window about a changed pixel, and spend its budget on a window anywhere."""
        u = state.of_next_move(state.numbers)
        new = self.grid.anywhere(u[:, :2], window) + cells
        old = self.grid.around(state.of_next_move(state.pixels)[:, None], window) + cells
        both = torch.cat([new, old], 1)
        before, change = state.x_adv.flatten(1).gather(1, both), self._change(state, new)
        freed = self._clear(state, old) + self._cost(self._change(state, new)).sum(2)
        unspent = (self._budget - state.spent).clamp_min(0)[:, None] / self.grid.channels
        bump = bumps[(u[:, 3] * len(bumps)).long()][:, None] * _sign(u[:, CHANNELS:])[:, :, None]
        spent = self._fill(state, new, bump + self._unit(change), freed + unspent)
        return Trial(both, before, state.spent - freed.sum(1) + spent)

    def _change(self, state: SearchState, cells: Tensor) -> Float[Tensor, "n channels pixels"]:
        """The difference of x_adv and x in a window."""
        x_adv, x = (images.flatten(1).gather(1, cells) for images in (state.x_adv, state.x))
        return _difference(x_adv, x).unflatten(1, (self.grid.channels, -1))

    def _clear(self, state: SearchState, cells: Tensor) -> Float[Tensor, "n channels"]:
        """Put x back in a window; the budget that this frees in each channel."""
        freed = self._cost(self._change(state, cells)).sum(2)
        state.x_adv.flatten(1).scatter_(1, cells, state.x.flatten(1).gather(1, cells))
        return freed

    def _fill(
        self, state: SearchState, cells: Tensor, direction: Tensor, budget: Float[Tensor, "n channels"]
    ) -> Float[Tensor, " n"]:
        """Spend the budget of each channel along `direction` in a window; returns the budget spent."""
        direction = self._unit(direction) * budget[:, :, None] ** (1 / self._power)
        origin = state.x.flatten(1).gather(1, cells)
        after = self._spend(origin, direction.flatten(1), budget.sum(1, keepdim=True))
        state.x_adv.flatten(1).scatter_(1, cells, after)
        return self._cost(_difference(after, origin)).sum(1)

    def _cost(self, change: Tensor) -> Tensor:
        return change.square() if self._power == 2 else change.abs()

    def _unit(self, change: Tensor) -> Tensor:
        """`change` with norm 1 in every channel; a channel of nothing stays."""
        size = self._cost(change).sum(-1, keepdim=True) ** (1 / self._power)
        return change / size.clamp_min(1e-12)

    def _spend(self, x: Tensor, direction: Tensor, budget: Tensor, *, evenly: bool = False) -> Tensor:
        """The point within `budget` (n, 1) of x and inside the box that lies furthest along `direction`.

        In L2 the change is `direction`, scaled and clipped. In L1 it is the steepest pixels, each as far as
        the box lets it go, or `evenly` all pixels in proportion. Rounding never adds to the distance.
        """
        low, high = self.threat.bounds
        origin = x.double()
        room = torch.where(direction > 0, high - origin, origin - low).clamp_min(0)
        one = torch.ones_like(room)
        if self._power == 2:
            change = water_fill(one, direction.square(), room.square(), budget).sqrt()
        else:
            change = (water_fill if evenly else greedy_fill)(one, direction.abs(), room, budget)
        after = (origin + change * direction.sign()).clamp(low, high).to(x.dtype)
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
