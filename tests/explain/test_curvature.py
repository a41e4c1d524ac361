"""Curvature of the adversarial loss: freedom from scale, and the images that it is taken at."""

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.relu_networks import data, network
from helpers.small_models import Snapshot, everything, images
from robustlens.explain import Subject
from robustlens.explain.curvature import _summary, curvature, measure_curvature
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


def test_the_numbers_of_the_measure_are_those_of_a_dense_hessian():
    """At every Lanczos step that there is; its trace is the mean of three draws, with their standard error."""
    model = nn.Sequential(nn.Flatten(), *network().float()).eval()
    pixels = torch.randint(0, 256, (50, 1, 2, 3), dtype=torch.uint8)
    y = model(pixels / 255).argmax(1)
    y[::4] = (y[::4] + 1) % 3  # mistakes, or there is no matched temperature
    splits = rl.data.from_tensors(pixels[:30], y[:30], pixels[30:], y[30:], classes=tuple("abc"))
    subject = Subject(model, splits.train, splits.test, rl.ThreatModel("Linf", 0.05))
    found = measure_curvature(subject, examples=20, draws=3, lanczos_steps=6, eigenvalues=2, steps=2)
    x_test, y_test = subject.images("test", 20)
    x_adv = rl.attacks.PGD(subject.threat, steps=2, seed=subject.seed)(model, x_test, y_test)
    hessian = Hessian(model, x_adv, y_test)
    dense = torch.stack([hessian.matvec(row) for row in torch.eye(hessian.size)]).double()
    largest = float(torch.linalg.eigvalsh(dense)[-1])
    value = found.value
    assert value["top_eigenvalue"] == pytest.approx(largest, abs=value["top_residual"] + 1e-6)
    assert value["top_residual"] == found.arrays["test_residuals"][0] < found.arrays["test_residuals"][1]
    generator = rl.noise.generator_for(subject.seed, 1)
    signs = [torch.randint(0, 2, (hessian.size,), generator=generator).double() * 2 - 1 for _ in range(3)]
    draws = np.array([float(z @ dense @ z) for z in signs])
    assert value["trace"] == pytest.approx(draws.mean(), rel=1e-4)
    spread = ((draws - draws.mean()) ** 2).sum() / 2
    assert value["trace_error"] == pytest.approx((spread / 3) ** 0.5, rel=1e-4)
    assert value["relative_top_eigenvalue"] == found.arrays["test_relative_eigenvalues"].max()
    assert found.conditions["examples"] == 20


def test_contributions_of_images_have_the_numbers_as_their_means():
    x, y = data(20)
    y[:2] = (network()(x[:2]).argmax(1) + 1) % 3
    found = curvature(network(), x, y, rl.ThreatModel("Linf", 0.05), lanczos_steps=45, draws=3)
    for prefix in ("", "relative_"):
        assert found[f"{prefix}trace_images"].shape == (3, 20)
        np.testing.assert_allclose(found[f"{prefix}trace_images"].mean(1), found[f"{prefix}trace"], rtol=1e-9)
        np.testing.assert_allclose(
            found[f"{prefix}top_images"].mean(), found[f"{prefix}eigenvalues"][0], rtol=1e-9
        )


def test_a_network_that_is_always_right_has_no_curvature_at_matched_temperature():
    """At the coldest temperature looked at, e^-5, it was exactly 0: the flattest network of all."""
    x, _ = data(20)
    y = network()(x).argmax(1)
    found = curvature(network(), x, y, rl.ThreatModel("Linf", 0.0), lanczos_steps=5, draws=2)
    for name in ("eigenvalues", "residuals", "trace", "nodes", "weights", "top_images", "trace_images"):
        assert np.isnan(found[f"relative_{name}"]).all()
        assert found[f"relative_{name}"].shape == found[name].shape
        assert np.isfinite(found[name]).all()


def test_a_single_draw_has_no_standard_error():
    arrays = {"x_eigenvalues": np.array([3.0, 2.0]), "x_residuals": np.array([0.1, 0.2])}
    one = _summary({**arrays, "x_trace": np.array([5.0])}, "x_")
    assert one == {"x_top_eigenvalue": 3.0, "x_top_residual": 0.1, "x_trace": 5.0, "x_trace_error": 0.0}
    four = _summary({**arrays, "x_trace": np.array([1.0, 1.0, 3.0, 3.0])}, "x_")
    assert four["x_trace_error"] == pytest.approx((4 / 3) ** 0.5 / 2)
