"""Curvature of the adversarial loss: freedom from scale, and the images that it is taken at."""

import numpy as np
import pytest
import torch

import robustlens as rl
from helpers.relu_networks import data, network
from helpers.small_models import Snapshot, everything, images
from robustlens.explain.curvature import curvature
from robustlens.explain.hessian import Hessian


def test_rescaled_layers_have_the_same_relative_curvature_and_another_plain_one():
    """ReLU(c W x + c b) = c ReLU(W x + b): the next layer by 1/c leaves the function as it was."""
    x, y = data()
    threat = rl.ThreatModel("Linf", 0.05)
    model, scaled = network(), network()
    with torch.no_grad():
        scaled[0].weight.mul_(7)
        scaled[0].bias.mul_(7)
        scaled[2].weight.div_(7)
    one, other = (curvature(each, x, y, threat, lanczos_steps=45, draws=3) for each in (model, scaled))
    for name in ("relative_eigenvalues", "relative_trace"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-8)
    assert not np.isclose(other["eigenvalues"][0], one["eigenvalues"][0], rtol=0.1)


def test_the_scale_of_the_logits_leaves_the_relative_hessian_as_it_is():
    """Without an attack: one on the cross entropy of other logits finds other images."""
    model, louder = network(), network()
    x, _ = data(40)
    y = model(x).argmax(1)
    y[:10] = (y[:10] + 1) % 3  # some mistakes, or the best temperature is the coldest that is looked for
    with torch.no_grad():
        louder[2].weight.mul_(3)
        louder[2].bias.mul_(3)
    options = {"lanczos_steps": 45, "draws": 3}
    one, other = (curvature(each, x, y, rl.ThreatModel("Linf", 0.0), **options) for each in (model, louder))
    np.testing.assert_allclose(
        other["relative_eigenvalues"], one["relative_eigenvalues"], rtol=1e-6, atol=1e-9
    )
    assert not np.isclose(other["trace"].mean(), one["trace"].mean(), rtol=0.1)


def test_the_adversarial_images_are_those_of_w_and_the_model_is_left_alone():
    model, (x, y) = everything(), images(8)
    before = Snapshot(model)
    found = curvature(model, x, y, rl.ThreatModel("Linf", 0.1), lanczos_steps=3, draws=1, eigenvalues=2)
    before.assert_unchanged()
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=10)
    at_them = Hessian(model, attack(model, x, y), y)
    start = torch.randint(0, 2, (at_them.size,), generator=rl.noise.generator_for(0, 1)) * 2.0 - 1
    assert found["trace"][0] == pytest.approx(float(start @ at_them.matvec(start)), rel=1e-3)
    assert found["eigenvalues"].shape == found["residuals"].shape == (2,)
