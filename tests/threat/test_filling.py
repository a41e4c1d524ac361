"""Totals handed out over coordinates of limited room, against the optimality conditions and by hand."""

import pytest
import torch
from torch import Tensor

from robustlens.threat import greedy_fill, water_fill


def task(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    price, speed, room = (torch.rand(50, 9, dtype=dtype) for _ in range(3))
    speed[:, 0] = room[:, 1] = price[:, 2] = 0
    return price, speed, room


@pytest.mark.parametrize("total", [0.0, 0.1, 0.3, 2.0, 100.0])
def test_water_rises_everywhere_at_once_and_costs_the_total(total: float) -> None:
    price, speed, room = task()
    wanted = torch.full((50, 1), total, dtype=torch.float64)
    amount = water_fill(price, speed, room, wanted)
    most = torch.where(speed > 0, price * room, 0.0).sum(1)
    torch.testing.assert_close((price * amount).sum(1), wanted[:, 0].minimum(most))
    # One t explains every coordinate that is not full.
    t = torch.where((amount < room) & (price > 0), amount / speed, 0.0).nan_to_num(0.0).amax(1, keepdim=True)
    costly = price > 0
    if total == 0.3:
        torch.testing.assert_close(amount * costly, (t * speed).minimum(room) * costly)


@pytest.mark.parametrize("total", [0.0, 0.1, 0.3, 2.0, 100.0])
def test_greed_fills_the_first_in_rank_before_the_next(total: float) -> None:
    price, rank, room = task()
    wanted = torch.full((50, 1), total, dtype=torch.float64)
    amount = greedy_fill(price, rank, room, wanted)
    torch.testing.assert_close((price * amount).sum(1), wanted[:, 0].minimum((price * room).sum(1)))
    for spent, full, order in zip(amount, room, rank.argsort(1, descending=True), strict=True):
        begun = torch.nonzero((spent > 0)[order]).flatten()
        if len(begun):  # every coordinate before the last one that is begun is full
            assert (spent >= full)[order][: int(begun.max())].all()


def test_by_hand() -> None:
    room, one = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    total = torch.tensor([[4.0]])
    assert water_fill(one, one, room, total).tolist() == [[1.0, 1.5, 1.5]]
    unequal = water_fill(one, torch.tensor([[0.0, 1.0, 2.0]]), room, total)
    torch.testing.assert_close(unequal, torch.tensor([[0.0, 4 / 3, 8 / 3]]))
    rank = torch.tensor([[2.0, 1.0, 3.0]])
    assert greedy_fill(one, rank, room, total).tolist() == [[1.0, 0.0, 3.0]]
    assert greedy_fill(2 * one, rank, room, total).tolist() == [[0.0, 0.0, 2.0]]


def test_a_coordinate_stays_full_where_the_rest_of_the_slope_is_lost_in_rounding() -> None:
    # The first coordinate alone spends the total, to the last bit; what is left for the others is 0.
    price, room = torch.tensor([[1.0, 1e-12]]), torch.tensor([[0.5, 0.9]])
    amount = water_fill(price, torch.ones(1, 2), room, torch.tensor([[0.5]]))
    assert amount[0, 0] == 0.5


def test_a_total_that_rounding_has_overspent_moves_no_other_coordinate() -> None:
    # In float32 the first coordinate is full and costs one unit in the last place more than the total.
    price, room = torch.tensor([[0.8161531686782837, 1e-12]]), torch.tensor([[0.5810190439224243, 0.9]])
    total = torch.tensor([[0.4742005169391632]])
    assert (price * room)[0, 0] > total
    assert water_fill(price, torch.ones(1, 2), room, total).tolist() == [[room[0, 0].item(), 0.0]]
