"""Points count where the model is wrong beyond rounding, inside the threat model."""

import torch
from torch import nn

from robustlens.evaluation.verifier import Verifier


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
