"""Average-case and worst-case flatness against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from helpers.two_classes import data, linear
from robustlens import noise
from robustlens.errors import ConfigError, DataError
from robustlens.explain.flatness import (
    adversarial_perturbation,
    flatness,
    measure_flatness,
    perturbed_tensors,
    random_perturbation,
)
from robustlens.explain.landscape import AdversarialLoss


def adversarial_loss(weight, bias, x, y, eps):
    """Of a linear model with two classes: the margin falls by eps ||w_0 - w_1||_1."""
    gap, shift = weight[0] - weight[1], bias[0] - bias[1]
    margin = torch.where(y == 0, 1.0, -1.0).double() * (x @ gap + shift) - eps * gap.abs().sum()
    return F.softplus(-margin)


def test_the_average_case_of_a_linear_model_equals_its_formula():
    model, (x, y) = linear(), data()
    threat = rl.ThreatModel("Linf", 0.07)
    found = flatness(model, x, y, threat, draws=3, xi_average=0.4, seed=5, batch_size=7)
    weight, bias = model.weight.detach(), model.bias.detach()
    here = adversarial_loss(weight, bias, x, y, 0.07)
    np.testing.assert_allclose(found["reference_loss"], here.numpy(), rtol=1e-5)
    for draw in range(3):
        nu = random_perturbation(model, 0.4, noise.generator_for(5, draw))
        there = adversarial_loss(weight + nu["weight"], bias + nu["bias"], x, y, 0.07)
        np.testing.assert_allclose(found["average_loss"][draw], there.numpy(), rtol=1e-5)


@pytest.mark.parametrize("xi", [0.003, 0.3])
def test_the_worst_case_of_a_linear_model_on_one_image_equals_its_formula(xi):
    """The gradient by W is along (e_other - e_y) x' everywhere, so the worst point of each ball is known."""
    model, (x, y) = linear(), data(1)
    found = flatness(model, x, y, rl.ThreatModel("Linf", 0.0), draws=1, xi_worst=xi)
    weight, bias = model.weight.detach(), model.bias.detach()
    sides = torch.tensor([-1.0, 1.0]).double() if y[0] == 0 else torch.tensor([1.0, -1.0]).double()
    steepest = sides[:, None] * x
    weight = weight + xi * weight.norm() * steepest / steepest.norm()
    bias = bias + xi * bias.norm() * sides / sides.norm()
    worst = adversarial_loss(weight, bias, x, y, 0.0)
    np.testing.assert_allclose(found["worst_loss"], worst.numpy(), rtol=1e-5)


def test_the_worst_case_of_two_classes_under_attack_is_found_on_one_image():
    """Where no gap changes its sign, x moves by -s eps sign(gap) at all weights of the ball, s = 1 for class 0."""
    model, (x, y) = linear(), data(1)
    xi, eps = 0.003, 0.05
    gap = (model.weight[0] - model.weight[1]).detach()
    assert gap.abs().min() > 2 * xi * model.weight.norm()  # no sign changes in the ball
    found = flatness(model, x, y, rl.ThreatModel("Linf", eps), draws=1, xi_worst=xi)
    side = 1.0 if y[0] == 0 else -1.0
    steepest = x[0] - eps * side * gap.sign()
    sides = -side * torch.tensor([1.0, -1.0]).double()
    weight = model.weight.detach() + xi * model.weight.detach().norm() * torch.outer(
        sides / 2**0.5, steepest / steepest.norm()
    )
    bias = model.bias.detach() + xi * model.bias.detach().norm() * sides / 2**0.5
    worst = adversarial_loss(weight, bias, x, y, eps)
    np.testing.assert_allclose(found["worst_loss"], worst.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(5), nn.RMSNorm(5), nn.GroupNorm(1, 5), nn.BatchNorm1d(5)], ids=str
)
def test_no_kind_of_normalisation_layer_is_perturbed(norm):
    assert list(perturbed_tensors(nn.Sequential(nn.Linear(3, 5), norm))) == ["0.weight", "0.bias"]


def test_perturbations_have_the_size_of_every_tensor_and_leave_normalisation_layers():
    model = everything()
    assert set(perturbed_tensors(model)) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    threat = rl.ThreatModel("Linf", 0.05)
    x, y = images()
    attacked = AdversarialLoss.under_pgd(model, x, y, threat, steps=2, where="flatness")
    drawn = random_perturbation(model, 0.5, torch.Generator().manual_seed(0))
    worst = adversarial_perturbation(attacked, threat, 0.02, ascents=8)
    for xi, nu in ((0.5, drawn), (0.02, worst)):
        assert set(nu) == set(perturbed_tensors(model))
        for name, weight in perturbed_tensors(model).items():
            assert float(nu[name].norm()) == pytest.approx(xi * float(weight.norm().detach()), rel=1e-4)


def test_the_worst_case_is_worse_than_random_points_of_the_same_size():
    model, (x, y) = everything().eval(), images(24)
    threat = rl.ThreatModel("Linf", 0.03)
    found = flatness(model, x, y, threat, xi_average=0.02, draws=10, xi_worst=0.02, steps=4)
    rise = found["average_loss"].mean(1) - found["reference_loss"].mean()
    assert found["worst_loss"].mean() - found["reference_loss"].mean() > 2 * rise.max()


def test_rescaled_layers_are_as_flat():
    """ReLU(c W x + c b) = c ReLU(W x + b): the next layer by 1/c leaves the function as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    x, y = data()
    threat = rl.ThreatModel("Linf", 0.05)
    one = flatness(model, x, y, threat, draws=2, xi_worst=0.05, ascents=6)
    with torch.no_grad():
        model[0].weight.mul_(8)
        model[0].bias.mul_(8)
        model[2].weight.div_(8)
    other = flatness(model, x, y, threat, draws=2, xi_worst=0.05, ascents=6)
    for name in ("average_loss", "worst_loss", "average_matched", "worst_matched"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-5)
        assert abs(one[name] - one[f"reference_{name.split('_')[1]}"]).max() > 1e-3


def test_the_model_is_left_alone_and_the_numbers_follow_from_the_arrays():
    model, (x, y) = everything(), images()
    before = Snapshot(model)
    flatness(model, x, y, rl.ThreatModel("Linf", 0.05), draws=2, ascents=2, steps=2)
    before.assert_unchanged()


def test_the_measure_has_the_rises_of_its_first_split_and_says_how_far_it_is():
    (x, y), (x_test, y_test) = images(20), images(14)
    pixels, pixels_test = ((part * 255).round().to(torch.uint8) for part in (x, x_test))
    splits = rl.data.from_tensors(pixels, y, pixels_test, y_test, classes=tuple("abcde"))
    events = []
    subject = rl.explain.Subject(
        everything().eval(), splits.train, splits.test, rl.ThreatModel("Linf", 0.05), progress=events.append
    )
    options = {"draws": 2, "ascents": 2, "steps": 2, "xi_worst": 0.02, "examples": 10}
    both = measure_flatness(subject, splits=("train", "test"), **options)
    for case, draws in (("average", 2), ("worst", 1)):
        for kind in ("loss", "matched", "error"):
            there, here = both.arrays[f"train_{case}_{kind}"], both.arrays[f"train_reference_{kind}"]
            assert there.size == draws * here.size == draws * 10
            rise = there.reshape(draws, 10).astype(float) - here.astype(float)
            assert both.value[case][kind] == pytest.approx(rise.mean(), abs=1e-9, nan_ok=kind == "matched")
    assert both.conditions["split"] == "train"
    assert both.conditions["examples"] == 10
    whats = ("average case", "average case", "worst case")
    assert [(event.phase, event.done, event.total, event.note) for event in events] == [
        ("flatness", done, 3, what) for done, what in enumerate(whats, 1)
    ] * 2
    alone = measure_flatness(subject, **options)
    assert alone.value["average"] != both.value["average"]
    for name, array in alone.arrays.items():
        np.testing.assert_array_equal(both.arrays[name], array)


def test_wrong_arguments_are_refused():
    model, (x, y) = linear(), data()
    threat = rl.ThreatModel("Linf", 0.05)
    with pytest.raises(ConfigError, match="0 draws"):
        flatness(model, x, y, threat, draws=0)
    with pytest.raises(ConfigError, match="sizes -1"):
        flatness(model, x, y, threat, xi_average=-1)
    with pytest.raises(DataError, match="0 images"):
        flatness(model, x[:0], y[:0], threat)
