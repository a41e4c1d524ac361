"""Correlations over methods and along training, against values worked by hand."""

from dataclasses import replace

import pytest

from helpers.claim_data import Net, write
from helpers.claim_stories import ASSOCIATION, check_one, story
from robustlens.claims import CLAIMS
from robustlens.claims.evidence import StudyData
from robustlens.config import LAST, Checkpoint
from robustlens.results import StudyFolder


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
