"""Training on interval bounds: against the float64 bounds of `certify`, and its schedule."""

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.known_networks import warm
from robustlens.certification import logits_and_worst
from robustlens.config import AttackSpec
from robustlens.errors import ConfigError, ModelError
from robustlens.objectives import IntervalBounds, after, get
from robustlens.objectives.intervals import Corner

EPS = 0.05


def network():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
    ]
    return nn.Sequential(rl.models.Normalize([0.4], [0.5]), *layers, nn.Flatten(), nn.Linear(16, 3))


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(5, 1, 7, 7, generator=generator), torch.tensor([0, 1, 2, 1, 0])


def corner(model, x, y):
    return Corner(rl.ThreatModel("Linf", EPS))(model, x, y)


def test_the_worst_logits_are_the_bounds_of_ibp():
    model = warm(network())
    x, y = data()
    box = ((x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1))
    logits, worst = logits_and_worst(model, x, box, y)
    lower = rl.certify(model, x, y, rl.ThreatModel("Linf", EPS), "ibp").margins
    torch.testing.assert_close(logits, model(x))
    others = lower < torch.inf
    torch.testing.assert_close(-worst.double()[others], lower[others], rtol=1e-4, atol=1e-4)
    assert (worst[~others] == 0).all()


def test_the_loss_mixes_clean_and_certain_cross_entropy():
    model, (x, y) = warm(network()), data()
    x_adv = corner(model, x, y)
    lower = rl.certify(model, x, y, rl.ThreatModel("Linf", EPS), "ibp").margins
    worst = (-lower).clamp_min(-1e9).scatter(1, y[:, None], 0.0).float()
    clean, certain = (nn.functional.cross_entropy(each, y, reduction="none") for each in (model(x), worst))
    for kappa in (0.0, 0.5, 1.0):
        found = get("ibp", kappa=kappa)(model, x, x_adv, y)
        torch.testing.assert_close(found, kappa * clean + (1 - kappa) * certain, rtol=1e-3, atol=1e-4)
    assert (certain > clean).all()


def test_in_train_mode_bounds_are_normalised_as_the_images_are():
    """At radius 0 the worst logits are those of the images, with the statistics of the batch."""
    model, (x, y) = network().train(), data()
    logits, worst = logits_and_worst(model, x, (x, x), y)
    torch.testing.assert_close(worst, logits - logits.gather(1, y[:, None]), rtol=1e-4, atol=1e-5)
    assert model[2].num_batches_tracked == 1
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(get("ibp")(model, x, corner(model, x, y), y).mean(), weights)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_a_batch_norm_that_runs_twice_is_refused_in_train_mode_alone():
    """Its two calls have statistics of their own, and bounds took those of the later for both."""
    torch.manual_seed(0)
    norm = warm(nn.BatchNorm1d(6))
    model = nn.Sequential(nn.Linear(6, 6), norm, nn.ReLU(), nn.Linear(6, 6), norm, nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.rand(8, 6), torch.arange(8) % 3
    logits, worst = logits_and_worst(model.eval(), x, (x, x), y)
    torch.testing.assert_close(worst, logits - logits.gather(1, y[:, None]), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ModelError, match="BatchNorm '1' runs more than once in a pass, expected one for each"
    ):
        logits_and_worst(model.train(), x, (x, x), y)


def test_the_gradient_is_that_of_the_loss():
    """Along random directions of all weights, against differences; the logits end in a pool and a linear layer."""
    torch.manual_seed(2)
    layers = [
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ]
    model, (x, y) = nn.Sequential(*layers).double(), data()
    x = x.double()
    x_adv, objective = corner(model, x, y), get("ibp", kappa=0.0)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(objective(model, x, x_adv, y).mean(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction, ends = torch.randn_like(weight), []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight += step * direction
                ends.append(objective(model, x, x_adv, y).mean().item())
                weight -= step * direction
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(
            (gradient * direction).sum().item(), rel=1e-4, abs=1e-7
        )


def test_weights_that_have_moved_are_bounded_as_they_are():
    model, (x, y) = warm(network()), data()
    before = get("ibp")(model, x, corner(model, x, y), y)
    with torch.no_grad():
        model[-1].weight.mul_(2.0)
    assert (get("ibp")(model, x, corner(model, x, y), y) != before).all()


def test_radius_and_kappa_change_along_training():
    objective = get("ibp", kappa=0.5, warmup=0.1, ramp=0.4)
    assert [after(objective, done).grown for done in (0.0, 0.1, 0.3, 0.5, 0.9)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    assert get("ibp", ramp=0.0).after(0.0).grown == 1.0
    assert after(get("at"), 0.3) == get("at")
    model, (x, y) = warm(network()), data()
    first = objective.after(0.0)(model, x, corner(model, x, y), y)
    torch.testing.assert_close(first, nn.functional.cross_entropy(model(x), y, reduction="none"))


def test_the_corner_tells_the_radius():
    x, y = data()
    x[0, 0, 0, 0] = 1.0
    x_adv = corner(nn.Identity(), x, y)
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, EPS))
    assert x_adv.max() <= 1
    for norm in ("L2", "L1"):
        build = IntervalBounds().inner_attack
        moved = (build(rl.ThreatModel(norm, 0.3), AttackSpec())(nn.Identity(), x, y) - x).abs().flatten(1)
        torch.testing.assert_close(moved.amax(1), torch.full((5,), 0.3))
        assert ((moved > 0).sum(1) == 1).all()


def test_what_it_cannot_do_is_refused():
    x, y = data()
    with pytest.raises(ConfigError, match="soft labels"):
        get("ibp")(network(), x, x, nn.functional.one_hot(y, 3).float())
    with pytest.raises(ModelError, match="has no rule for gelu"):
        get("ibp")(nn.Sequential(nn.Flatten(), nn.Linear(49, 3), nn.GELU()), x, x, y)
    with pytest.raises(ConfigError, match="kappa"):
        get("ibp", kappa=2.0)
