"""Adversarial weight perturbation against a plain re-derivation."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import everything, everything_in_training, images
from robustlens.errors import ConfigError


def test_each_tensor_moves_by_gamma_of_its_norm_along_its_gradient():
    model, (x, y) = everything_in_training(), images()
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


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_steps_agree_with_the_published_update(weight_decay):
    """Re-derived plainly: gradient at w + v, taken from w; decay acts on w (theirs: on w + v)."""
    model, (x, y) = everything_in_training(), images()
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


def published_ascent(model, loss_of, x_adv_of, gamma, steps, alternations):
    """Algorithm 1 of Wu et al. 2020 in plain code: {name: v}, of weights with two or more dimensions."""
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in w.items() if p.ndim > 1}
    for round_ in range(alternations):
        x_adv = x_adv_of(model, round_)
        for _ in range(steps):
            named = dict(model.named_parameters())
            gradients = torch.autograd.grad(loss_of(model, x_adv), [named[name] for name in v])
            for name, gradient in zip(v, gradients, strict=True):
                moved = v[name] + gamma / steps * w[name].norm() * gradient / gradient.norm()
                longest = gamma * w[name].norm()
                v[name] = moved * min(1.0, float(longest / moved.norm()))
                named[name].data = w[name] + v[name]
    for name, p in model.named_parameters():
        p.data = w[name]
    return v


@pytest.mark.parametrize("alternations", [1, 2])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_the_perturbation_agrees_with_the_published_algorithm(objective, steps, alternations):
    model, (x, y) = everything().eval().requires_grad_(True).double(), images()
    x = x.double()
    chosen = rl.objectives.get(objective)

    def crafted(network, round_):
        # Stands for the attack: depends on the weights as they are, and on the round.
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(leaf), y, reduction="sum"), leaf)
        return (x + 0.05 * (1 + round_) * slope.sign()).clamp(0, 1)

    def loss_of(network, x_adv):
        return chosen(network, x, x_adv, y).mean()

    expected = published_ascent(model, loss_of, crafted, 0.01, steps, alternations)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = {"x_adv": crafted(model, 0), "round": 0}

    def craft():
        batch["round"] += 1
        batch["x_adv"] = crafted(model, batch["round"])

    awp = rl.AdversarialWeightPerturbation(model, 0.01, steps=steps, alternations=alternations)
    with awp.perturbed(lambda: loss_of(model, batch["x_adv"]), craft=craft):
        moved = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    for name, v in expected.items():
        assert torch.allclose(moved[name], v, rtol=1e-6, atol=1e-12), name
    assert batch["round"] == alternations - 1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_micro_batches_give_the_perturbation_of_the_whole_batch():
    model, (x, y) = everything().eval().requires_grad_(True).double(), images()
    x = x.double()
    awp = rl.AdversarialWeightPerturbation(model, 0.01)

    def share(rows):
        return lambda: F.cross_entropy(model(x[rows]), y[rows], reduction="sum") / len(x)

    whole = awp.offsets([share(slice(None))])
    parts = awp.offsets([share(slice(0, 3)), share(slice(3, None))])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-15) for a, b in zip(whole, parts, strict=True))


def test_wrong_settings_are_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="gamma"):
        rl.AdversarialWeightPerturbation(model, gamma=-1)
    with pytest.raises(ConfigError, match="awp: the model has no trainable weight"):
        rl.AdversarialWeightPerturbation(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match=r"found steps 0, alternations 1"):
        rl.AdversarialWeightPerturbation(model, steps=0)
    with pytest.raises(ConfigError, match=r"found steps 1, alternations 0"):
        rl.AdversarialWeightPerturbation(model, alternations=0)
    awp = rl.AdversarialWeightPerturbation(model, alternations=2)
    with pytest.raises(ConfigError, match="craft"), awp.perturbed(lambda: model.weight.sum()):
        pass
