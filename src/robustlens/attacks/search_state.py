"""State of the Square attack's search: the images that are left, and what they are asked about next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robustlens import noise
from robustlens.attacks.base import Goal, Rows
from robustlens.attacks.best import Best
from robustlens.attacks.windows import Grid

BLOCK = 16
"""Moves whose random numbers are drawn at once: one by one they would cost as much as the moves."""

CHANNELS = 4
"""The first random number of a move that is one for each channel, after a place (2), a pixel and a turn."""


@dataclass
class SearchState(Rows):
    """The images that a try has not broken yet: `rows` is their place in its batch, `key` is for their noise.

    `spent` is the part of the budget of an L2 or L1 ball that x_adv uses (see `_Bumps`), in float64. For a
    block of moves, `numbers` are uniform random numbers (n, block, count), and `pixels` (n, block) are some
    of those that x_adv changed as the block began; `place` is that of the next move in it.
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
    place: Tensor

    @classmethod
    def at(cls, x: Tensor, goal: Goal, key: Tensor, rows: Tensor, grid: Grid) -> "SearchState":
        """A search that begins at `x`."""
        x = x.contiguous()
        numbers = x.new_zeros(len(x), BLOCK, CHANNELS + grid.channels, dtype=torch.float32)
        pixels = numbers[:, :, 0].long()
        spent, value = x.new_zeros(2, len(x), dtype=torch.float64).unbind()
        return cls(rows, key, x, x.clone(), spent, value, goal, numbers, pixels, pixels[:, 0])

    def begin(self, block: int) -> None:
        """Draw the random numbers of a block of moves."""
        self.numbers = noise.uniform(noise.fold(self.key, 2 + block), self.numbers)
        self.place = torch.zeros_like(self.place)

    def of_next_move(self, values: Tensor) -> Tensor:
        """Of values for each move of the block, (n, block, ...), those of each image's next move."""
        return values[torch.arange(len(values), device=values.device), self.place]

    def ask(self, model: nn.Module, move: "Move") -> Bool[Tensor, " n"]:
        """Make each image's next move, and keep it where it is better. Returns where the model is wrong."""
        trial = move(self)
        value, won = self.judged(model)
        self.settle(trial, value, self.is_better(value, won))
        self.place = self.place + 1
        return won

    def ask_ahead(
        self, model: nn.Module, move: "Move", width: int, end: int
    ) -> tuple[Bool[Tensor, " n"], int]:
        """Make up to `width` moves of each image in one pass, none from the place `end` of the block on.

        Each starts from x_adv as it is now, so all count up to the first that is better, which is kept; those
        after it are made again. Returns whether the model is wrong there, and how many points it was asked
        about.
        """
        ahead = torch.arange(width, device=self.place.device)
        image, offset = torch.nonzero(self.place[:, None] + ahead < end).unbind(1)
        trials = self[image]
        trials.place = trials.place + offset
        spent = move(trials).spent
        value, is_wrong = trials.judged(model)
        better = trials.is_better(value, is_wrong)
        first = torch.full_like(self.place, width)[:, None].repeat(1, width)
        first[image, offset] = torch.where(better, offset, width)
        first = first.amin(1)
        kept = torch.nonzero(better & (offset == first[image])).squeeze(1)
        rows, won = image[kept], torch.zeros_like(self.place, dtype=torch.bool)
        self.x_adv[rows], self.value[rows] = trials.x_adv[kept], value[kept]
        self.spent[rows], won[rows] = spent[kept], is_wrong[kept]
        self.place = (self.place + (first + 1).clamp_max(width)).clamp_max(end)
        return won, len(image)

    def judged(self, model: nn.Module) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """The margin at x_adv, and whether the model is wrong there."""
        logits = model(self.x_adv)
        return self.goal.value(logits), self.goal.won(logits)

    def is_better(self, value: Tensor, won: Tensor) -> Bool[Tensor, " n"]:
        """Whether a point of this margin is kept, one that the model gets wrong in any case."""
        return won | (value > self.value)

    def settle(self, trial: "Trial", value: Tensor, better: Tensor) -> None:
        """Keep a trial where it is better, and take it back elsewhere."""
        x_adv = self.x_adv.flatten(1)
        kept = torch.where(better[:, None], x_adv.gather(1, trial.cells), trial.before)
        x_adv.scatter_(1, trial.cells, kept)
        self.spent = torch.where(better, trial.spent, self.spent)
        self.value = torch.where(better, value, self.value)

    def without(self, won: Tensor, best: Best) -> "SearchState":
        """The images that are not won; those that are go to `best`."""
        if not bool(won.any()):
            return self
        best.offer(self.rows[won], self.x_adv[won], self.value[won], won[won])
        return self[torch.nonzero(~won).squeeze(1)]


class Trial(NamedTuple):
    """A change of x_adv: the cells written (n, cells), their values before, and `spent` after."""

    cells: Tensor
    before: Tensor
    spent: Tensor


Move = Callable[[SearchState], Trial]
"""Writes the next move of each image into x_adv."""


@dataclass
class Pace:
    """How many moves of an image one pass makes: more while few are kept.

    Args:
        at_once: points that the model may be asked about in one pass.
    """

    at_once: int
    width: int = 1

    def through(
        self, state: SearchState, move: Move, places: Sequence[int], model: nn.Module, best: Best
    ) -> SearchState:
        """Make each image's moves at these places of its block; images that are broken go to `best`."""
        self.width = max(1, min(self.width, self.at_once // len(state.rows)))
        end, needed, asked = places[-1] + 1, len(state.rows) * len(places), 0
        while len(state.rows) and bool((state.place < end).any()):
            if self.width == 1:
                won, points = state.ask(model, move), len(state.rows)
            else:
                won, points = state.ask_ahead(model, move, self.width, end)
            asked += points
            state = state.without(won, best)
        if asked > 1.5 * needed:
            self.width //= 2
        elif asked < 1.2 * needed and len(places) >= 2 * self.width:
            self.width *= 2
        return state
