"""Random weight perturbation."""

import pytest
import torch

from helpers.small_models import everything
from robustlens.weights import RandomWeightPerturbation


def test_rwp_has_the_size_of_awp_and_the_direction_of_its_generator():
    model = everything().eval().requires_grad_(True)
    rwp = RandomWeightPerturbation(model, gamma=0.02)

    def offsets(seed):
        return rwp.offsets([], None, torch.Generator().manual_seed(seed))

    first, again, other = offsets(1), offsets(1), offsets(2)
    for weight, a, b, c in zip(rwp.weights(), first, again, other, strict=True):
        assert float(a.norm() / weight.detach().norm()) == pytest.approx(0.02, rel=1e-5)
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
