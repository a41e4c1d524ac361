"""Evaluation: intervals by hand, exact verdicts on linear models, survivors, curves, flags, errors."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens import reliability
from robustlens.config import EvaluationPlan, checked
from robustlens.errors import ConfigError, DataError, ModelError, NumericsError
from robustlens.evaluation import evaluate_run, gaps
from robustlens.stats.intervals import Interval, difference, mean_of, wilson


def linear(dim=40, n=300, seed=0):
    """A binary linear model whose exact Linf margin is |f| / ||w||_1 while no pixel meets the box."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(dim, 2).double().requires_grad_(False)
    model.weight.copy_(torch.randn(2, dim, generator=generator) * 0.3)
    model.bias.zero_()
    x = torch.rand(n, dim, generator=generator, dtype=torch.float64) * 0.2 + 0.4
    gap = model.weight[0] - model.weight[1]
    mislabelled = torch.rand(n, generator=generator) < 0.2
    y = (mislabelled ^ (x @ gap <= 0)).long()
    return model, x, y, (x @ gap).abs() / gap.abs().sum()


def test_masks_are_exact_on_a_linear_model():
    model, x, y, margin = linear()
    eps = margin.quantile(0.5).item()
    found = rl.evaluate(model, x, y, rl.ThreatModel("Linf", eps))
    clean = model(x).argmax(1) == y
    assert torch.equal(found.clean, clean)
    assert torch.equal(found.robust, clean & (margin > eps))
    assert list(found.by_attack) == ["fgsm", "pgd-20", "cw-20"]
    assert found.flags == ()


def test_the_curve_is_exact_on_a_linear_model_and_falls():
    model, x, y, margin = linear()
    eps = margin.quantile(0.5).item()
    found = rl.evaluate(model, x, y, rl.ThreatModel("Linf", eps), "fgsm", curve=(0.25, 0.5, 1.5, 2))
    clean = model(x).argmax(1) == y
    assert list(found.curve) == pytest.approx([0, 0.25 * eps, 0.5 * eps, eps, 1.5 * eps, 2 * eps])
    for radius, mask in found.curve.items():
        assert torch.equal(mask, clean & (margin > radius)), radius


def test_a_radius_beyond_the_box_is_the_box():
    model, x, y, _ = linear(n=20)
    found = rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.7), "fgsm", curve=(2.0,))
    assert list(found.curve)[-1] == pytest.approx(1.4)


def test_later_attacks_see_survivors_only():
    model, x, y, margin = linear()
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    rl.evaluate(model, x, y, rl.ThreatModel("Linf", margin.quantile(0.5).item()), ["fgsm"], batch_size=1000)
    right = int((model(x).argmax(1) == y).sum())
    assert sizes[1] == len(x)  # clean accuracy
    assert sizes[2] == right  # the attack: what was right
    sizes.clear()
    rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.9), ["fgsm", "pgd-3"], batch_size=1000)
    assert sizes[2] == right
    assert right not in sizes[4:]  # everything fell to FGSM, PGD had nothing to do


def test_attacks_of_ones_own_stand_beside_names():
    model, x, y, margin = linear()
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    mine = rl.attacks.PGD(threat, steps=40, loss="margin")
    found = rl.evaluate(model, x, y, threat, ["fgsm", mine, rl.attacks.PGD(threat), mine])
    assert list(found.by_attack) == ["fgsm", "pgd", "pgd#2", "pgd#3"]
    assert torch.equal(found.robust, (model(x).argmax(1) == y) & (margin > threat.eps))


def test_an_attack_that_leaves_the_threat_model_is_refused():
    model, x, y, _ = linear(n=20)
    wide = rl.attacks.PGD(rl.ThreatModel("Linf", 0.2))
    with pytest.raises(NumericsError, match=r"'pgd': found an image at Linf distance 0\.2") as caught:
        rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.1), [wide])
    assert caught.value.exit_code == 4


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


def test_wilson_by_hand():
    found = wilson(0, 10)
    assert (found.value, found.low) == pytest.approx((0.0, 0.0))
    assert found.high == pytest.approx(1.959964**2 / (10 + 1.959964**2), rel=1e-5)  # z^2 / (n + z^2) at k = 0
    mirrored = wilson(10, 10)
    assert mirrored.low == pytest.approx(1 - found.high)


def test_wilson_covers_at_its_rate():
    generator = torch.Generator().manual_seed(0)
    for p in (0.05, 0.3, 0.9):
        draws = (torch.rand(2000, 80, generator=generator) < p).sum(1)
        inside = [wilson(int(k), 80).low <= p <= wilson(int(k), 80).high for k in draws]
        assert 0.92 < sum(inside) / len(inside) < 0.98


def test_differences_by_hand():
    # Newcombe 1998, table II(a): 56/70 against 48/80, method 10 gives 0.0524 to 0.3339.
    found = difference(wilson(56, 70), wilson(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_mean_interval_by_hand():
    found = mean_of(torch.tensor([1.0, 2.0, 3.0, 6.0]).numpy())
    half = 1.959964 * math.sqrt(14 / 3) / 2
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert mean_of(torch.tensor([1.0]).numpy()) == Interval(1.0)
    assert difference(Interval(3.0), found) == Interval(0.0)


def test_gaps_are_positive_where_training_looks_better():
    model, x, y, margin = linear()
    right = model(x).argmax(1) == y
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    train = rl.evaluate(model, x[right], y[right], threat)
    test = rl.evaluate(model, x, y, threat)
    found = gaps(train, test)
    assert found["error"]["value"] == pytest.approx(1 - right.double().mean().item())
    assert found["loss"]["value"] == pytest.approx(test.loss.mean().item() - train.loss.mean().item())
    robust = (right & (margin > threat.eps)).double()
    assert found["robust"]["value"] == pytest.approx(robust[right].mean().item() - robust.mean().item())
    for gap in found.values():
        assert gap["low"] < gap["value"] < gap["high"]


def test_a_stored_evaluation_says_the_same_as_its_masks(tmp_path):
    from test_train import blobs, recipe

    from robustlens.data import from_tensors

    splits = from_tensors(*blobs(), *blobs(60, seed=1))
    run = rl.train(recipe(optimizer={"epochs": 2}), tmp_path / "run", splits=splits)
    plan = checked(
        EvaluationPlan, {"threat": {"eps": 0.05}, "attacks": ["fgsm", "pgd-5"], "curve": [0.5, 1]}, "plan"
    )
    content = evaluate_run(run, plan, splits=splits)
    for split in ("train", "test"):
        for name, interval in content["splits"][split]["by_attack"].items():
            mask = run.array("evaluation", f"{split}/{name}")
            assert interval["value"] == pytest.approx(mask.mean())
    assert run.array("evaluation", "train/index").tolist() == splits.train.index.tolist()
    stamp = (run.folder / "evaluation.json").stat().st_mtime_ns
    assert evaluate_run(run, plan, splits=splits) == run.evaluation  # current: not computed again
    assert (run.folder / "evaluation.json").stat().st_mtime_ns == stamp
    evaluate_run(run, plan.model_copy(update={"seed": 1}), splits=splits)
    assert (run.folder / "evaluation.json").stat().st_mtime_ns != stamp


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
    names = [found.name for found in reliability.check(model, x, y)]
    assert names == ([flag] if flag else [])


def test_nan_beyond_the_first_images_is_flagged():
    x = torch.rand(300, 5)
    x[:200, 0] *= 0.5  # no NaN among the first two hundred
    found = rl.evaluate(_Broken(), x, torch.randint(0, 3, (300,)), rl.ThreatModel("Linf", 0.01), "fgsm")
    assert [flag.name for flag in found.flags] == ["not-finite"]
    assert str(int((x[:, 0] > 0.5).sum())) in found.flags[0].message
    assert not found.clean[x[:, 0] > 0.5].any()


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


def test_nothing_is_attacked_where_nothing_stands():
    model, x, _, _ = linear(n=10)
    found = rl.evaluate(model, x, 1 - model(x).argmax(1), rl.ThreatModel("Linf", 0.1), curve=(0.5, 2))
    assert not found.clean.any()
    assert not any(mask.any() for mask in found.curve.values())


def test_images_need_not_show_every_class():
    model = nn.Linear(40, 10)
    found = rl.evaluate(model, torch.rand(6, 40), torch.arange(6) % 3, rl.ThreatModel("Linf", 0.1), "fgsm")
    assert len(found.clean) == 6


def test_an_interval_of_each_mask():
    model, x, y, margin = linear()
    found = rl.evaluate(model, x, y, rl.ThreatModel("Linf", margin.quantile(0.5).item()))
    assert isinstance(found.interval(), Interval)
    assert found.interval("clean").value == pytest.approx(found.clean.double().mean().item())
    assert found.interval("cw-20") == found.interval("robust")


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
    found = rl.evaluate(model, x, model(x).argmax(1), rl.ThreatModel("Linf", 0.1), list(parts.values()))
    margins = [note for note in found.notes if "climbs the margin" in note]
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
    found = rl.evaluate(model, x, y, threat, "fast")
    assert found.suites == {"fast": ("fgsm", "pgd-20", "cw-20")}
    assert found.interval("fast") == found.interval("cw-20")
    assert set(found.seconds) == {"fgsm", "pgd-20", "cw-20"}
    assert rl.attacks.names("fast,pgd-50,standard") == ("fgsm", "pgd-20", "cw-20", "pgd-50", "standard")
    with pytest.raises(ConfigError, match="'apgd-ce' twice"):
        rl.attacks.names("apgd-ce,standard")
