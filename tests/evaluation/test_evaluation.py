"""Evaluations as numbers: intervals, counts, arrays and gaps, from masks."""

import pytest
import torch

import robustlens as rl
from helpers.evaluated_models import evaluated, linear
from robustlens.evaluation import gaps
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
