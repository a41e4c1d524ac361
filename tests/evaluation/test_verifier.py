"""Points count where the model is wrong beyond rounding, inside the threat model."""

import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens.evaluation.verifier import Verifier, within


def test_a_success_has_to_hold_in_float64_too():
    class Shifted(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], torch.full_like(x[:, 0], 0.5)], 1)

    exact = Shifted()
    exact.forward = lambda x: torch.stack([x[:, 0] + 1e-9, torch.full_like(x[:, 0], 0.5)], 1)
    x = torch.tensor([[0.5 - 1e-7], [0.4], [0.6]])
    x[0] = 0.5  # float32 ties go to class 0, so make class 1 the label
    y = torch.tensor([1, 0, 0])
    assert Verifier(Shifted(), None).misclassified(x, y, x).tolist() == [True, True, False]
    never = Shifted()
    never.forward = lambda x: torch.stack([x[:, 0] - 1e-9, torch.full_like(x[:, 0], 0.5)], 1)
    assert Verifier(Shifted(), never).misclassified(x, y, x).tolist() == [False, True, False]
    assert Verifier(Shifted(), exact).misclassified(x, y, x).tolist() == [True, True, False]


def test_nan_is_wrong_whatever_float64_says():
    class Broken(nn.Module):
        def forward(self, x):
            return x * float("nan")

    verifier = Verifier(Broken(), nn.Identity())
    assert verifier.misclassified(torch.eye(3), torch.arange(3), torch.eye(3)).tolist() == [True, True, True]


class Logits(nn.Module):
    """Logits that are the images; the exact copy of it finds class 1 everywhere."""

    def __init__(self, always_one: bool = False) -> None:
        super().__init__()
        self.always_one = always_one

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0]).to(x).expand(len(x), 2) if self.always_one else x


def test_float64_is_asked_up_to_a_thousandth_of_the_largest_logit():
    # Margins of class 0 over the label 1: 0.9 and 1.1 thousandths of the largest logit, of either sign.
    points = torch.tensor([[2.0, 1.9982], [2.0, 1.9978], [-1.9982, -2.0], [-1.9978, -2.0]])
    verifier = Verifier(Logits(), Logits(always_one=True))
    wrong = verifier.misclassified(points, torch.ones(4, dtype=torch.int64), points)
    assert wrong.tolist() == [False, True, False, True]


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0), (100.0, 355.0)])
def test_a_millionth_of_the_box_is_rounding(box):
    threat, width = rl.ThreatModel("Linf", 0.25, box), box[1] - box[0]
    distance = torch.tensor([0.2, 0.25, 0.25 + 0.9e-6 * width, 0.25 + 1.1e-6 * width, torch.nan]).double()
    assert within(distance, threat, 0.25).tolist() == [True, True, True, False, False]
    assert within(distance, threat, 0.1).tolist() == [False] * 5
    assert within(torch.tensor([0.25 + 1e-6 * width], dtype=torch.float64), threat, 0.25).all()
