"""Evaluations as numbers: intervals, counts, arrays and gaps, from masks."""

from time import perf_counter

import pytest
import torch

import robustlens as rl
from helpers.evaluated_models import evaluated, linear
from robustlens.errors import ConfigError
from robustlens.evaluation import Evaluation, gaps
from robustlens.results import CurvePoint
from robustlens.stats.intervals import Interval, mean_of, wilson


def test_gaps_are_positive_where_training_looks_better():
    model, x, y, margin = linear()
    right = model(x).argmax(1) == y
    threat = rl.ThreatModel("Linf", margin.quantile(0.5).item())
    train = rl.evaluate(model, x[right], y[right], threat)
    test = rl.evaluate(model, x, y, threat)
    evaluation = gaps(train.result(), test.result())
    assert evaluation["error"].value == pytest.approx(1 - right.double().mean().item())
    assert evaluation["loss"].value == pytest.approx(test.loss.mean().item() - train.loss.mean().item())
    robust = (right & (margin > threat.eps)).double()
    assert evaluation["robust"].value == pytest.approx(robust[right].mean().item() - robust.mean().item())
    for gap in evaluation.values():
        assert gap.low < gap.value < gap.high


def test_an_interval_of_each_mask():
    model, x, y, margin = linear()
    evaluation = rl.evaluate(model, x, y, rl.ThreatModel("Linf", margin.quantile(0.5).item()))
    assert isinstance(evaluation.interval(), Interval)
    assert evaluation.interval("clean").value == pytest.approx(evaluation.clean.double().mean().item())
    assert evaluation.interval("cw-20") == evaluation.interval("robust")
    with pytest.raises(ConfigError, match=r"found 'robst', expected one of clean, robust, .*mean 'robust'\?"):
        evaluation.interval("robst")


def by_hand():
    """Five images: one wrong, one broken by each of three attacks, one robust; two suites."""
    broken_by = torch.tensor([-1, 0, 1, 2, 3])
    masks = {name: broken_by > number for number, name in enumerate(("fgsm", "pgd", "square"))}
    return Evaluation(
        threat=rl.ThreatModel("Linf", 0.1),
        labels=torch.zeros(5, dtype=torch.int64),
        predictions=torch.tensor([1, 0, 0, 0, 0]),
        loss=torch.arange(5.0),
        clean=broken_by >= 0,
        by_attack=masks,
        attacked={"fgsm": 4, "pgd": 3, "square": 2},
        distance=torch.tensor([0.0, 0.1, 0.1, 0.1, torch.inf]),
        curve={},
        flags=(),
        notes=(),
        suites={"gradients": ("fgsm", "pgd"), "all": ("fgsm", "pgd", "square")},
        seconds={"fgsm": 0.0, "pgd": 0.0, "square": 0.0},
    )


def test_robust_is_right_after_the_last_attack_and_a_suite_ends_with_its_own_last():
    evaluation = by_hand()
    assert evaluation.robust.tolist() == [False, False, False, False, True]
    assert evaluation.broken == {"fgsm": 1, "pgd": 1, "square": 1}
    shares = {"clean": 4, "robust": 1, "fgsm": 3, "pgd": 2, "square": 1, "gradients": 2, "all": 1}
    for name, count in shares.items():
        assert evaluation.interval(name) == wilson(count, 5), name


def test_seconds_are_those_that_were_spent():
    began = perf_counter()
    evaluation = evaluated()
    spent = perf_counter() - began
    assert all(seconds > 0 for seconds in evaluation.seconds.values())
    assert sum(evaluation.seconds.values()) < spent


def test_a_result_has_the_numbers_of_the_masks():
    evaluation = evaluated(curve=(0.5,))
    result = evaluation.result()
    assert result.n == 50
    assert result.clean == wilson(int(evaluation.clean.sum()), 50)
    assert result.robust == wilson(int(evaluation.robust.sum()), 50)
    assert result.loss == mean_of(evaluation.loss.numpy())
    assert list(result.by_attack) == list(evaluation.by_attack) == ["fgsm", "pgd-5", "cw-5", "min-norm"]
    for name, mask in evaluation.by_attack.items():
        assert result.by_attack[name] == wilson(int(mask.sum()), 50)
        assert (result.arrays[name] == mask.numpy()).all()
    points = [
        CurvePoint(eps, *vars(wilson(int(mask.sum()), 50)).values()) for eps, mask in evaluation.curve.items()
    ]
    assert result.curve == tuple(points)
    assert result.seconds == evaluation.seconds
    assert result.arrays["curve"].shape == (3, 50)
    assert result.arrays["curve_eps"].tolist() == [point.eps for point in result.curve]


def test_counts_say_how_many_images_each_attack_was_run_on_and_broke():
    """By hand: the second of two attacks gets the survivors of the first, a search for distances all."""
    evaluation = evaluated(attacks=("fgsm", "pgd-20"), threat=rl.ThreatModel("Linf", 0.3))
    right, after_fgsm, after_pgd, _ = (
        int(mask.sum()) for mask in (evaluation.clean, *evaluation.by_attack.values())
    )
    assert 0 < after_pgd < after_fgsm < right < 50
    assert evaluation.attacked == {"fgsm": right, "pgd-20": after_fgsm, "min-norm": right}
    assert evaluation.broken["fgsm"] == right - after_fgsm
    assert evaluation.broken["pgd-20"] == after_fgsm - after_pgd
    assert right - sum(evaluation.broken.values()) == int(evaluation.robust.sum())
    result = evaluation.result()
    assert (result.attacked, result.broken) == (evaluation.attacked, evaluation.broken)


def test_an_attack_of_many_tries_is_counted_once():
    model, x, y, margin = linear(n=40)
    threat = rl.ThreatModel("Linf", margin.quantile(0.3).item())
    evaluation = rl.evaluate(model, x, y, threat, ["fgsm", "pgd-2"], restarts=3, flags=False)
    right = (model(x).argmax(1) == y) & (margin > threat.eps)
    assert evaluation.attacked == {"fgsm": int(evaluation.clean.sum()), "pgd-2": int(right.sum())}
    assert evaluation.broken == {"fgsm": int((evaluation.clean & ~right).sum()), "pgd-2": 0}


def test_an_evaluation_that_leaves_nothing_counts_zero():
    model, x, _, _ = linear(n=10)
    evaluation = rl.evaluate(model, x, 1 - model(x).argmax(1), rl.ThreatModel("Linf", 0.1), ["fgsm"])
    assert (evaluation.attacked, evaluation.broken) == ({"fgsm": 0}, {"fgsm": 0})
    assert torch.equal(evaluation.robust, evaluation.clean)
