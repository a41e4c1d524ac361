"""Sharpness-aware minimization."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

from helpers.small_models import everything, images
from robustlens.weights import SharpnessAwareMinimization


def test_sam_moves_everything_by_rho_along_the_gradient():
    model, (x, y) = everything().eval().requires_grad_(True), images()
    before = [p.detach().clone() for p in model.parameters()]
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    length = torch.cat([g.flatten() for g in gradient]).norm()
    with SharpnessAwareMinimization(model, rho=0.3).perturbed(lambda: F.cross_entropy(model(x), y)):
        for p, w, g in zip(model.parameters(), before, gradient, strict=True):
            assert torch.allclose(p.detach(), w + 0.3 * g / length, atol=1e-6)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
