"""Correlations over methods and along training, against values worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from helpers.claim_data import Net, write
from helpers.claim_stories import ASSOCIATION, check_one, story
from robustlens.claims import CLAIMS, correlations
from robustlens.claims.estimates import Estimate
from robustlens.claims.evidence import StudyData
from robustlens.config import LAST, Checkpoint
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Bootstrap, Quantity


def test_methods_are_the_units_along_training_and_their_seeds_are_not(tmp_path):
    def nets(method, gaps, seeds):
        along = {
            10 * (i + 1): {"rise": 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.08 * gap}
            for i, gap in enumerate(gaps)
        }
        return [Net(0.1, method=method, seed=seed, along=along) for seed in range(seeds)]

    claim = check_one(
        tmp_path,
        "gap-follows-landscape",
        [*nets("A", (0, 1, 2, 3), 6), *nets("B", (1, 0, 3, 2), 1), *nets("C", (3, 2, 1, 0), 1)],
    )
    assert claim.effect.value == pytest.approx((1 + 0.6 - 1) / 3)
    assert claim.verdict == "unclear"
    assert "2 of 3 methods" in claim.why


def test_correlations_along_training_are_averaged_over_runs(tmp_path):
    # Ranks 2 1 4 3 against 1 2 3 4: rho = 1 - 6 * 4 / 60 = 0.6; and 1 2 3 4 against themselves: 1.
    def net(seed, gaps):
        along = {
            10 * (i + 1): {"rise": 0.5 + 0.2 * i, "robust_gap": 0.05 + 0.08 * gap}
            for i, gap in enumerate(gaps)
        }
        return Net(0.1, seed=seed, along=along)

    short = Net(0.1, seed=2, along={10: {}, 20: {}, 30: {}})
    claim = check_one(tmp_path, "gap-follows-landscape", [net(0, (1, 0, 3, 2)), net(1, (0, 1, 2, 3)), short])
    assert claim.effect.value == pytest.approx(0.8)
    # Student's with one degree of freedom over two runs: half the difference is 0.2.
    assert claim.effect.low == pytest.approx(max(-1, 0.8 - 12.7062 * 0.2))
    assert claim.effect.high == 1.0
    assert claim.statistic.value == 1.0
    assert "AT 0.1 (seed 2) was measured at 3 epochs" in claim.note
    assert "grow with time alone" in claim.note
    assert "2 runs, at 4 epochs each" in claim.why
    assert [value.checkpoint for value in claim.values[:4]] == [
        "epoch-0010",
        "epoch-0020",
        "epoch-0030",
        "last",
    ]


def test_three_methods_are_too_few_to_correlate(tmp_path):
    claim = check_one(tmp_path, ASSOCIATION, story(ASSOCIATION, "holds")[:3])
    assert claim.verdict == "untested"
    assert "at least 4" in claim.why
    assert "found 3" in claim.why


def test_seeds_of_a_method_are_no_new_methods(tmp_path):
    claim = check_one(tmp_path, ASSOCIATION, story(ASSOCIATION, "holds", seeds=4)[::2])
    assert "found 3" in claim.why


def test_an_epoch_that_is_also_the_last_counts_once(tmp_path):
    along = {10 * step: {"rise": 0.2 * step, "robust_gap": 0.05 * step} for step in range(1, 5)}
    study = StudyFolder(write(tmp_path, [Net(0.1, along=along)]))
    (run,) = study.runs()
    evaluation, explanation = run.evaluation(LAST), run.explanation(LAST)
    assert evaluation is not None
    assert explanation is not None
    run.write("evaluation", evaluation, Checkpoint("epoch", 40))
    run.write("explanation", explanation, Checkpoint("epoch", 40))
    claim = CLAIMS["gap-follows-landscape"].check(StudyData.of(study))
    names = [value.checkpoint for value in claim.values]
    assert names == ["epoch-0010", "epoch-0020", "epoch-0030", "last"]


def test_methods_are_distinguished_by_their_perturbation(tmp_path):
    nets = story(ASSOCIATION, "holds")[:3]
    perturbed = replace(nets[0], perturbation="rwp", seed=1)
    claim = check_one(tmp_path, ASSOCIATION, [*nets, perturbed])
    assert claim.statistic.name == "Spearman over 4 methods"


def test_the_p_value_is_the_larger_of_the_permutations_and_of_the_intervals(tmp_path):
    nets = story(ASSOCIATION, "holds", seeds=3)
    perfect = check_one(tmp_path / "perfect", ASSOCIATION, nets)
    # Of 6! orders 2 are as extreme.
    assert perfect.statistic.p == perfect.effect.p == pytest.approx(2 / math.factorial(6))
    swapped = [
        replace(net, knobs={**net.knobs, "robust_gap": 0.05 + 0.05 * (place % 6 ^ 1)})
        for place, net in enumerate(nets)
    ]
    claim = check_one(tmp_path / "swapped", ASSOCIATION, swapped)
    rho = 1 - 6 * 6 / 210  # ranks 2 1 4 3 6 5
    assert claim.statistic.value == pytest.approx(rho)
    # 42 of 720 orders are as far from none; Fisher's z has p 0.077.
    assert claim.statistic.p == pytest.approx(42 / 720)
    error = math.sqrt((1 + rho**2 / 2) / 3)
    assert claim.effect.p == pytest.approx(2 * stats.norm.sf(math.atanh(rho) / error))
    assert claim.effect.p > claim.statistic.p


def points(runs, pairs):
    """Two quantities of each run that have these values on every resample."""

    def exactly(run, value):
        return Estimate(run, Quantity(lambda: np.array([value])), np.array(value))

    return [
        correlations.Point(exactly(run, x), exactly(run, y)) for run, (x, y) in zip(runs, pairs, strict=True)
    ]


def resampled(low, high):
    return f"a bootstrap over methods, seeds and examples gives {low:+.2f} to {high:+.2f}"


@pytest.fixture(scope="module")
def five_runs(tmp_path_factory):
    nets = [Net(0.1, method=f"M{number}") for number in range(5)]
    return StudyData.of(StudyFolder(write(tmp_path_factory.mktemp("study"), nets))).runs


def test_methods_and_their_seeds_are_drawn_anew(five_runs):
    bootstrap = Bootstrap(2000)
    order = [points(five_runs[:1], [(x, 2.0 * x)]) for x in (1.0, 2.0, 3.0, 4.0)]
    assert correlations._resampled_across(order, bootstrap) == resampled(1, 1)
    back = [points(five_runs[:1], [(x, -x)]) for x in (1.0, 2.0, 3.0, 4.0)]
    assert correlations._resampled_across(back, bootstrap) == resampled(-1, -1)
    # A method of two seeds, which fall on either side of the other: drawn anew, their mean does as well.
    either = [points(five_runs[:2], [(1.0, 0.0), (1.0, 4.0)]), points(five_runs[2:3], [(2.0, 1.0)])]
    assert correlations._resampled_across(either, bootstrap) == resampled(-1, 1)
    # Both seeds on one side: whichever are drawn, the order of the methods stays.
    same = [points(five_runs[:2], [(1.0, 0.0), (1.0, 0.5)]), points(five_runs[2:3], [(2.0, 1.0)])]
    assert correlations._resampled_across(same, bootstrap) == resampled(1, 1)


def test_methods_are_drawn_anew_along_training_and_runs_within_them(five_runs):
    bootstrap, runs = Bootstrap(2000), five_runs[:4]
    up = points(runs, [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0)])
    down = points(runs, [(1.0, 4.0), (2.0, 3.0), (3.0, 2.0), (4.0, 1.0)])
    assert correlations._resampled_along([[up, up], [up]], bootstrap) == resampled(1, 1)
    assert correlations._resampled_along([[up], [down]], bootstrap) == resampled(-1, 1)
    # One method, two runs: their correlations are drawn anew; one method, one run: nothing is left to draw.
    assert correlations._resampled_along([[up, down]], bootstrap) == resampled(-1, 1)
    assert correlations._resampled_along([[down]], bootstrap) == resampled(-1, -1)


def test_draws_come_from_the_last_axis_alike_for_both_quantities():
    values = np.broadcast_to(np.arange(5.0), (2, 1000, 5)) + np.array([0.0, 10.0])[:, None, None]
    drawn = correlations._drawn(values, np.random.default_rng(0))
    assert drawn.shape == (2, 1000, 5)
    np.testing.assert_array_equal(drawn[1], drawn[0] + 10)
    counts = np.bincount(drawn[0].astype(int).ravel(), minlength=5)
    assert len(counts) == 5
    assert counts.min() > 900  # of 1000 each
    assert not (drawn == drawn[:, :1]).all()  # every resample has a draw of its own
