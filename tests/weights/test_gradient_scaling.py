"""Weight perturbations in a loop of mixed precision with a gradient scaler."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

import robustlens as rl
from helpers.small_models import everything_in_training, images
from robustlens.errors import NumericsError
from robustlens.weights import PERTURBATIONS


class Factor:
    """A scaler of one factor."""

    def __init__(self, factor):
        self.factor = factor

    def scale(self, outputs):
        return outputs * self.factor


@pytest.mark.parametrize("name", ["awp", "sam"])
def test_the_perturbation_does_not_depend_on_the_scale(name):
    model, (x, y) = everything_in_training(), images()
    perturbation = PERTURBATIONS[name](model)
    moved = {}
    for scaler in (None, Factor(4096.0)):
        with perturbation.perturbed(lambda: F.cross_entropy(model(x), y), scaler=scaler):
            moved[scaler] = [p.detach().clone() for p in model.parameters()]
    plain, scaled = moved.values()
    for one, other, now in zip(plain, scaled, model.parameters(), strict=True):
        torch.testing.assert_close(one - now, other - now, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", list(PERTURBATIONS))
@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 1e38])
def test_where_the_scaled_loss_overflows_the_weights_stay(name, factor):
    model, (x, y) = everything_in_training(), images()
    perturbation = PERTURBATIONS[name](model)
    before = copy.deepcopy(list(model.parameters()))
    with perturbation.perturbed(lambda: 1e3 * F.cross_entropy(model(x), y), scaler=Factor(factor)):
        stayed = [torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True)]
    assert all(stayed) or name == "rwp"  # which does not look at the loss
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_without_a_scaler_a_loss_that_is_not_finite_stays_an_error():
    model, (x, y) = everything_in_training(), images()
    awp = rl.AdversarialWeightPerturbation(model)
    with (
        pytest.raises(NumericsError, match="not finite"),
        awp.perturbed(lambda: F.cross_entropy(model(x), y) * float("inf")),
    ):
        pass


def _scales(perturbs, steps=6):
    """Factors of the scaler before each step in float16, and in which steps the weights changed."""
    model, (x, y) = everything_in_training(), images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=100)
    awp = rl.AdversarialWeightPerturbation(model, gamma=0.01)

    def loss_fn():
        with torch.autocast("cpu", torch.float16):
            return 10 * F.cross_entropy(model(x), y)

    scales, changed = [], []
    for _ in range(steps):
        before = [p.detach().clone() for p in model.parameters()]
        scales.append(scaler.get_scale())
        optimizer.zero_grad()
        if perturbs:
            with awp.perturbed(loss_fn, scaler=scaler):
                scaler.scale(loss_fn()).backward()
        else:
            scaler.scale(loss_fn()).backward()
        scaler.step(optimizer)
        scaler.update()
        changed.append(any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)))
    return scales, changed


def test_steps_are_skipped_where_a_gradient_scaler_skips_them():
    scales, changed = _scales(perturbs=True)
    assert (scales, changed) == _scales(perturbs=False)
    assert not changed[0], "the first factor is meant to overflow"
    assert changed[-1]
    assert scales[-1] < scales[0]
