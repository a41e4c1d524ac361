"""AWP by the images of small or large loss alone, against gradients worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import everything, images
from robustlens.errors import ConfigError, NumericsError
from robustlens.weights.counted_images import CountedImages

INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
TARGETS = torch.tensor([2.0, 4.5, 9.0, 2.5], dtype=torch.float64)
# At w = (3, 4), of length 5: residuals w x - t of 1, -0.5, -2 and -0.5, losses 0.5, 0.125, 2 and 0.125.
# Gradients: residual times input.
GRADIENT = {
    ("small-loss", 0.5): (1.0 + 0.0 - 1.0, -0.5 + 0.5),  # images 0, 1 and 3: they cancel
    ("small-loss", 0.4): (-1.0, 0.0),  # images 1 and 3
    ("large-loss", 0.4): (1.0 - 2.0, -2.0),  # images 0 and 2
    ("large-loss", 0.5): (-2.0, -2.0),  # image 2
    ("large-loss", 2.0): (0.0, 0.0),  # none
    ("small-loss", 0.1): (0.0, 0.0),  # none
    ("small-loss", 3.0): (-2.0, -2.0),  # all
}


def line():
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    return model


def squares(model, rows=slice(None)):
    return lambda: 0.5 * (model(INPUTS[rows]).squeeze(1) - TARGETS[rows]).square()


@pytest.mark.parametrize(("choice", "gradient"), GRADIENT.items())
@pytest.mark.parametrize("parts", [[slice(None)], [slice(0, 3), slice(3, 4)], [slice(0, 1), slice(1, 4)]])
def test_the_perturbation_is_along_the_gradient_of_the_images_that_count(choice, gradient, parts):
    model = line()
    awp = rl.AdversarialWeightPerturbation(model, 0.1, images=choice[0], loss_threshold=choice[1])
    with awp.perturbed([squares(model, rows) for rows in parts]):
        moved = (model.weight - torch.tensor([[3.0, 4.0]])).flatten().tolist()
    length = math.hypot(*gradient)
    expected = [0.1 * 5.0 * part / length if length else 0.0 for part in gradient]
    assert moved == pytest.approx(expected, abs=1e-12)
    assert model.weight.flatten().tolist() == [3.0, 4.0]


def test_each_step_counts_the_images_anew():
    # One weight 1, images (x, t) = (1, 0) of loss 0.5 and (1, 2.9) of loss 1.805, threshold 0.55. The first
    # step, by 0.05, follows the first image alone to a loss of 1.05^2 / 2 = 0.551: then none counts.
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(1.0)
    x, t = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0.0, 2.9], dtype=torch.float64)
    awp = rl.AdversarialWeightPerturbation(model, 0.1, steps=2, images="small-loss", loss_threshold=0.55)
    with awp.perturbed(lambda: 0.5 * (model(x).squeeze(1) - t).square()):
        assert model.weight.item() == pytest.approx(1.05, abs=1e-12)


def test_where_every_image_counts_it_is_the_perturbation_of_all():
    model, (x, y) = everything().eval().requires_grad_(True).double(), images()
    x = x.double()
    every = rl.AdversarialWeightPerturbation(model, 0.01)
    counted = rl.AdversarialWeightPerturbation(model, 0.01, images="small-loss", loss_threshold=100.0)
    moved = []
    for awp, reduction in ((every, "mean"), (counted, "none")):
        with awp.perturbed(lambda how=reduction: F.cross_entropy(model(x), y, reduction=how)):
            moved.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-15) for a, b in zip(*moved, strict=True))


def test_a_scaler_scales_no_threshold():
    class Factor:
        def scale(self, outputs):
            return outputs * 4096.0

    model = line()
    awp = rl.AdversarialWeightPerturbation(model, 0.1, images="small-loss", loss_threshold=0.4)
    with awp.perturbed(squares(model), scaler=Factor()):
        assert model.weight.flatten().tolist() == pytest.approx([2.5, 4.0])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("images", ["small-loss", "large-loss"])
def test_a_loss_that_is_not_finite_counts_and_is_an_error(images, broken):
    model = line()
    awp = rl.AdversarialWeightPerturbation(model, 0.1, images=images, loss_threshold=0.4)
    factors = torch.tensor([1.0, broken, 1.0, 1.0])
    with pytest.raises(NumericsError, match="not finite"), awp.perturbed(lambda: squares(model)() * factors):
        pass
    assert model.weight.flatten().tolist() == [3.0, 4.0]


def test_a_mean_where_each_images_loss_is_needed_is_refused():
    model = line()
    awp = rl.AdversarialWeightPerturbation(model, 0.1, images="small-loss", loss_threshold=0.4)
    said = r"awp.images: found a loss of shape \(\) with 'small-loss', expected .* each image's loss \(n,\)"
    with pytest.raises(ConfigError, match=said), awp.perturbed(lambda: squares(model)().mean()):
        pass


def test_choices_that_do_not_go_together_are_refused():
    model = line()
    for options, said in (
        ({"images": "small-loss"}, "awp.loss_threshold: found None with images 'small-loss'"),
        ({"loss_threshold": 1.0}, "awp.loss_threshold: found 1.0 with images 'all'"),
        ({"images": "large-loss", "loss_threshold": 0.0}, "expected a finite number > 0"),
        ({"images": "large-loss", "loss_threshold": math.inf}, "expected a finite number > 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            rl.AdversarialWeightPerturbation(model, **options)
    with pytest.raises(
        ConfigError, match=r"awp.images: found 'few', expected all or small-loss or large-loss"
    ):
        CountedImages("few", 1.0)
    awp = rl.AdversarialWeightPerturbation(model, images="small-loss", loss_threshold=1.0)
    with (
        pytest.raises(ConfigError, match="from_attack: the attack's gradient is of all images"),
        awp.perturbed_along([torch.ones_like(model.weight)]),
    ):
        pass
