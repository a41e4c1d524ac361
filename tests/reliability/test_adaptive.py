"""Layers with a useless gradient are found by how they respond; attacks go around them, verdicts do not."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from helpers.evaluated_models import linear
from helpers.small_models import Snapshot, everything
from robustlens import cli, models
from robustlens.errors import ModelError
from robustlens.models.registry import MODELS
from robustlens.reliability import adaptive_copy
from robustlens.reliability.adaptive import find
from robustlens.reliability.responses import useless_gradient
from robustlens.reliability.surrogates import Smoothed, StraightThrough


class Rounded(nn.Module):
    def forward(self, x):
        return (16 * x).round() / 16


class Winners(nn.Module):
    def forward(self, x):
        least = x.topk(x.shape[1] // 5, dim=1).values[:, -1:]
        return torch.where(x >= least, x, torch.zeros_like(x))


class Thermometer(nn.Module):
    def forward(self, x):
        return (x > torch.linspace(0.05, 0.95, 10, dtype=x.dtype)[:, None, None]).to(x.dtype)


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class Inline(nn.Module):
    """A network whose own forward pass rounds; `by_value` hides it from torch.fx."""

    def __init__(self, by_value=False):
        super().__init__()
        self.body, self.by_value = body(), by_value

    def forward(self, x):
        if self.by_value and x.mean() < -100:
            return self.body(x)
        return self.body((16 * x).round() / 16)


def body(inputs=64, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 50), nn.ReLU(), nn.Linear(50, classes)).eval()


def images(n=8):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def straight_through(x):
    return x + ((255 * x).round() / 255 - x).detach()


SOUND = [
    ("identity", lambda x: x),
    ("kinks", torch.relu),
    ("maximum", lambda x: F.max_pool1d(x[:, None], 2)),
    ("smooth", lambda x: x.sigmoid() * x.exp()),
    ("sorted", lambda x: x.sort(1).values),
    ("constant", lambda x: torch.ones_like(x)),
    ("straight-through", straight_through),
]
USELESS = [
    ("zero", torch.sign),
    ("zero", lambda x: (16 * x).round() / 16),
    ("zero", lambda x: (x > 0.5) * 1.0 + 0 * x),
    ("missing", lambda x: x.detach() ** 2),
    ("missing", lambda x: x > 0.5),
    ("missing", lambda x: x.argsort(1)),
    ("inconsistent", Winners()),
    ("inconsistent", lambda x: (8 * x).round() / 8 - 0.1 * x),
    ("random", lambda x: x + torch.rand_like(x)),
    ("random", lambda x: F.dropout(x, 0.1)),
]


@pytest.mark.parametrize(("name", "function"), SOUND, ids=[name for name, _ in SOUND])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_sound_functions_are_not_useless(name, function, dtype):
    assert useless_gradient(function, images().flatten(1).to(dtype)) is None


@pytest.mark.parametrize(("kind", "function"), USELESS)
def test_a_useless_gradient_has_a_kind(kind, function):
    state = torch.random.get_rng_state()
    assert useless_gradient(function, images().flatten(1)) == kind
    assert torch.equal(state, torch.random.get_rng_state())


ROW_BY_ROW = {
    "rows alone": (lambda x: 2 * x.tanh(), None),
    "steps": (lambda x: (16 * x).round() / 16, "zero"),
    "winners": (Winners(), "inconsistent"),
}
BESIDE_OTHERS = {
    "the batch's mean": (lambda x: x - x.mean(0), None),
    "rounded": (lambda x: (16 * (x - x.mean(0))).round() / 16, "zero"),
    "of eight rows": (lambda x: x.view(8, -1) ** 2, None),
    "summed": (lambda x: x.cumsum(0), None),
    "the first row": (lambda x: torch.cat([x[:1], 0 * x[1:]]), None),
    "backwards": (lambda x: x.flip(0), None),
    "groups of two": (
        lambda x: (x.view(-1, 2, 64) - x.view(-1, 2, 64).mean(1, keepdim=True)).flatten(0, 1),
        None,
    ),
    "groups of eight": (
        lambda x: (x.view(-1, 8, 64) / x.view(-1, 8, 64).norm(dim=1, keepdim=True)).flatten(0, 1),
        None,
    ),
    "eight rows alone": (lambda x: {8: (16 * x).round() / 16}[len(x)], "zero"),
    "32 rows at most": (lambda x: (16 * x.view(-1, 64)[:32].reshape(x.shape)).round() / 16, "zero"),
}


@pytest.mark.parametrize("name", [*ROW_BY_ROW, *BESIDE_OTHERS])
def test_rows_of_many_draws_are_asked_at_once_where_none_depends_on_those_beside_it(name):
    (function, kind), x, sizes = (ROW_BY_ROW | BESIDE_OTHERS)[name], images().flatten(1), []

    def watched(x):
        sizes.append(len(x))
        return function(x)

    assert useless_gradient(watched, x) == kind
    if name in ROW_BY_ROW:
        assert max(sizes) == 16 * len(x)
        assert len(sizes) < 20
    else:
        assert sum(size > len(x) for size in sizes) == 1, "a first look"
        assert sizes.count(len(x)) > 2 * 64


@pytest.mark.parametrize(
    "arranged",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.mT,
    ],
    ids=["channels last", "permuted", "transposed"],
)
def test_the_layout_of_a_layers_input_changes_no_kind(arranged):
    x = arranged(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert useless_gradient(lambda x: (16 * x).round() / 16, x) == "zero"
    assert useless_gradient(lambda x: (8 * x).round() / 8 - 0.1 * x, x) == "inconsistent"
    assert useless_gradient(lambda x: x.tanh().transpose(1, 2), x) is None


def test_an_output_that_is_not_a_row_for_each_input_is_compared_draw_by_draw():
    assert useless_gradient(lambda x: x[::2] ** 2, images().flatten(1)) is None
    assert useless_gradient(lambda x: (8 * x[::2]).round(), images().flatten(1)) == "zero"


def small(name):
    torch.manual_seed(0)
    return models.get(name, in_channels=3, num_classes=4).eval()


@pytest.mark.parametrize("name", ["small-cnn", "resnet8", "preactresnet18"])
def test_no_layer_of_ours_is_found(name):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert name in MODELS
    assert find(small(name), x) == ()


def found_in(model, x=None):
    return [(each.name, each.kind) for each in find(model.eval(), images() if x is None else x)]


def test_layers_are_found_by_name():
    quantised = nn.Sequential(Rounded(), body())
    assert found_in(quantised) == [("0", "zero")]
    assert found_in(nn.Sequential(Thermometer(), body(640))) == [("0", "missing")]
    assert found_in(nn.Sequential(nn.Flatten(), nn.Linear(64, 50), Winners())) == [("2", "inconsistent")]
    assert found_in(nn.Sequential(Noisy(), Rounded(), body())) == [("0", "random"), ("1", "zero")]
    assert found_in(nn.Sequential(body(), nn.Sequential(nn.Identity(), Rounded()))) == [("1.1", "zero")]
    assert found_in(everything(), torch.rand(8, 3, 4, 4)) == []


def test_operations_are_found_where_the_forward_pass_can_be_traced():
    assert found_in(Inline()) == [("the network: round_1", "zero")]
    assert found_in(nn.Sequential(nn.Identity(), Inline())) == [("1: round_1", "zero")]
    assert found_in(Inline(by_value=True)) == [("the network", "zero")]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Rounded(), body()),
        nn.Sequential(Thermometer(), body(640)),
        Inline(),
        Inline(by_value=True),
        nn.Sequential(nn.Identity(), Inline(), Rounded()),
    ],
    ids=["layer", "other shape", "operation", "whole", "both"],
)
def test_a_copy_has_the_same_answers_a_gradient_and_leaves_the_model(model):
    model, x = model.eval(), images()
    assert torch.autograd.functional.jacobian(lambda x: model(x).sum(), x).abs().max() == 0
    before = Snapshot(model)
    copied = adaptive_copy(model, x)
    assert torch.equal(copied.network(x), model(x))
    assert torch.autograd.functional.jacobian(lambda x: copied.network(x).sum(), x).abs().max() > 0
    before.assert_unchanged()
    assert all(layer.name in copied.note for layer in copied.replaced)


def test_straight_through_has_the_gradient_of_the_identity():
    x = images().requires_grad_()
    weights = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((StraightThrough(Rounded())(x) * weights).sum(), x)
    assert torch.equal(gradient, weights)


def test_a_smoothed_sign_has_the_slope_of_the_normal_distribution():
    x = torch.zeros(40, 100)
    x[:, 1:] = torch.randn(40, 99, generator=torch.Generator().manual_seed(0))
    layer = Smoothed(torch.sign, x)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    density = torch.distributions.Normal(0, layer.width).log_prob(x.detach()).exp()
    assert layer.width == pytest.approx(0.25, rel=0.05)
    assert float(gradient.mean()) == pytest.approx(2 * float(density.mean()), rel=0.1)


@pytest.mark.parametrize("place", [False, True])
def test_a_smoothed_linear_map_has_its_own_gradient(place):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 7, 1).double() if place else nn.Linear(6, 3).double()
    x = torch.rand(400, 3, 4, 4).double() if place else torch.rand(400, 6).double()
    x.requires_grad_()
    weights = torch.randn_like(layer(x[:1]).detach())
    (exact,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    (smoothed,) = torch.autograd.grad((Smoothed(layer, x.detach())(x) * weights).sum(), x)
    assert torch.allclose(smoothed.mean(0), exact.mean(0), atol=0.15 * float(exact.abs().max()))
    (alone,) = torch.autograd.grad((Smoothed(layer, x.detach())(x[:3]) * weights).sum(), x)
    assert torch.allclose(alone[:3], smoothed[:3])


def test_a_quantised_linear_network_falls_to_its_true_accuracy():
    model, x, y, margins = linear(dim=40, n=200)
    threat = rl.ThreatModel("Linf", float(margins.median()))
    fine = nn.Sequential(_Levels(), model)  # of 1/256: it moves a pixel by 1/512 at most
    right = model(x).argmax(1) == y
    truth = [
        float((right & (margins > threat.eps + change)).double().mean()) for change in (1 / 256, -1 / 256)
    ]
    plain = rl.evaluate(fine, x, y, threat, "pgd-10")
    adaptive = rl.evaluate(fine, x, y, threat, "pgd-10", adaptive=True)
    assert "useless-gradient" in {flag.name for flag in plain.flags}
    assert "gradient of 0 (zero)" in next(f.observed for f in plain.flags if f.name == "useless-gradient")
    assert plain.interval("robust").value > truth[1] + 0.2
    assert truth[0] - 0.01 <= adaptive.interval("robust").value <= truth[1] + 0.01
    assert [(each.name, each.kind, each.surrogate) for each in adaptive.replaced] == [
        ("0", "zero", "straight-through")
    ]
    assert torch.equal(adaptive.clean, plain.clean)


class _Levels(nn.Module):
    def forward(self, x):
        return (256 * x).round() / 256


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Argmax(nn.Module):
    """Logits that are counts: of pixels whose brightest channel is this one."""

    def forward(self, x):
        return F.one_hot(x.flatten(2).argmax(1), 4).float().sum(1)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Thermometer(), body(640)),
        nn.Sequential(Detached(), body()),
        nn.Sequential(nn.Conv2d(1, 4, 1), Argmax()),
        nn.Sequential(Noisy(), Detached(), body()),
    ],
    ids=["thermometer", "detach", "argmax", "random"],
)
def test_an_evaluation_speaks_where_there_is_no_gradient_at_all(model, monkeypatch):
    """Attacks without gradients run and flags go up; what an attack called by itself says is an error."""
    monkeypatch.setattr(models, "compiled_copy", None)  # torch has no backward pass to compile
    x, threat = images(), rl.ThreatModel("Linf", 0.9)
    y = model.eval()(x).argmax(1)
    gradients = ["fgsm", "pgd-2", "apgd-dlr-2", "fab-2"]
    evaluation = rl.evaluate(model, x, y, threat, [*gradients, "square-20"], curve=(1,), compile=True)
    assert {"useless-gradient", "vanishing-gradient"} <= {flag.name for flag in evaluation.flags}
    assert any("the logits carry no gradient" in note for note in evaluation.notes)
    assert torch.isfinite(evaluation.distance).any(), "a random start or a square is wrong"
    with pytest.raises(ModelError, match=r"evaluate it with --adaptive \(adaptive=True\) and square"):
        rl.attacks.PGD(threat)(model, x, y)


@pytest.mark.parametrize(("model", "has"), [(body(), True), (Inline(), True), (Detached(), False)])
def test_a_gradient_of_zero_is_a_gradient(model, has):
    assert models.has_input_gradient(model, images().flatten(1)) is has
    with torch.no_grad():
        assert torch.equal(models.ZeroGradient(model)(images().flatten(1)), model(images().flatten(1)))


def test_a_sound_network_has_the_same_masks():
    model, x, y, _ = linear(n=60)
    threat = rl.ThreatModel("Linf", 0.02)
    one, other = (
        rl.evaluate(model, x, y, threat, ["pgd-5", "square-20"], adaptive=adaptive, flags=False)
        for adaptive in (False, True)
    )
    assert other.replaced == ()
    assert torch.equal(one.robust, other.robust)
    assert torch.equal(one.distance, other.distance)
    assert "adaptive: no gradient is useless, and attacks are as without" in other.notes


def test_a_random_network_is_attacked_in_the_mean():
    torch.manual_seed(0)
    model, x = nn.Sequential(Noisy(), body()).eval(), images()
    copied = adaptive_copy(model, x)
    assert [(each.kind, each.surrogate) for each in copied.replaced] == [("random", "mean over draws")]
    with torch.no_grad():
        mean = torch.stack([model(x) for _ in range(2000)]).mean(0)
        errors = [(network(x) - mean).square().mean().sqrt() for network in (model, copied.network)]
    assert float(errors[1]) < 0.4 * float(errors[0])  # 1 / sqrt(20) of it, but for chance
    y = model(x).argmax(1)
    threat = rl.ThreatModel("Linf", 0.9)
    evaluation = rl.evaluate(model, x, y, threat, "pgd-5", adaptive=True, flags=False)
    assert [each.kind for each in evaluation.replaced] == ["random"]
    assert evaluation.interval("robust").value < evaluation.interval("clean").value


class Uncopied(Rounded):
    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")


def test_a_network_that_cannot_be_copied_is_attacked_as_it_is():
    model = nn.Sequential(Uncopied(), body())
    copied = adaptive_copy(model, images())
    assert copied.network is model
    assert copied.replaced == ()
    assert copied.note == "adaptive: 0 stay as they are: the network cannot be copied"
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)


def quantised_network():
    """For the images of Fashion-MNIST."""
    return nn.Sequential(Rounded(), body(784, 10))


def test_the_command_says_what_was_replaced(capsys, tmp_path):
    command = ["evaluate", "reliability.test_adaptive:quantised_network", "--data", "fashion-mnist-10k"]
    command += ["--eps", "0.1", "--limit", "10", "--attacks", "fgsm", "--curve", "none", "--quiet"]
    assert cli.run([*command, "--adaptive", "--json", "--out", str(tmp_path)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["splits"]["test"]["replaced"] == [
        {"name": "0", "kind": "zero", "surrogate": "straight-through"}
    ]
    assert cli.run([*command, "--adaptive", "--out", str(tmp_path)]) == 0  # read back
    assert "attacks go around 0 (zero, straight-through)" in capsys.readouterr().out
