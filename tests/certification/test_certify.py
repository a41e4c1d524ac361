"""Certificates against closed forms, exact programs, attacks and points inside the ball."""

from collections import OrderedDict
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.exact_margins import exact_margin
from helpers.known_networks import warm
from helpers.small_models import Snapshot, everything, images
from robustlens.certification import CERTIFIERS, certify
from robustlens.certification.bounds import UNIT
from robustlens.errors import ConfigError, DataError, ModelError
from robustlens.models.preact_resnet import preact_resnet18
from robustlens.models.resnet import resnet
from robustlens.models.small import small_cnn
from robustlens.models.wide_resnet import wide_resnet

BOUNDS = ("ibp", "crown-ibp", "crown")


def relu_network(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, classes)]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.get_parameter("weight"))
        nn.init.normal_(layer.get_parameter("bias"), 0.0, 0.1)
    return nn.Sequential(*layers)


def labelled(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


# -- exact answers -------------------------------------------------------------------------------


def test_the_exact_margin_lies_between_certificate_and_attack():
    model, eps = relu_network(), 0.06
    x = torch.rand(24, 8, generator=torch.Generator().manual_seed(1))
    y, threat = labelled(model, x), rl.ThreatModel("Linf", eps)
    exact = torch.tensor([exact_margin(model, *pair, eps) for pair in zip(x, y.tolist(), strict=True)])
    x_adv = rl.attacks.PGD(threat, steps=20, loss="margin", restarts=3)(model, x, y)
    attacked = -rl.losses.margin(model(x_adv).detach(), y)
    assert 0 < int((exact < 0).sum()) < 24
    assert (attacked >= exact - 1e-5).all()
    found = [certify(model, x, y, threat, method) for method in BOUNDS]
    for verdict in found:
        assert (verdict.lower <= exact + 1e-6).all()
        assert not (verdict.certified & (attacked < 0)).any()
    ibp, crown_ibp, crown = (verdict.lower for verdict in found)
    assert (ibp <= crown_ibp).all()
    assert (ibp <= crown).all()
    assert crown.sum() > ibp.sum() + 1.0, "backward bounds are far tighter"
    assert int(found[2].certified.sum()) >= 0.5 * int((exact > 0).sum())


@pytest.mark.parametrize(("norm", "eps", "dual"), [("Linf", 0.1, 1), ("L2", 0.2, 2), ("L1", 0.3, torch.inf)])
@pytest.mark.parametrize("method", BOUNDS)
def test_the_margins_of_a_linear_network_are_exact(norm, eps, dual, method):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    x = 0.4 + 0.2 * torch.rand(5, 3, 2, 2, dtype=torch.float64)
    y = torch.arange(5) % 4
    found = certify(model, x, y, rl.ThreatModel(norm, eps), method)
    weight, logits = model[1].weight.detach(), model(x).detach()
    slopes = torch.linalg.vector_norm(weight[y][:, None] - weight, dual, dim=2)
    exact = logits.gather(1, y[:, None]) - logits - eps * slopes
    exact.scatter_(1, y[:, None], torch.inf)
    torch.testing.assert_close(found.margins, exact, rtol=0, atol=1e-9)
    assert (found.margins <= exact + 1e-15).all()


@pytest.mark.parametrize(
    ("norm", "exact"),
    [("Linf", 1.0 - 2 * 0.1 - 0.5), ("L2", 1.0 - 0.2 - 0.24**0.5), ("L1", 1.0 - 0.2 - 0.4)],
)
def test_pixel_bounds_tighten_a_certificate(norm, exact):
    """At x = (0.9, 0.5) the first pixel has room for 0.1, the second for 0.5; f_0 - f_1 falls by 2 and by 1."""
    model = nn.Linear(2, 2).double()
    model.weight.data = torch.tensor([[-1.0, -0.5], [1.0, 0.5]]).double()
    model.bias.data = torch.tensor([1.0 + 2 * 0.9 + 0.5, 0.0]).double()
    x = torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    found = certify(model, x, torch.tensor([0]), rl.ThreatModel(norm, 0.5), "ibp")
    assert found.lower.item() == pytest.approx(exact, abs=1e-6)
    assert found.lower.item() <= exact


def test_the_threat_may_have_no_pixel_bounds():
    model = nn.Linear(2, 2).double()
    model.weight.data, model.bias.data = torch.eye(2).double(), torch.zeros(2).double()
    threat = rl.ThreatModel("Linf", 0.25, (-torch.inf, torch.inf))
    found = certify(model, torch.tensor([[5.0, 3.0]]).double(), torch.tensor([0]), threat)
    assert found.lower.item() == pytest.approx(1.5, abs=1e-12)


# -- points inside the ball ----------------------------------------------------------------------


def named(layers):
    return nn.Sequential(OrderedDict(layers))


SIZE: Any = {"num_classes": 3, "in_channels": 3}


class Functions(nn.Module):
    """Operators and functions in place of layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2, padding_mode="reflect")
        self.grouped = nn.Conv2d(4, 4, 3, padding="same", groups=2)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = 2.0 - (x - 0.5) / 0.5
        a = torch.relu(self.conv(x))
        b = self.grouped(a)
        b += 0.5 * a
        c = nn.functional.leaky_relu(torch.cat([self.up(b), -self.up(a)], dim=1), 0.1)
        c = nn.functional.pad(c, (1, 0, 1, 0), value=0.3)
        c = nn.functional.max_pool2d(c, 3, stride=2, padding=1, ceil_mode=True).permute(0, 2, 3, 1)
        return self.fc(torch.cat([c.mean((1, 2)), c[:, 0, 1], c[:, 1].sum(1)], 1))


NETWORKS = {
    "small-cnn": lambda: named(small_cnn(**SIZE, width=2, hidden=6)),
    "small-cnn-bn": lambda: named(small_cnn(**SIZE, width=2, hidden=6, batch_norm=True)),
    "resnet": lambda: named(resnet(8, **SIZE, width=2)),
    "resnet, centred": lambda: named(resnet(8, **SIZE, width=2, centred=True)),
    "resnet without BatchNorm": lambda: named(resnet(8, **SIZE, width=2, batch_norm=False)),
    "preactresnet": lambda: named(preact_resnet18(**SIZE, width=2, final_norm=True)),
    "wide resnet": lambda: named(wide_resnet(10, 1, **SIZE, dropout=0.3, same_padding=True)),
    "pooling": lambda: nn.Sequential(
        rl.models.Normalize([0.5] * 3, [0.25] * 3),
        nn.Conv2d(3, 4, 3, dilation=2, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Identity(),
        nn.Conv2d(4, 4, 3, groups=2, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.AvgPool2d(2, padding=1),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "functions": Functions,
}


def warmed(name):
    """A network with weights of every sign and BatchNorms as after training, in float32."""
    torch.manual_seed(3)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            warm(module)
            module.weight.data *= 0.5
        elif isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.any():
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


def inside(x, threat, draws):
    """Points of the ball cut with the box, many of them at its ends."""
    generator = torch.Generator().manual_seed(5)
    shape = (draws, *x.shape)
    delta = torch.randn(shape, generator=generator, dtype=x.dtype)
    sparse = delta * (torch.rand(shape, generator=generator) < 0.1)
    delta = torch.cat([delta, sparse, delta.sign()])
    if threat.norm == "Linf":
        delta = torch.cat([delta.clamp(-1, 1), delta.sign()]) * threat.eps
    else:
        order = {"L2": 2, "L1": 1}[threat.norm]
        size = torch.linalg.vector_norm(delta.flatten(2), order, dim=2).clamp_min(1e-12)
        delta = delta * (threat.eps / size)[:, :, None, None, None]
    return (x + delta).clamp(0, 1)


THREATS = (("Linf", 0.02), ("L2", 0.1), ("L1", 0.5))
CHEAP = ("small-cnn", "pooling", "functions")


@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_inside_the_ball_has_a_smaller_margin(name):
    model, exact = warmed(name), warmed(name).double()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    y, before = labelled(model, x), Snapshot(model)
    for norm, eps in THREATS if name in CHEAP else THREATS[:1]:
        threat = rl.ThreatModel(norm, eps)
        points = inside(x.double(), threat, 10)
        with torch.no_grad():
            logits = exact(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        margins = logits.gather(2, y.expand(len(points), 2)[:, :, None]) - logits
        smallest = margins.amin(0).scatter(1, y[:, None], torch.inf)
        found = [certify(model, x, y, threat, method).margins for method in BOUNDS]
        for lower in found:
            assert (lower <= smallest).all()
        assert (found[0] <= found[1]).all()
        assert (found[0] <= found[2]).all()
    at_x = -rl.losses.margin(exact(x.double()).detach(), y)
    nearby = certify(model, x, y, rl.ThreatModel("Linf", 1e-9)).lower
    torch.testing.assert_close(nearby, at_x, rtol=1e-3, atol=1e-5)
    before.assert_unchanged()


# -- what holds for every method -----------------------------------------------------------------


@pytest.mark.parametrize("method", BOUNDS)
def test_a_larger_ball_certifies_no_more(method):
    model = relu_network()
    x = torch.rand(40, 8, generator=torch.Generator().manual_seed(2))
    y = labelled(model, x)
    for norm, radii in (("Linf", (0.0, 0.01, 0.03, 0.1, 0.5)), ("L2", (0.0, 0.02, 0.05, 0.2, 1.0))):
        found = [certify(model, x, y, rl.ThreatModel(norm, eps), method) for eps in radii]
        rates = [int(verdict.certified.sum()) for verdict in found]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] == 40
        if method == "ibp":
            for smaller, larger in pairwise(found):
                assert (larger.lower <= smaller.lower + 1e-12).all()


def test_the_radius_is_the_largest_that_is_certified():
    model = nn.Linear(2, 2).double()
    model.weight.data, model.bias.data = torch.eye(2).double(), torch.zeros(2).double()
    x = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1]], dtype=torch.float64)
    found = certify(model, x, torch.tensor([0, 0, 0]), rl.ThreatModel("Linf", 0.3), radius=True)
    torch.testing.assert_close(found.radius, torch.tensor([0.1, 0.0, 0.3]).double(), atol=1e-4, rtol=0)
    assert found.radius[0] <= 0.1
    assert found.right.tolist() == [True, False, True]
    assert found.certified.tolist() == [False, False, True]
    assert found.accuracy.value == pytest.approx(1 / 3)


def test_a_wrong_prediction_is_not_certified():
    model = nn.Linear(2, 2).double()
    model.weight.data, model.bias.data = torch.zeros(2, 2).double(), torch.tensor([1.0, 0.0]).double()
    found = certify(model, torch.rand(2, 2), torch.tensor([0, 1]), rl.ThreatModel("Linf", 0.5), "ibp")
    assert found.certified.tolist() == [True, False]
    assert found.lower.tolist() == pytest.approx([1.0, -1.0], abs=1e-9)


@pytest.mark.parametrize("method", BOUNDS)
def test_bounds_hold_though_sums_cancel(method):
    """The margin is 0 in real numbers: 4096 summands of every size, and their opposites in another order."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(2048, generator=generator, dtype=torch.float64) * torch.logspace(-6, 6, 2048).double()
    model = nn.Sequential(nn.Linear(4096, 1, bias=False), nn.ReLU(), nn.Linear(1, 2)).double()
    order = torch.randperm(2048, generator=generator)
    model[0].weight.data = torch.cat([half, -half[order]])[None]
    model[2].weight.data = torch.tensor([[1.0], [0.0]]).double()
    model[2].bias.data = torch.tensor([0.0, 0.0]).double()
    x = torch.full((1, 4096), 0.7, dtype=torch.float64)
    found = certify(model, x, torch.tensor([0]), rl.ThreatModel("Linf", 0.0), method)
    size = 0.7 * half.abs().sum().item()
    assert -1e5 * UNIT * size < found.lower.item() <= 0
    assert not found.certified.any()


def test_batches_change_nothing():
    model = relu_network()
    x = torch.rand(7, 8, generator=torch.Generator().manual_seed(2))
    y, threat = labelled(model, x), rl.ThreatModel("L2", 0.1)
    apart, together = (certify(model, x, y, threat, batch_size=size).margins for size in (2, 7))
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-12)


def test_a_network_is_left_as_it_was():
    model = everything()
    before = Snapshot(model)
    x, y = images(4)
    found = certify(model, x, y, rl.ThreatModel("Linf", 0.01), "ibp")
    before.assert_unchanged()
    double = certify(everything().double(), x.double(), y, rl.ThreatModel("Linf", 0.01), "ibp")
    torch.testing.assert_close(double.margins, found.margins, rtol=1e-3, atol=1e-4)


# -- what is refused -----------------------------------------------------------------------------


class Forwards(nn.Module):
    """A network whose forward is a function."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self, x)


def changing(x):
    """A batch whose first image is treated otherwise."""
    return torch.cat([x[:1] * 2, x[1:]])


CALLS = count(1)
REFUSED = {
    "1 (SiLU): has no rule for silu": nn.Sequential(nn.Linear(4, 3), nn.SiLU()),
    "0 (LayerNorm): has no rule for native_layer_norm": nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)),
    "0 (BatchNorm1d): native_batch_norm normalises with statistics of the batch": nn.Sequential(
        nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)
    ),
    "model (Forwards): mul multiplies activations": Forwards(lambda m, x: m.linear(x * x)),
    "works across images": Forwards(lambda m, x: m.linear(x - x.mean(0, keepdim=True))),
    "slice works across images": Forwards(lambda m, x: m.linear(changing(x))),
    "draws random numbers": Forwards(lambda m, x: m.linear(x) + torch.randn(3)),
    "reads values of its activations": Forwards(lambda m, x: m.linear(x) if x.max() > 2 else m.linear(-x)),
    "treats images of a batch differently": Forwards(
        lambda m, x: m.linear(x) + torch.from_numpy(m.linear(x).detach().numpy())
    ),
    "do not give the model's logits": Forwards(lambda m, x: m.linear(x) * next(CALLS)),
    "writes to a tensor": Forwards(lambda m, x: m.linear(torch.zeros(4).fill_(1.0) + x)),
    "shares its memory was written to": Forwards(lambda m, x: written(m.linear(x))),
}


def written(logits):
    """Logits whose first was changed through a view."""
    logits[:, 0].mul_(2.0)
    return logits + 1.0


@pytest.mark.parametrize("message", REFUSED)
def test_a_network_without_rules_is_refused_in_one_line(message):
    x = torch.rand(2, 4)
    with pytest.raises(ModelError) as refused:
        certify(REFUSED[message].eval(), x, torch.tensor([0, 1]), rl.ThreatModel("Linf", 0.1))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_arguments_that_make_no_sense_are_refused():
    model, x, y = nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    threat = rl.ThreatModel("Linf", 0.1)
    with pytest.raises(ConfigError, match=r"found 'crwn', expected one of ibp, .*did you mean 'crown'"):
        certify(model, x, y, threat, "crwn")
    with pytest.raises(ConfigError, match=r"certify\.sigma: unknown option of 'ibp'"):
        certify(model, x, y, threat, "ibp", sigma=0.5)
    with pytest.raises(ConfigError, match="found eps inf"):
        certify(model, x, y, rl.ThreatModel("Linf", torch.inf))
    with pytest.raises(ConfigError, match="batch_size: found 0"):
        certify(model, x, y, threat, batch_size=0)
    with pytest.raises(DataError, match="found 0 images"):
        certify(model, x[:0], y[:0], threat)
    with pytest.raises(ModelError, match="returned 1 logits"):
        certify(nn.Linear(4, 1), x, y * 0, threat)
    with pytest.raises(DataError, match="found pixels"):
        certify(model, 255 * x, y, threat)
    for norm in ("L0", "L3"):
        with pytest.raises(ConfigError):
            rl.ThreatModel(norm, 0.1)


def test_the_methods_are_in_one_registry():
    assert list(CERTIFIERS) == ["ibp", "crown-ibp", "crown", "smoothing"]
    assert CERTIFIERS.options("crown") == ()
    assert CERTIFIERS.options("smoothing") == ("sigma", "n0", "n", "alpha", "seed")
