"""A total handed out over coordinates that each take a limited amount: all at once, or one after another."""

import torch
from jaxtyping import Float
from torch import Tensor


def water_fill(
    price: Float[Tensor, "n d"],
    speed: Float[Tensor, "n d"],
    room: Float[Tensor, "n d"],
    total: Float[Tensor, "n 1"],
) -> Float[Tensor, "n d"]:
    """The amounts `min(t * speed, room)` with the t at which `price` times the amounts sums to `total`.

    All the room where that is less. The sum is concave in t and bends where a coordinate is full. So Newton's
    method, begun where none is, comes from below and only adds full coordinates; a few rounds are exact.

    Args:
        price: of a unit of each coordinate; as all arguments, not negative.
        speed: how coordinates fill relative to one another.
        room: the most that a coordinate takes.
        total: what the amounts cost together.
    """
    limits = torch.finfo(price.dtype)
    gain, rate = price * room, price * speed
    full = torch.zeros_like(price, dtype=torch.bool)
    while True:
        # Products, as torch.where is several times as slow on a CPU.
        used, pace = (gain * full).sum(1, keepdim=True), (rate * ~full).sum(1, keepdim=True)
        t = ((total - used) / pace.clamp_min(limits.tiny)).clamp(0, limits.max)
        amount = t * speed
        grown = full | (amount >= room)
        if torch.equal(grown, full):
            # A full coordinate stays full, although rounding may leave t short of where it filled.
            return torch.where(full, room, amount.minimum(room))
        full = grown


def greedy_fill(
    price: Float[Tensor, "n d"],
    rank: Float[Tensor, "n d"],
    room: Float[Tensor, "n d"],
    total: Float[Tensor, "n 1"],
) -> Float[Tensor, "n d"]:
    """The amounts where coordinates are filled in order of `rank`, the largest first, until `total` is spent.

    Arguments as `water_fill`: `price` times the amounts sums to `total`, or all the room is taken.
    """
    order = rank.argsort(dim=1, descending=True, stable=True)
    price, room = price.gather(1, order), room.gather(1, order)
    spent_before = (price * room).cumsum(1).roll(1, 1)
    spent_before[:, :1] = 0
    affordable = (total - spent_before) / price.clamp_min(torch.finfo(price.dtype).tiny)
    amount = affordable.clamp_min(0).minimum(room)
    return torch.zeros_like(amount).scatter_(1, order, amount)
