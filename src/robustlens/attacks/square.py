"""Square: random search over windows of the image, by the scores of the model and never by a gradient."""

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustlens.attacks.base import Goal, require_radius
from robustlens.attacks.best import Best, in_turn
from robustlens.attacks.moves import moves_of
from robustlens.attacks.restarts import Restarts, require_at_least
from robustlens.attacks.search_state import BLOCK, Pace, SearchState
from robustlens.attacks.windows import Grid
from robustlens.errors import ConfigError
from robustlens.threat import ThreatModel

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Moves, on a scale of 10,000 queries, at which the share of pixels is halved."""


def share_at(move: int, queries: int, share: float = 0.8) -> float:
    """The share of the image that move number `move` (from 0) changes: `share`, halved at published points.

    The points are those of the authors' code for 10,000 queries, scaled to `queries`.

    >>> [share_at(move, 10_000) for move in (10, 11, 50, 51)]
    [0.8, 0.4, 0.4, 0.2]
    """
    return share / 2 ** bisect_left(_HALVINGS, move * 10_000 // queries)


@dataclass(frozen=True)
class Square(Restarts):
    """Square attack (Andriushchenko et al. 2020) for Linf and L2, and its L1 form (Croce and Hein 2021).

    Each query changes one window of the best point so far, of random place and sign, and keeps the change if
    the margin of y decreases. Windows shrink with the queries (`share_at`). It needs no gradient, so it also
    breaks models that only hide theirs.

    Most changes are taken back, above all late in the search. Where fewer images are left than the model may
    be asked about at once, each is asked about several changes in one pass, as if those before were taken
    back; what follows one that is kept is asked about again. So the points that count, and the result, are
    those of one query after the other, in a fraction of the passes.

    Args:
        threat: what may be changed, and how far.
        queries: points that each restart asks the model about; it asks about the image itself besides.
        share: share of the image that the first windows cover, in (0, 1].
        at_once: points to ask the model about in one pass where fewer images are left; 1 for one query after
            the other. None: as many as the call has images, but 1 on a CPU, which gains nothing by it.
        restarts, seed, restart: see `Restarts`.

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
    - L2: the part that the box cuts off a window goes to its other pixels, which uses the ball up. The code
      clips.
    - L1: a window spends its budget on its steepest pixels, each as far as the box lets it go. The code
      scales the window up by the number of channels and projects the whole image on ball and box: sparse only
      where there are several channels, and dearer than a small network's forward pass.
    - L2 and L1: the window that is cleared lies about a changed pixel. The code draws it anywhere, where a
      sparse perturbation mostly has nothing to clear.
    """

    uses_gradients: ClassVar[bool] = False

    threat: ThreatModel
    queries: int = 5000
    share: float = 0.8
    at_once: int | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_radius(self.threat)
        require_at_least(1, self, "queries", "at_once")
        if not 0 < self.share <= 1:
            raise ConfigError(f"attack.share: found {self.share}, expected a share in (0, 1]")

    def filling(self, batch_size: int) -> "Square":
        """See `Filling`."""
        return replace(self, at_once=self.at_once or batch_size)

    @torch.no_grad()
    def _images(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        goal = Goal.of(model, x, y, "margin", targeted=False)
        if self.restarts > 1:
            return in_turn(replace(self, seed=seed).tries(), model, x, y, goal)
        best = Best(x)
        best.judge(model, torch.arange(len(x), device=x.device), x, goal)
        rows = torch.nonzero(~best.won).squeeze(1)
        if len(rows):
            self._search(model, x[rows], goal[rows], self.keys(x[rows], seed), rows, best)
        return best.x_adv

    def _search(self, model: nn.Module, x: Tensor, goal: Goal, key: Tensor, rows: Tensor, best: Best) -> None:
        """One try on images that are right at x. Points that break them, and at the end all, go to `best`."""
        grid = Grid.of(x.shape[1:])
        moves = moves_of(self.threat, grid)
        state = SearchState.at(x, goal, key, rows, grid)
        moves.start(state)
        state.value, won = state.judged(model)
        state = state.without(won, best)
        pace = Pace(self.at_once or (1 if x.device.type == "cpu" else len(best.won)))
        shares = partial(share_at, queries=self.queries, share=self.share)
        for share, numbers in groupby(range(self.queries - 1), shares):
            move = moves.covering(share, x.device)
            for block, stretch in groupby(numbers, lambda number: number // BLOCK):
                if len(state.rows) == 0:
                    return
                places = [number % BLOCK for number in stretch]
                if places[0] == 0:
                    moves.begin(state, block)
                state = pace.through(state, move, places, model, best)
        best.offer(state.rows, state.x_adv, state.value, torch.zeros_like(state.rows).bool())
