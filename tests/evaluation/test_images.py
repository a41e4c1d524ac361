"""Evaluation of images: exact verdicts on linear models, curves, suites, flags, errors."""

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.evaluated_models import linear
from robustlens import reliability
from robustlens.errors import ConfigError, DataError, ModelError


def test_masks_are_exact_on_a_linear_model():
    model, x, y, margin = linear()
    eps = margin.quantile(0.5).item()
    evaluation = rl.evaluate(model, x, y, rl.ThreatModel("Linf", eps))
    clean = model(x).argmax(1) == y
    assert torch.equal(evaluation.clean, clean)
    assert torch.equal(evaluation.robust, clean & (margin > eps))
    assert list(evaluation.by_attack) == ["fgsm", "pgd-20", "cw-20"]
    assert evaluation.flags == ()


def test_the_curve_is_exact_on_a_linear_model_and_falls():
    model, x, y, margin = linear()
    eps = margin.quantile(0.5).item()
    evaluation = rl.evaluate(model, x, y, rl.ThreatModel("Linf", eps), "fgsm", curve=(0.25, 0.5, 1.5, 2))
    clean = model(x).argmax(1) == y
    assert list(evaluation.curve) == pytest.approx([0, 0.25 * eps, 0.5 * eps, eps, 1.5 * eps, 2 * eps])
    for radius, mask in evaluation.curve.items():
        assert torch.equal(mask, clean & (margin > radius)), radius


def test_a_curve_searches_as_far_as_its_largest_radius_and_eps_and_may_begin_at_zero():
    model, x, y, margin = linear(n=60)
    clean = model(x).argmax(1) == y
    threat = rl.ThreatModel("Linf", margin.quantile(0.3).item())
    for curve, reach in (((0.0, 0.5), 1.0), ((0.0, 1.5), 1.5)):
        evaluation = rl.evaluate(model, x, y, threat, "fgsm", curve=curve, flags=False)
        clear = (margin / (reach * threat.eps) - 1).abs() > 0.01
        assert clear.sum() > 50
        found = ~clean | (margin < reach * threat.eps)
        assert torch.equal(evaluation.distance.isfinite()[clear], found[clear])
        assert torch.equal(evaluation.curve[0.0], clean)


def test_a_radius_beyond_the_box_is_the_box():
    model, x, y, _ = linear(n=20)
    evaluation = rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.7), "fgsm", curve=(2.0,))
    assert list(evaluation.curve)[-1] == pytest.approx(1.4)


def test_attacks_of_ones_own_stand_beside_names():
    model, x, y, margin = linear()
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    mine = rl.attacks.PGD(threat, steps=40, loss="margin")
    evaluation = rl.evaluate(model, x, y, threat, ["fgsm", mine, rl.attacks.PGD(threat), mine])
    assert list(evaluation.by_attack) == ["fgsm", "pgd", "pgd#2", "pgd#3"]
    assert torch.equal(evaluation.robust, (model(x).argmax(1) == y) & (margin > threat.eps))


def test_verdicts_do_not_depend_on_batch_size_or_order():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 4)).double()
    x, y = torch.rand(101, 12, dtype=torch.float64), torch.randint(0, 4, (101,))
    threat = rl.ThreatModel("L2", 0.3)
    whole = rl.evaluate(model, x, y, threat, restarts=2)
    parts = rl.evaluate(model, x, y, threat, restarts=2, batch_size=7)
    order = torch.randperm(101)
    shuffled = rl.evaluate(model, x[order], y[order], threat, restarts=2)
    assert torch.equal(whole.robust, parts.robust)
    assert torch.equal(whole.robust[order], shuffled.robust)
    assert 0 < whole.robust.sum() < whole.clean.sum()


def test_one_image_a_batch_gives_the_same_verdicts():
    model, x, y, margin = linear(n=12)
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    whole, single = (rl.evaluate(model, x, y, threat, ["fgsm"], batch_size=size) for size in (256, 1))
    assert torch.equal(whole.robust, single.robust)


def test_unless_asked_for_there_is_one_restart_no_curve_and_no_image_kept():
    model, x, y, _ = linear(n=12)
    events = []
    evaluation = rl.evaluate(
        model, x, y, rl.ThreatModel("Linf", 0.01), ["pgd-2"], flags=False, progress=events.append
    )
    assert [event.phase for event in events] == ["pgd-2"]
    assert (evaluation.curve, evaluation.x_adv) == ({}, None)


def test_an_attack_by_scores_that_breaks_nothing_more_raises_no_flag():
    model, x, y, margin = linear(n=60)
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    assert rl.evaluate(model, x, y, threat, ["fgsm", "square-20"]).flags == ()


class _Noisy(nn.Module):
    def forward(self, x):
        return x[:, :3] + 0.1 * torch.rand(len(x), 3)


class _Rounded(nn.Module):
    def forward(self, x):
        return torch.relu(x[:, :3] - 10) + torch.tensor([1.0, 0.5, 0.0])


class _Sure(nn.Module):
    def forward(self, x):
        return 1e4 * torch.stack([x.sum(1), -x.sum(1), x[:, 0] - 9], 1)


class _Broken(nn.Module):
    def forward(self, x):
        return x[:, :3] * torch.where(x[:, :1].detach() > 0.5, float("nan"), 1.0)


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (_Noisy(), "randomised"),
        (_Rounded(), "vanishing-gradient"),
        (_Broken(), "not-finite"),
        (_Sure(), "saturated"),
        (nn.Linear(5, 3), None),
    ],
)
def test_flags_name_what_is_wrong_and_nothing_else(model, flag):
    x = torch.rand(32, 5)
    y = model(x).nan_to_num(0.0).argmax(1)
    names = [raised.name for raised in reliability.check(model, x, y)]
    assert names == ([flag] if flag else [])


def test_nan_beyond_the_first_images_is_flagged():
    x = torch.rand(300, 5)
    x[:200, 0] *= 0.5  # no NaN among the first two hundred
    evaluation = rl.evaluate(_Broken(), x, torch.randint(0, 3, (300,)), rl.ThreatModel("Linf", 0.01), "fgsm")
    assert [flag.name for flag in evaluation.flags] == ["not-finite"]
    assert str(int((x[:, 0] > 0.5).sum())) in evaluation.flags[0].message
    assert not evaluation.clean[x[:, 0] > 0.5].any()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_curve_may_reach_beyond_any_image(norm):
    model, x, y, _ = linear(n=20)
    evaluation = rl.evaluate(model, x, y, rl.ThreatModel(norm, 0.7), "fgsm", curve=(1e9,), flags=False)
    assert not list(evaluation.curve.values())[-1].any()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"attacks": "pdg"}, ConfigError, "expected one of"),
        ({"attacks": "standart"}, ConfigError, "expected one of"),
        ({"precision": "16"}, ConfigError, "expected '32-true'"),
        ({"attacks": []}, ConfigError, "found none"),
        ({"attacks": ["fgsm", "fgsm"]}, ConfigError, "twice"),
        ({"x": torch.rand(4, 40) * 255}, DataError, "divide by 255"),
        ({"x": torch.rand(0, 40), "y": torch.zeros(0, dtype=torch.int64)}, DataError, "at least 1"),
        ({"y": torch.tensor([0, 1, 2, 7])}, ModelError, "8"),
        ({"curve": (-1.0,)}, ConfigError, "multiples of eps"),
        ({"curve": (float("nan"),)}, ConfigError, "finite multiples of eps"),
        ({"curve": (float("inf"),)}, ConfigError, "finite multiples of eps"),
        ({"y": torch.tensor([0, 1, -1, 0])}, DataError, "label -1"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
    ],
)
def test_wrong_input_is_one_line(change, error, said):
    arguments = {
        "model": nn.Linear(40, 2),
        "x": torch.rand(4, 40),
        "y": torch.tensor([0, 1, 0, 1]),
        "threat": rl.ThreatModel("Linf", 0.1),
    }
    with pytest.raises(error, match=said) as caught:
        rl.evaluate(**{**arguments, **change})
    assert "\n" not in str(caught.value)


def test_nothing_is_attacked_where_nothing_is_right():
    model, x, _, _ = linear(n=10)
    evaluation = rl.evaluate(model, x, 1 - model(x).argmax(1), rl.ThreatModel("Linf", 0.1), curve=(0.5, 2))
    assert not evaluation.clean.any()
    assert not any(mask.any() for mask in evaluation.curve.values())


def test_images_need_not_show_every_class():
    model = nn.Linear(40, 10)
    evaluation = rl.evaluate(
        model, torch.rand(6, 40), torch.arange(6) % 3, rl.ThreatModel("Linf", 0.1), "fgsm"
    )
    assert len(evaluation.clean) == 6


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_losses_that_few_classes_lack_are_replaced_and_noted(classes):
    torch.manual_seed(0)
    model = nn.Linear(6, classes)
    x = torch.rand(8, 6)
    parts = rl.attacks.chosen(
        [
            rl.attacks.APGD(rl.ThreatModel("Linf", 0.1), steps=5, loss="dlr", targets=9),
            "apgd-dlr-5",
            "fab-t-3",
        ],
        rl.ThreatModel("Linf", 0.1),
    )
    evaluation = rl.evaluate(model, x, model(x).argmax(1), rl.ThreatModel("Linf", 0.1), list(parts.values()))
    margins = [note for note in evaluation.notes if "climbs the margin" in note]
    assert len(margins) == {2: 2, 3: 1, 4: 0}[classes]
    assert all(str(classes) in note for note in margins)


def test_suites_have_the_published_budgets():
    linf, l1 = rl.ThreatModel("Linf", 0.1), rl.ThreatModel("L1", 5.0)
    standard = rl.attacks.chosen("standard", linf)
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert [len(rl.attacks.tries_of(attack)) for attack in standard.values()] == [1, 9, 9, 1]
    assert [getattr(a, "steps", None) for a in standard.values()] == [100, 100, 100, None]
    assert standard["square"].queries == 5000
    sparse = rl.attacks.chosen("standard", l1)
    assert [len(rl.attacks.tries_of(attack)) for attack in sparse.values()] == [5, 5, 9, 1]
    plus = rl.attacks.chosen("plus", linf)
    assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [len(rl.attacks.tries_of(attack)) for attack in plus.values()] == [5, 5, 5, 1, 9, 9]
    rand = rl.attacks.chosen("rand", linf)
    assert [(name, attack.eot) for name, attack in rand.items()] == [("apgd-ce", 20), ("apgd-dlr", 20)]
    assert len(rl.attacks.tries_of(rl.attacks.get("standard", linf))) == 20


def test_a_suite_by_name_is_known_in_the_evaluation():
    model, x, y, margin = linear(n=30)
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    evaluation = rl.evaluate(model, x, y, threat, "fast")
    assert evaluation.suites == {"fast": ("fgsm", "pgd-20", "cw-20")}
    assert evaluation.interval("fast") == evaluation.interval("cw-20")
    assert set(evaluation.seconds) == {"fgsm", "pgd-20", "cw-20"}
    assert rl.attacks.names("fast,pgd-50,standard") == ("fgsm", "pgd-20", "cw-20", "pgd-50", "standard")
    with pytest.raises(ConfigError, match="'apgd-ce' twice"):
        rl.attacks.names("apgd-ce,standard")
