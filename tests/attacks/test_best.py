"""The best point of each image: what counts as better, and who still gets a turn."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustlens.attacks.base import Goal
from robustlens.attacks.best import Best, in_turn


def margins(y: Tensor) -> Goal:
    """Largest logit of another class minus that of the label."""
    return Goal.of(nn.Identity(), y, y, "margin", targeted=False)


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_a_point_that_fools_the_model_is_better_than_any_that_does_not_and_then_the_value_decides() -> None:
    best = Best(column(0.0, 0.0, 0.0, 0.0, 0.0))
    everyone = torch.arange(5)
    no, yes = torch.tensor([False]), torch.tensor([True])
    first = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
    best.offer(everyone, column(0.1, 0.1, 0.1, 0.1, 0.1), first, torch.cat([no, no, yes, yes, yes]))
    second = torch.tensor([1.5, 1.0, 9.0, 1.5, 0.5])
    best.offer(everyone, column(0.2, 0.2, 0.2, 0.2, 0.2), second, torch.cat([no, yes, no, yes, yes]))
    # Higher; fools now, at the same value; does not fool any more; higher; lower.
    torch.testing.assert_close(best.x_adv, column(0.2, 0.2, 0.1, 0.2, 0.1))
    assert best.value.tolist() == [1.5, 1.0, 1.0, 1.5, 1.0]
    assert best.won.tolist() == [False, True, True, True, True]
    # A point that fools replaces one that does not, though its value be lower.
    best.offer(torch.tensor([0]), column(0.3), torch.tensor([-7.0]), yes)
    assert (best.x_adv[0].item(), best.value[0].item(), best.won[0].item()) == (
        column(0.3).item(),
        -7.0,
        True,
    )


def test_the_first_of_equal_points_stays_and_rows_name_the_images() -> None:
    x = column(0.0, 0.25, 0.5)
    best = Best(x)
    assert best.value.tolist() == [-torch.inf] * 3
    best.offer(torch.tensor([2, 0]), column(0.9, 0.8), torch.tensor([2.0, 1.0]), torch.tensor([True, False]))
    torch.testing.assert_close(best.x_adv, column(0.8, 0.25, 0.9))
    assert best.value.tolist() == [1.0, -torch.inf, 2.0]
    assert best.won.tolist() == [False, False, True]
    best.offer(torch.tensor([0]), column(0.7), torch.tensor([1.0]), torch.tensor([False]))
    assert best.x_adv[0].item() == column(0.8).item()
    assert x.tolist() == column(0.0, 0.25, 0.5).tolist()


class Threshold(nn.Module):
    """Class 1 above a half; the logits are x and 1 - x."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([1 - x, x], 1)


def test_a_point_is_judged_by_the_models_own_logits() -> None:
    best = Best(column(0.1, 0.2, 0.9))
    goal = margins(torch.tensor([0, 0, 1]))
    best.judge(Threshold(), torch.tensor([0, 1, 2]), column(0.75, 0.25, 0.875), goal)
    # The margins of the other class are 2 x - 1 for label 0, 1 - 2 x for label 1.
    assert best.value.tolist() == [0.5, -0.5, -0.75]
    assert best.won.tolist() == [True, False, False]


@dataclass
class Moved:
    """An attack that puts every image at one place, and keeps a list of those that it was given."""

    to: float
    given: list[list[float]] = field(default_factory=list)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        self.given.append(x.flatten().tolist())
        return torch.where(x > 0.3, torch.full_like(x, self.to), x)


def test_each_attack_gets_what_the_ones_before_it_left() -> None:
    # The last image is wrong from the start: the first attack gets it all the same, no later one does.
    x, y = column(0.25, 0.375, 0.4375, 0.625), torch.zeros(4, dtype=torch.int64)
    weak, strong, late = Moved(0.46875), Moved(0.75), Moved(1.0)
    x_adv = in_turn([weak, strong, late], Threshold(), x, y, margins(y))
    assert weak.given == [[0.25, 0.375, 0.4375, 0.625]]
    assert strong.given == [[0.25, 0.375, 0.4375]]
    assert late.given == [[0.25]]  # which no attack moves
    # The image that was wrong keeps its own point: the weak attack's is right.
    assert x_adv.flatten().tolist() == [0.25, 0.75, 0.75, 0.625]


def test_with_nothing_left_no_attack_is_run() -> None:
    x, y = column(0.375, 0.4375), torch.zeros(2, dtype=torch.int64)
    strong, late = Moved(0.75), Moved(1.0)
    assert in_turn([strong, late], Threshold(), x, y, margins(y)).flatten().tolist() == [0.75, 0.75]
    assert late.given == []


def test_a_later_attack_that_does_worse_changes_nothing() -> None:
    x, y = column(0.375), torch.zeros(1, dtype=torch.int64)
    near, worse = Moved(0.46875), Moved(0.3125)
    x_adv = in_turn([near, worse], Threshold(), x, y, margins(y))
    assert worse.given == [[0.375]]  # every attack begins at the image
    assert x_adv.item() == 0.46875
