"""Adversarial weight perturbation against a plain re-derivation, and the running average."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from robustlens.errors import ConfigError, NumericsError
from robustlens.weights import bound_singular_values
from small_models import Snapshot, everything, images


def training_model():
    """All modules in train mode, everything trainable: as in a training step."""
    model = everything().train().requires_grad_(True)
    model.drop.p = 0.0
    return model


def test_each_tensor_moves_by_gamma_of_its_norm_along_its_gradient():
    model, (x, y) = training_model(), images()
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.013)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = dict(zip(before, torch.autograd.grad(loss_fn(), list(model.parameters())), strict=True))
    with awp.perturbed(loss_fn):
        for name, p in model.named_parameters():
            moved = p.detach() - before[name]
            if p.ndim == 1:
                assert torch.equal(p, before[name]), f"{name} has one dimension and moved"
                continue
            assert moved.norm() / before[name].norm() == pytest.approx(0.013, rel=1e-5)
            cosine = F.cosine_similarity(moved.flatten(), gradients[name].flatten(), dim=0)
            assert cosine == pytest.approx(1.0, abs=1e-4)


def test_restores_everything_bit_for_bit_and_accumulates_nothing():
    model, (x, y) = training_model(), images()
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.01)
    with awp.perturbed(lambda: F.cross_entropy(model(x), y)):
        pass
    before.assert_unchanged()


def test_restores_everything_when_the_body_raises():
    model, (x, y) = training_model(), images()
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.5)
    with pytest.raises(ZeroDivisionError), awp.perturbed(lambda: F.cross_entropy(model(x), y)):
        raise ZeroDivisionError
    before.assert_unchanged()


def test_batchnorm_sees_the_descent_pass_only():
    model, (x, y) = training_model(), images()
    reference = copy.deepcopy(model)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.0)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    with awp.perturbed(loss_fn):
        loss_fn().backward()
    F.cross_entropy(reference(x), y).backward()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, reference.get_buffer(name)), name
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_dropout_draws_the_same_mask_in_both_passes():
    model, (x, y) = training_model(), images()
    model.drop.p = 0.5
    masks = []
    model.drop.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.0)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    with awp.perturbed(loss_fn):
        loss_fn().backward()
    assert torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_steps_agree_with_the_published_update(weight_decay):
    """Re-derived plainly: gradient at w + v, taken from w; decay acts on w (theirs: on w + v)."""
    model, (x, y) = training_model(), images()
    plain = copy.deepcopy(model)
    gamma, rate = 0.01, 0.1
    awp = rl.AdversarialWeightPerturbation(model, gamma)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=weight_decay)

    def loss_fn():
        return F.cross_entropy(model(x), y)

    for _ in range(3):
        optimizer.zero_grad()
        with awp.perturbed(loss_fn):
            loss_fn().backward()
        optimizer.step()

        parameters = list(plain.parameters())
        ascent = torch.autograd.grad(F.cross_entropy(plain(x), y), parameters)
        v = [
            gamma * p.norm() / (g.norm() + 1e-20) * g if p.ndim > 1 else torch.zeros_like(p)
            for p, g in zip(parameters, ascent, strict=True)
        ]
        with torch.no_grad():
            for p, step in zip(parameters, v, strict=True):
                p += step
        descent = torch.autograd.grad(F.cross_entropy(plain(x), y), parameters)
        with torch.no_grad():
            for p, step, g in zip(parameters, v, descent, strict=True):
                p -= step
                p -= rate * (g + weight_decay * p)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_body_sees_the_perturbed_weights_inside_one_autocast():
    """Autocast keeps low-precision copies of weights; those of the ascent pass must not serve the body."""
    model, x = nn.Linear(30, 10), torch.rand(8, 30)

    def loss_fn():
        return model(x).float().square().mean()

    awp = rl.AdversarialWeightPerturbation(model, gamma=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        at_w = loss_fn().item()
        with awp.perturbed(loss_fn):
            inside = loss_fn().item()
        assert inside > 1.05 * at_w
        assert loss_fn().item() == at_w


def test_frozen_and_unused_weights_stay():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3), "frozen": nn.Linear(4, 3)})
    model["frozen"].requires_grad_(False)
    x = torch.rand(5, 4)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with awp.perturbed(lambda: (model["used"](x) + model["frozen"](x)).square().sum()):
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["used.weight"]


def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing():
    model = nn.Linear(4, 3)
    before = Snapshot(model)
    awp = rl.AdversarialWeightPerturbation(model)
    with (
        pytest.raises(NumericsError, match="not finite"),
        awp.perturbed(lambda: model(torch.ones(1, 4)).sum() * torch.inf),
    ):
        pass
    before.assert_unchanged()


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="gamma"):
        rl.AdversarialWeightPerturbation(nn.Linear(2, 2), gamma=-1)
    with pytest.raises(ConfigError, match="two or more dimensions"):
        rl.AdversarialWeightPerturbation(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="decay"):
        rl.ExponentialMovingAverage(nn.Linear(2, 2), 1.0)


def test_the_running_average_follows_its_formula():
    model = nn.Linear(3, 2)
    ema = rl.ExponentialMovingAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for t in range(40):
        with torch.no_grad():
            model.weight += 0.1 * (t + 1)
        ema.update()
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.average.weight, expected, rtol=1e-5, atol=1e-6)
    assert not ema.average.weight.requires_grad


# -- capacity ------------------------------------------------------------------------------------------


def test_singular_values_are_clipped_and_their_vectors_stay():
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    layer = nn.Conv2d(2, 3, (1, 3))  # the matrix (3, 2 * 1 * 3)
    with torch.no_grad():
        layer.weight.copy_((torch.diag(torch.tensor([4.0, 1.0, 0.1])) @ q[:3]).view(3, 2, 1, 3))
    bias = layer.bias.detach().clone()
    bound_singular_values(layer, 0.5, 2.0)
    expected = torch.diag(torch.tensor([2.0, 1.0, 0.5])) @ q[:3]
    assert torch.allclose(layer.weight.detach().flatten(1), expected, atol=1e-6)
    assert torch.equal(layer.bias, bias)


def test_a_cap_alone_leaves_small_values():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))
    bound_singular_values(layer, 0.0, 1.0)
    assert torch.allclose(layer.weight, torch.tensor([[1.0, 0.0], [0.0, 0.2]]), atol=1e-6)


def test_frozen_weights_are_not_clipped_and_broken_ones_are_refused_before_any_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    bound_singular_values(model, 5.0, 6.0)
    assert torch.equal(model[0].weight, frozen)
    assert torch.allclose(torch.linalg.svdvals(model[1].weight.detach()), torch.full((3,), 5.0))
    model[0].weight.requires_grad_(True)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="NaN or infinite"):
        bound_singular_values(model, 0.0, 1.0)
    assert torch.equal(model[0].weight, frozen)
