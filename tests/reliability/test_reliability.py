"""Reliability flags: twelve broken models raise theirs, sound models raise none, all stay as they were."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn
from torch.autograd import grad as gradient_of  # a reference of one's own, as some defences keep

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens import attacks, models, noise, reliability
from robustlens.reliability import attacked
from robustlens.reliability.attacked import Count, _certain_eps
from robustlens.reliability.diagnostics import Diagnostics
from robustlens.reliability.state import ModelState

THREAT = rl.ThreatModel("Linf", 0.15)
N = 32


def quadrants(n=N, dtype=torch.float32):
    """Noisy images (n, 1, 8, 8) of four classes: one quadrant is brighter. Eight bits a pixel."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 4
    x = torch.rand(n, 1, 8, 8, generator=generator) * 0.4 + 0.1
    for row, label in enumerate(y.tolist()):
        x[row, :, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 0.3
    return ((255 * x).round() / 255).to(dtype), y


def trained(model, steps=60, dtype=torch.float32):
    """`model` after some steps on the quadrants, in eval mode."""
    x, y = quadrants(256, dtype)
    optimizer = torch.optim.Adam(model.to(dtype).train().parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def conv(batch_norm=True):
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
    layers = [
        nn.Conv2d(1, 8, 3, padding=1),
        norm,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 4),
    ]
    return nn.Sequential(*layers)


def mlp(classes=4):
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, classes))


@pytest.fixture(scope="module")
def network():
    return trained(conv())


def names(model, x=None, y=None, threat=THREAT, **evaluation):
    if x is None:
        x, y = quadrants()
    return {flag.name for flag in reliability.check(model, x, y, threat=threat, **evaluation)}


class Around(nn.Module):
    """A model with a rule for how it is used."""

    def __init__(self, model, rule):
        super().__init__()
        self.model, self.rule = model, rule
        self.register_buffer("mean", torch.tensor(0.3))

    def forward(self, x):
        return self.rule(self, self.model, x)


def dropped(self, model, x):
    return model(F.dropout(x, 0.1, training=True))


def nudged(self, model, x):
    logits = model(x)
    return logits + 1e-2 * torch.randn_like(logits)


def squashed(self, model, x):
    logits = model(x)
    return torch.sigmoid(100 * (logits - logits.topk(2).values.mean(1, keepdim=True)))


def detached(self, model, x):
    return model(x.detach())


def faint(self, model, x):
    """Steps of a staircase that is almost flat in between: the gradient is tiny, not zero."""
    logits = model(x)
    return logits.detach().round() + 1e-12 * logits


def straight_through(self, model, x):
    return model(x + ((15 * x).round() / 15 - x).detach())


def own_statistics(self, model, x):
    return F.batch_norm(model(x), None, None, training=True)


def mean_taken_out(self, model, x):
    return model(x - 0.1 * (x.mean(0, keepdim=True) - 0.3))


def decaying(self, model, x):
    with torch.no_grad():
        model[0].weight.mul_(0.999)
    return model(x)


def replaced(self, model, x):
    model[0].weight = nn.Parameter(model[0].weight.detach() * 0.999)
    return model(x)


def following(self, model, x):
    self.mean.lerp_(x.detach().mean(), 0.01)
    return model(x - self.mean + 0.3)


def norm_in_training(self, model, x):
    model[1].train()
    return model(x)


def left_in_training(self, model, x):
    logits = F.dropout(model(x), 0.1, self.training)
    self.train()
    return logits


def purified(self, model, x):
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (ascent,) = gradient_of(model(leaf).amax(1).sum(), leaf)
    return model(x + 0.01 * ascent.sign())


def purified_by_backward(self, model, x):
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        optimizer = torch.optim.SGD([leaf], lr=0.01)
        (-model(leaf).amax(1).sum()).backward()
        optimizer.step()
    return model(x + (leaf - x).detach())


def rippled(self, model, x):
    return model(x + 0.003 * torch.sin(2e4 * x))


def reversed_gradient(self, model, x):
    return model(2 * x.detach() - x)


def few_pixels(self, model, x):
    passing = noise.uniform(noise.keys(x, 0), x) < 0.1
    return model(torch.where(passing, x, x.detach()))


def nan_where_dark(self, model, x):
    return model(x) * (x.flatten(1).mean(1, keepdim=True) - 0.37).sqrt()


BROKEN = [
    ("randomised", dropped),
    ("randomised", nudged),
    ("softmax", lambda self, model, x: model(x).softmax(1)),
    ("softmax", lambda self, model, x: model(x).log_softmax(1)),
    ("vanishing-gradient", squashed),
    ("vanishing-gradient", faint),
    ("vanishing-gradient", detached),
    ("quantised", lambda self, model, x: model((255 * x).round() / 255)),
    ("quantised", lambda self, model, x: model((16 * x).floor() / 16)),
    ("quantised", straight_through),
    ("batch-dependent", own_statistics),
    ("batch-dependent", mean_taken_out),
    ("state-changes", decaying),
    ("state-changes", replaced),
    ("state-changes", following),
    ("state-changes", norm_in_training),
    ("state-changes", left_in_training),
    ("test-time-optimisation", purified),
    ("test-time-optimisation", purified_by_backward),
    ("masked-gradient", rippled),
    ("huge-eps", reversed_gradient),
    ("more-steps", few_pixels),
    ("not-finite", nan_where_dark),
    ("saturated", lambda self, model, x: 1e4 * model(x)),
    ("useless-gradient", lambda self, model, x: model((255 * x).round() / 255)),
]


@pytest.mark.parametrize(("flag", "rule"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_model_raises_its_flag_and_stays_as_it_was(network, flag, rule):
    model = Around(network, rule)
    before = Snapshot(model)
    assert flag in names(model, threat=THREAT if reliability.CHECKS[flag].attacks else None)
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("vanishing-gradient", detached),
        ("batch-dependent", own_statistics),
        ("state-changes", replaced),
        ("not-finite", nan_where_dark),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_checks_that_attack_take_any_model(network, flag, rule):
    model = Around(network, rule)
    before = Snapshot(model)
    assert flag in names(model)
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("randomised", nudged),
        ("quantised", straight_through),
        ("batch-dependent", mean_taken_out),
        ("state-changes", decaying),
        ("state-changes", left_in_training),
        ("test-time-optimisation", purified_by_backward),
        ("saturated", lambda self, model, x: 1e4 * model(x)),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_without_attacks_a_broken_model_raises_nothing_else(network, flag, rule):
    raised = names(Around(network, rule), threat=None)
    astray = rule in (straight_through, purified_by_backward)  # their gradient is that of something else, too
    assert flag in raised
    assert raised - {flag} <= ({"useless-gradient"} if astray else set())


def test_every_check_has_a_broken_model():
    assert {flag for flag, _ in BROKEN} == set(reliability.CHECKS)


def scaled(model, factor):
    return nn.Sequential(model, *[nn.Flatten()], _Times(factor))


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


class _Autocast(nn.Module):
    def __init__(self, model, returned):
        super().__init__()
        self.model, self.returned = model, returned

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x).to(self.returned)


class _Standardised(nn.Module):
    """Takes mean and standard deviation out of each image, as some networks do: flat images are all alike."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(F.layer_norm(x, x.shape[1:]))


def fresh(name):
    torch.manual_seed(0)
    return rl.models.get(name, num_classes=4, in_channels=1)


SOUND = {
    "conv with batch norm": lambda: trained(conv()),
    "conv without": lambda: trained(conv(batch_norm=False)),
    "mlp": lambda: trained(mlp()),
    "large logits": lambda: scaled(trained(mlp()), 5.0),
    "small logits": lambda: scaled(trained(mlp()), 1e-6),
    "bf16, returns float32": lambda: _Autocast(trained(conv()), torch.float32),
    "bf16, returns bf16": lambda: _Autocast(trained(conv()), torch.bfloat16),
    "each image standardised": lambda: _Standardised(trained(conv())),
    "fresh mlp": mlp,
    "fresh conv": conv,
    "fresh resnet8": lambda: fresh("resnet8"),
    "fresh small-cnn-bn": lambda: fresh("small-cnn-bn"),
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_model_raises_none(kind):
    model = SOUND[kind]()
    before = Snapshot(model)
    assert names(model, threat=rl.ThreatModel("Linf", 0.08)) == set()
    before.assert_unchanged()


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.15, 0.3])
def test_sound_where_all_survive_some_and_none(network, eps):
    assert names(network, threat=rl.ThreatModel("Linf", eps)) == set()


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.5), ("L1", 2.0)])
def test_sound_in_every_norm_in_float64(norm, eps):
    x, y = quadrants(dtype=torch.float64)
    assert names(trained(mlp(), dtype=torch.float64), x, y, rl.ThreatModel(norm, eps)) == set()


@pytest.mark.parametrize("seed", range(2))
def test_sound_with_two_classes_other_bounds_and_no_images(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(30, 7, generator=generator) * 6 - 3
    torch.manual_seed(seed)
    model = nn.Linear(7, 2)
    y = model(x).argmax(1)
    threat = rl.ThreatModel("L2", 0.3, bounds=(-3.0, 3.0))
    assert names(model, x, y, threat) == set()
    assert names(model, x, y, None) == set()
    assert names(model, x[:1], y[:1], threat) == set()
    assert reliability.check(model, x[:0], y[:0], threat=threat) == ()


def test_a_model_in_training_is_judged_in_eval_mode_and_left_in_training():
    model = everything()
    before = Snapshot(model)
    x, y = images(40)
    assert names(model, x, y) == set()
    before.assert_unchanged()


def test_gradients_that_a_training_loop_holds_survive_a_model_that_overwrites_them(network):
    def greedy(self, model, x):
        with torch.enable_grad():
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            model(x.detach()).sum().backward()
        return model(x)

    model = Around(network, greedy)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    try:
        before = Snapshot(model)
        assert "test-time-optimisation" in names(model)
        before.assert_unchanged()
    finally:
        network[0].weight.grad = None


@pytest.mark.parametrize("allowed", range(0, 24, 2))
def test_a_model_is_put_back_even_if_a_check_fails(network, allowed):
    passes = []

    def failing(self, model, x):
        passes.append(len(x))
        with torch.no_grad():
            model[0].weight.mul_(0.99)
        if len(passes) > allowed:
            raise ZeroDivisionError
        return model(x)

    model = Around(network, failing)
    before = Snapshot(model)
    with pytest.raises(ZeroDivisionError):
        names(model, threat=None)
    before.assert_unchanged()


def test_low_precision_may_round_more():
    """A hundredth of a logit is a rounding in bfloat16, and a dependence on the batch in float32."""

    def rounds(self, model, x):
        return model(x) * (1.01 if len(x) == 1 else 1.0)

    model = trained(conv())
    assert names(Around(model, rounds), threat=None) == {"batch-dependent"}
    assert names(Around(_Autocast(model, torch.float32), rounds), threat=None) == set()


# -- the messages ---------------------------------------------------------------------------------------


def test_a_flag_says_what_was_seen_what_it_means_and_what_to_do(network):
    x, y = quadrants()
    (flag,) = reliability.check(Around(network, lambda self, model, x: model(x).softmax(1)), x, y)
    check = reliability.CHECKS["softmax"]
    assert (flag.raised_if, flag.meaning, flag.remedy) == (check.raised_if, check.meaning, check.remedy)
    assert flag.observed == "the outputs of every image are probabilities, which sum to one"
    assert flag.message == f"{flag.observed}; {check.meaning}; {check.remedy}"
    assert json.loads(json.dumps(asdict(flag)))["name"] == "softmax"


def test_every_check_has_three_texts_of_its_own():
    checks = reliability.CHECKS.values()
    texts = [text for check in checks for text in (check.raised_if, check.meaning, check.remedy)]
    assert all(len(text) > 20 and "\n" not in text and "|" not in text for text in texts)
    assert len(set(texts)) == 3 * len(reliability.CHECKS) == 39


def test_the_page_has_every_flag_as_the_code_says_it():
    page = (Path(__file__).parents[2] / "docs" / "flags.md").read_text()
    wanted = (
        "put the output of `python -c 'from robustlens import reliability; print(reliability.table())'` there"
    )
    assert reliability.table() in page, wanted


def test_nan_is_counted_over_all_images(network):
    x, y = quadrants()
    logits = torch.zeros(1000, 4)
    logits[7, 1], logits[8, 2], logits[9, 3] = torch.nan, torch.inf, -torch.inf
    (flag,) = reliability.check(network, x, y, logits)
    assert flag.message.startswith("2 of 1000 images")


# -- what chance explains -------------------------------------------------------------------------------


def test_chance_by_hand():
    assert not Count(2, 2).exceeds(0.05)  # 0.05 ** 2 = 0.0025
    assert Count(3, 3).exceeds(0.05)  # 0.05 ** 3 = 0.000125
    assert not Count(0, 0).exceeds(0.05)
    assert Count(2, 3).exceeds(0.01)  # 3 * 0.01 ** 2 * 0.99 + 0.01 ** 3 = 0.000298
    assert not Count(2, 3).exceeds(0.02)  # 0.00118
    assert Count(2, 3, accuracy=0.5).exceeds(0.01, points=0.005)  # a share of 0.01 again
    assert not Count(2, 3, accuracy=0.5).exceeds(0.01, points=0.01)  # of 0.02
    assert not Count(5, 5, accuracy=0.01).exceeds(0.05, points=0.02)  # of more than all


def test_the_suites_own_counts_tell_and_spare_a_square(network, monkeypatch):
    x, y = quadrants()
    own = []
    monkeypatch.setattr(attacked, "_by_square", lambda seen: own.append(1) or Count(0, 64))

    def flags(broken_by, accuracy=0.4, eps=0.001):
        evaluated = {"robust": torch.arange(N) < 20, "accuracy": accuracy, "broken_by": broken_by}
        own.clear()
        raised = reliability.check(network, x, y, torch.zeros(1000, 4), threat=THREAT.at(eps), **evaluated)
        return {flag.name: flag.message for flag in raised}

    raised = flags({"pgd": (300, True), "square": (80, False), "fab": (1, True), "other": (20, False)})
    assert raised["masked-gradient"].startswith("a score-based attack breaks 100 of 500 images")
    assert flags({"pgd": (300, True), "square": (15, False)}) == {}
    assert flags({"pgd": (960, True), "square": (12, False)}, accuracy=0.01) == {}  # 1.2 points
    assert "masked-gradient" in flags({"pgd": (900, True), "square": (60, False)}, accuracy=0.01)
    assert not own
    assert flags({"square": (300, False), "pgd": (50, True)}) == {}  # nothing to compare it with
    assert own
    # A weak suite: gradients break what Square broke in the sample as well.
    assert "masked-gradient" not in flags({"fgsm": (300, True), "square": (80, False)}, eps=0.3)


def test_near_zero_accuracy_more_steps_say_nothing():
    """Of 48 images that survive an attack of one step, many break; if they are 1 % of all, no matter."""
    model = Around(trained(conv()), few_pixels)
    robust = torch.ones(N, dtype=torch.bool)
    assert "more-steps" in names(model, robust=robust, accuracy=0.9)
    assert "more-steps" not in names(model, robust=robust, accuracy=0.01)


def test_without_survivors_nothing_is_attacked(network):
    calls = []
    handle = network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    try:
        assert names(network, robust=torch.zeros(N, dtype=torch.bool)) == set()
    finally:
        handle.remove()
    assert sum(calls) < 60 * N  # passes, the attack at the certain radius, and the responses of layers


def test_a_radius_at_which_images_of_other_classes_are_within_reach():
    """Five points on a line at 0, 1, 4, 6, 10, predicted A A B B A; labels rule out the last."""
    model = nn.Linear(1, 2).double().requires_grad_(False)
    x = torch.tensor([[0.0], [1.0], [4.0], [6.0], [10.0]], dtype=torch.float64) / 10

    class Between(nn.Module):
        def forward(self, x):
            inside = ((x > 0.3) & (x < 0.8)).double()
            return torch.cat([1 - inside, inside], 1)

    y = torch.tensor([0, 0, 1, 1, 1])

    def radius(y, norm="L1"):
        threat = rl.ThreatModel(norm, 0.1)
        return _certain_eps(Diagnostics(Between(), x, y, threat, ModelState(model)))

    assert radius(y) == pytest.approx(0.4)  # nearest others: 0.4, 0.3, 0.3, 0.4
    assert radius(1 - y) == pytest.approx(0.4)  # the last alone is right; its nearest other is 0.6
    assert radius(1 - y, "Linf") == pytest.approx(0.4)


def test_where_all_is_one_class_there_is_no_such_radius():
    x, y = quadrants()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        model[1].bias[2] = 50
    assert names(model, x, torch.full_like(y, 2)) == set()


def test_the_cost_is_as_stated():
    """About 500 forward passes of 64 images, a backward pass counted as one."""
    x, y = quadrants(128)
    spent = []
    model = trained(conv())
    model.register_forward_hook(
        lambda module, inputs, output: spent.append(len(inputs[0]) * (2 if output.requires_grad else 1))
    )
    reliability.check(model, x, y, threat=rl.ThreatModel("Linf", 1e-4))  # nothing breaks: the dearest case
    assert 64 * 400 < sum(spent) <= 64 * 510


def test_flags_of_an_evaluation(network):
    x, y = quadrants()
    evaluation = rl.evaluate(Around(network, reversed_gradient), x, y, THREAT, "fast")
    assert {"masked-gradient", "huge-eps"} <= {flag.name for flag in evaluation.flags}
    assert rl.evaluate(network, x, y, THREAT, "fast").flags == ()


def diagnosed(model, norm="Linf", eps=0.15, dtype=torch.float32, searched=None):
    x, y = quadrants(64, dtype)
    diagnostics = Diagnostics(model, x, y, rl.ThreatModel(norm, eps), ModelState(model))
    if searched is not None:
        vars(diagnostics)["searched"] = searched
    return diagnostics


@pytest.fixture(scope="module")
def in_float64():
    """Where rounding decides none of a search's comparisons: it does some of Square's in L1 in float32."""
    return trained(conv(), dtype=torch.float64)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.12), ("L2", 0.7), ("L1", 3.0)])
def test_the_same_images_survive_as_where_the_network_itself_is_searched(in_float64, norm, eps):
    with models.frozen(in_float64):
        copied, itself = (
            diagnosed(in_float64, norm, eps, torch.float64, searched) for searched in (None, in_float64)
        )
        assert not any(isinstance(each, nn.BatchNorm2d) for each in copied.searched.modules())
        for attack in (copied.long_attack, attacks.get("square-200", copied.threat)):
            survivors = copied.survivors_of(attack, copied.right)
            assert torch.equal(survivors, itself.survivors_of(attack, itself.right))
            assert 0 < len(survivors) < len(copied.right)


def test_the_network_itself_judges_what_is_found_on_the_copy(network):
    with models.frozen(network):
        one = diagnosed(network, searched=scaled(network, -1.0).eval())  # takes every image for another class
        harmless = attacks.PGD(one.threat.at(1e-6), steps=2)
        assert torch.equal(one.survivors_of(harmless, one.right), one.right)


@pytest.mark.parametrize("rule", [dropped, decaying])
def test_what_cannot_be_copied_safely_is_searched_itself(network, rule):
    model = Around(network, rule).eval()
    with models.frozen(model):
        assert diagnosed(model).searched is model
