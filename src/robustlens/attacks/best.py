"""The best point of each image so far, and attacks that take turns at it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from robustlens.attacks.base import Attack, Goal, per_image


class Best:
    """The best iterate of each image so far: one that fools the model, then the highest loss."""

    def __init__(self, x: Tensor) -> None:
        self.x_adv = x.clone()
        self.value = torch.full((len(x),), -torch.inf, device=x.device)
        self.won = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def judge(self, model: nn.Module, rows: Tensor, x_adv: Tensor, goal: Goal) -> None:
        """Offer points whose value is not known from a gradient step."""
        with torch.no_grad():
            logits = model(x_adv)
        self.offer(rows, x_adv, goal.value(logits), goal.won(logits))

    def offer(self, rows: Tensor, x_adv: Tensor, value: Tensor, won: Tensor) -> None:
        """Keep of the points `x_adv` of images `rows` those that are better than the best so far.

        All rows are written, the worse ones as they were: to pick the better ones would wait for the device.
        """
        before, value_before, won_before = self.x_adv[rows], self.value[rows], self.won[rows]
        value = value.to(self.value.dtype)
        better = torch.where(won_before == won, value > value_before, won)
        self.x_adv[rows] = torch.where(per_image(better, x_adv), x_adv, before)
        self.value[rows] = torch.where(better, value, value_before)
        self.won[rows] = won_before | won


def in_turn(
    tries: Sequence[Attack],
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    goal: Goal,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n ..."]:
    """Each attack on the images that none before it has broken; the best point of each image.

    The first attack gets every image, those too that are wrong at x: their loss has a maximum as well. The
    caller has frozen the model.
    """
    best = Best(x)
    rows = torch.arange(len(x), device=x.device)
    best.judge(model, rows, x, goal)
    for number, attack in enumerate(tries):
        if number:
            rows = torch.nonzero(~best.won).squeeze(1)
        if len(rows) == 0:
            break
        best.judge(model, rows, attack(model, x[rows], y[rows], generator=generator), goal[rows])
    return best.x_adv
