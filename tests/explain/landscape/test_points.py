"""The adversarial loss at one point, against a plain loop."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.small_models import images
from robustlens import noise
from robustlens.explain import landscape
from robustlens.explain.landscape import filter_normalised


def plain_loop(model, x, y, threat, alphas, steps):
    """One point at a time, as scripts write it; the most harmful iterate counts, as in `PGD`."""
    direction = filter_normalised(model, noise.generator_for(0, 0))
    saved = {name: model.get_parameter(name).detach().clone() for name in direction}
    start, points = threat.start_from(noise.fold(noise.keys(x, 0), 0), x), []
    for alpha in alphas:
        with torch.no_grad():
            for name, d in direction.items():
                model.get_parameter(name).copy_(saved[name] + alpha * d)
            clean = model(x)
        best, won, x_adv = F.cross_entropy(clean, y, reduction="none"), clean.argmax(1) != y, start
        for step in range(steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = model(x_adv)
            loss, wrong = F.cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y
            better = torch.where(won == wrong, loss > best, wrong)
            best, won = torch.where(better, loss.detach(), best), won | wrong
            if step < steps:
                (slope,) = torch.autograd.grad(loss.sum(), x_adv)
                x_adv = x_adv.detach() + threat.default_step_size * slope.sign()
                x_adv = torch.min(torch.max(x_adv, x - threat.eps), x + threat.eps).clamp(0, 1)
        points.append(best.detach().numpy())
    return np.stack(points)


def test_the_fast_path_equals_a_plain_loop():
    """A network with BatchNorm to fold, in the float64 in which no sign of a gradient is a matter of rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).double()
    x, y = images(20, torch.float64)
    with torch.no_grad():
        model(x)  # statistics of its own
    model.eval()
    threat = rl.ThreatModel("Linf", 0.06)
    found = landscape(model, x, y, threat, alphas=(-0.5, 1.0), steps=4, batch_size=8)
    wanted = plain_loop(model, x, y, threat, (-0.5, 0.0, 1.0), 4)
    np.testing.assert_allclose(found["loss"][:, 0], wanted, atol=1e-5)
