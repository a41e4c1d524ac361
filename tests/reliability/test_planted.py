"""Planted adversarial images: they are what they are said to be, sound attacks find them, crippled ones do not."""

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.small_models import Snapshot, everything
from robustlens import cli
from robustlens.errors import ConfigError, DataError, ModelError, NumericsError
from robustlens.models.last_layer import last_linear
from robustlens.reliability import PlantedTest, planted_images, planting
from robustlens.reliability.planting import guesses, plant, widest_margin

THREATS = {
    "Linf": rl.ThreatModel("Linf", 0.1),
    "L2": rl.ThreatModel("L2", 0.8),
    "L1": rl.ThreatModel("L1", 6.0),
}
norms = pytest.mark.parametrize("norm", THREATS)


@pytest.fixture(autouse=True)
def _fewer_points(monkeypatch):
    """Fewer inner points and guesses, for speed."""
    monkeypatch.setattr(planting, "INNER", 300)
    monkeypatch.setattr(planted_images, "GUESSES", 100)


class Quantised(nn.Module):
    """Its input in 33 levels: no gradient."""

    def forward(self, x):
        return (32 * x).round() / 32


def network(*first, dtype=torch.float32):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*first, *layers, nn.Linear(150, 40), nn.ReLU(), nn.Linear(40, 5)).to(dtype).eval()


def images(n=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(n, 1, 12, 12, generator=generator) * 1.2 - 0.1).clamp(0, 1).to(dtype)


def test_the_readout_has_the_widest_margin():
    # Nearest points of the hulls are (1/2, 1/2) and (2, 0): w is that point over its squared length.
    assert widest_margin(np.eye(2)) == pytest.approx([1.0, 1.0])
    assert widest_margin(np.array([[2.0, 0.0], [3.0, 1.0], [5.0, -4.0]])) == pytest.approx([0.5, 0.0])
    assert widest_margin(np.array([[0.0, 4e-6, 0.0]])) == pytest.approx([0.0, 2.5e5, 0.0])
    for inseparable in ([[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0]], [[np.nan, 1.0]]):
        assert widest_margin(np.array(inseparable)) is None


@norms
def test_what_is_planted_lies_in_ball_and_box_and_has_the_other_label_alone(norm):
    threat, model = THREATS[norm], network()
    x = images(1)
    layer = model.get_submodule(last_linear(model, x))
    planted = plant(model, layer, x, threat, 0)
    distance = float(threat.distance(planted.x_adv.double(), x.double()))
    assert 0.5 * threat.eps < distance <= threat.eps + 1e-6
    assert 0 <= float(planted.x_adv.min()) <= float(planted.x_adv.max()) <= 1
    assert torch.equal(planted.inner[:1], x)
    assert float(threat.distance(planted.inner, x.expand_as(planted.inner)).max()) <= 0.9 * threat.eps + 1e-5

    def labels(points):  # by the network up to its last layer, and the hyperplane in NumPy
        features = model[:-1](points).detach().double().numpy() - planted.readout.origin.double().numpy()
        return features @ planted.readout.weights.double().numpy() < 0.01

    assert labels(planted.x_adv).tolist() == [True]
    assert not labels(planted.inner).any()
    assert labels(guesses(threat, x, 200, 0)).mean() <= 0.02


@pytest.mark.parametrize(
    ("norm", "dtype"),
    [("Linf", torch.float32), ("L2", torch.float64), ("L1", torch.float32)],
)
def test_sound_attacks_find_what_is_planted_and_crippled_ones_do_not(norm, dtype):
    threat = THREATS[norm]
    tiny = rl.attacks.PGD(threat, steps=1, step_size=0.02 * threat.eps, random_start=False)
    attacks = ["pgd-20", "apgd-ce-30", tiny]
    found = rl.reliability.planted(network(dtype=dtype), images(dtype=dtype), threat, attacks)
    assert (found.images, found.skipped) == (10, 0)
    assert {name: int(mask.sum()) for name, mask in found.together.items()} == {
        "pgd-20": 10,
        "apgd-ce-30": 10,
        "pgd": 0,
        "all": 10,
    }
    assert int(found.guessed.sum()) <= 3
    assert found.is_believed("pgd-20")
    assert not found.is_believed("pgd")
    assert "pgd-20 can be believed on this network: found are 10 of 10" in found.sentence("pgd-20")
    assert "pgd cannot be believed on this network: found are 0 of 10" in found.sentence("pgd")
    assert found.interval("pgd-20").low == pytest.approx(0.7225, abs=1e-4)  # Wilson's of 10 of 10


def test_attacks_that_a_masked_gradient_blinds_cannot_be_believed_there():
    found = rl.reliability.planted(network(Quantised()), images(), THREATS["Linf"], ["fast", "square-500"])
    assert [int(mask.sum()) for mask in found.by_attack.values()][:3] == [0, 0, 0]
    assert not found.is_believed("fast")
    assert found.is_believed("square-500")
    assert found.is_believed("all")


def test_one_linear_layer_is_a_network_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    found = rl.reliability.planted(model, images(), THREATS["Linf"], "pgd-20")
    assert found.is_believed("pgd-20")


def test_verdicts_need_images_and_hardness():
    def made(images, count, guessed):
        mask, lucky = torch.arange(images) < count, torch.arange(images) < guessed
        return PlantedTest(images, 0, {"pgd": mask}, lucky)

    assert made(20, 19, 10).is_believed("pgd")
    assert not made(20, 18, 0).is_believed("pgd")
    assert not made(20, 20, 11).is_believed("pgd")
    assert made(20, 20, 11).sentence("pgd") == "nothing is said of pgd: random guesses alone find 11 of 20"
    assert not made(9, 9, 0).is_believed("pgd")
    assert "found 9 images with a planted one, expected 10 or more" in made(9, 9, 0).sentence("pgd")
    assert np.isnan(made(0, 0, 0).interval("pgd").value)


def test_the_model_is_left_as_it_was():
    model = everything()
    calls = []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(2, 3, 4, 4)
    before = Snapshot(model)
    rl.reliability.planted(model, x, THREATS["Linf"], "fgsm")
    before.assert_unchanged()
    assert len(model.fc._forward_hooks) == 1


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class Outside:
    def __call__(self, model, x, y, *, generator=None):
        return x + 1.0


def test_refusals_are_one_line():
    threat, x = THREATS["Linf"], images(2)
    tokens = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (12, 12)), nn.Linear(12, 3), nn.AvgPool2d((12, 1)))
    for model, message in [
        (nn.Sequential(nn.Conv2d(1, 3, 12), nn.Flatten()), "found '0', 1 times as the last layer"),
        (network(Noisy()), "draws random numbers"),
        (nn.Sequential(tokens, nn.Flatten()), "reads .2, 12, 12., expected"),
        (nn.Sequential(*network(), nn.LayerNorm(5)), "is not the last"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            rl.reliability.planted(model, x, threat, "fgsm")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="found eps 0"):
        rl.reliability.planted(network(), x, threat.at(0.0), "fgsm")
    with pytest.raises(DataError):
        rl.reliability.planted(network(), x[:0], threat, "fgsm")
    with pytest.raises(NumericsError, match="distance"):
        rl.reliability.planted(network(), x, threat, [Outside()])


def flat_network():
    """For the images of Fashion-MNIST: a linear classifier."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def masked_network():
    """The same behind a quantiser."""
    return nn.Sequential(Quantised(), flat_network())


@pytest.mark.parametrize(("factory", "code"), [("flat_network", 0), ("masked_network", 4)])
def test_the_doctor_says_whether_a_suite_can_be_believed(factory, code, capsys):
    command = ["doctor", "--attacks", f"reliability.test_planted:{factory}", "--data", "fashion-mnist-10k"]
    command += ["--eps", "0.1", "--suite", "fgsm,pgd-5", "--examples", "10", "--quiet"]
    assert cli.run(command) == code
    said = capsys.readouterr().out
    verb = "cannot" if code else "can"
    assert f"all attacks together {verb} be believed on this network" in said
    assert said.count("\n") == 4


def test_the_doctor_refuses_options_without_a_model(capsys):
    assert cli.run(["doctor", "--eps", "0.1"]) == 2
    assert "expected --attacks MODEL" in capsys.readouterr().err
