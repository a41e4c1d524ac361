"""Sweeps over strengths and pairs with and without AWP: effects, statistics, and runs that do not fit."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import LAYERS, N, Net, sweep
from helpers.claim_stories import ALONG, ASSOCIATIONS, PAIRS, SWEEPS, check_one, story
from robustlens.results import ClaimResult


@pytest.mark.parametrize("name", [*SWEEPS, *PAIRS])
def test_the_effect_is_the_difference_that_was_put_in(tmp_path, name):
    effect = check_one(tmp_path, name, story(name, "holds")).effect
    _, _, expected = (SWEEPS | PAIRS)[name]
    assert effect.value == pytest.approx(expected, abs=1e-5)
    if not name.startswith(("singular-", "directions-")):  # all layers fall by as much here
        assert effect.low < effect.value < effect.high


@pytest.mark.parametrize("name", list(SWEEPS))
def test_the_values_are_those_that_were_put_in(tmp_path, name):
    _, values, _ = SWEEPS[name]
    if name == "margins-concentrate":  # half of the images are right; of the wrong ones 20 % are near as well
        values = [(value + 0.2) / 2 for value in values]
    if name == "ramp-gap-shrinks":
        values = [0.155, 0.125, 0.05]
    if name == "training-margins-concentrate":
        values = [0.0, 0.1, 0.15]
    if name == "errors-indecisive":  # half of the images are errors
        values = [value / 2 for value in values]
    if name == "training-error-grows":
        values = [1 - value for value in values]
    if name == "margins-rank-distances":
        values = [(20 * value / 200 - 0.01) / 0.09 for value in values]
    if name == "better-calibrated":
        values = [value - 0.5 for value in values]
    if name == "activation-spread-falls":  # norms of 10 in layer 1, of 80 in layer 8
        values = [45 * value for value in values]
    if name in (
        "singular-spread-falls",
        "singular-volume-falls",
        "feature-change-falls",
    ):  # layer i has i times as much, of 8
        values = [4.5 * value for value in values]
    claim = only_values(check_one(tmp_path, name, story(name, "holds")))
    assert claim == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("name", [*PAIRS, *ASSOCIATIONS, *ALONG])
def test_the_values_of_awp_claims_are_those_that_were_put_in(tmp_path, name):
    claim = check_one(tmp_path, name, story(name, "holds"))
    if name not in PAIRS:
        assert only_values(claim) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
        assert [value.against for value in claim.values] == pytest.approx([0.5, 0.7, 0.9, 1.1, 1.3, 1.5])
    else:
        assert only_values(claim) == pytest.approx(PAIRS[name][1], abs=1e-5)


def only_values(claim: ClaimResult) -> list[float]:
    return [value.value for value in claim.values]


def test_ends_that_differ_are_not_enough_where_the_sweep_does_not_follow(tmp_path):
    # Ranks of accuracy 4 1 3 2 over ranks of strength 1 2 3 4: rho = 1 - 6 * 14 / 60 = -0.4.
    nets = sweep(
        {eps: {"accuracy": v} for eps, v in zip((0, 0.1, 0.2, 0.3), (0.9, 0.6, 0.8, 0.7), strict=True)}
    )
    claim = check_one(tmp_path, "accuracy-falls", nets)
    assert claim.statistic.value == pytest.approx(-0.4)
    assert claim.effect.high < 0
    assert claim.verdict == "unclear"
    assert "support needs 0.5" in claim.why


def test_a_trend_against_the_claim_is_no_support_however_strong(tmp_path):
    # Twelve strengths: accuracy rises all the way, and falls below its start at the last. Every rank is off
    # by 1, but the last by 11: rho = 1 - 6 * (11 + 121) / (12 * 143).
    values = [0.6 + 0.02 * step for step in range(11)] + [0.4]
    nets = sweep({0.01 * step: {"accuracy": value} for step, value in enumerate(values)})
    claim = check_one(tmp_path, "accuracy-falls", nets)
    assert claim.statistic.value == pytest.approx(1 - 6 * 132 / (12 * 143))
    assert claim.effect.high < 0
    assert claim.verdict == "unclear"


def test_a_quantity_that_falls_in_half_of_the_layers_only_is_unclear(tmp_path):
    weak, strong = sweep({0.0: {"variation": 0.4}, 0.2: {"variation": 0.38}})
    rising = {
        f"activations/post-activation/{name}": scale * _norms(0.41)
        for scale, name in enumerate(LAYERS[:3], start=1)
    }
    claim = check_one(tmp_path, "activation-spread-falls", [weak, replace(strong, arrays=rising)])
    assert claim.statistic.value == pytest.approx(5 / 8)
    assert claim.effect.high < 0
    assert claim.verdict == "unclear"


def _norms(variation: float) -> np.ndarray:
    noise = np.random.default_rng(9).standard_normal(N)
    return (10 * (1 + variation * (noise - noise.mean()) / noise.std())).astype(np.float32)


def test_an_activation_saved_under_two_names_counts_once(tmp_path):
    nets = [
        replace(
            net,
            arrays={
                f"activations/post-activation/{name}": _norms(0.4 - 0.1 * bool(net.eps))
                for name in LAYERS[:3]
            },
        )
        for net in sweep({0.0: {"variation": 0.4}, 0.2: {"variation": 0.5}})
    ]
    # Of eight names three are one activation, which varies less; the other five vary more.
    assert check_one(tmp_path, "activation-spread-falls", nets).statistic.value == pytest.approx(1 / 6)


def test_a_change_of_layers_is_named_by_the_runs_of_the_first_seed(tmp_path):
    methods = {(0.0, 1): "Standard, longer", (0.2, 1): "AT, longer"}
    nets = [
        replace(net, method=methods.get((net.eps, net.seed), ""))
        for net in sweep({0.0: {"spectrum": 0.5}, 0.2: {"spectrum": 0.3}}, seeds=2)
    ]
    claim = check_one(tmp_path, "singular-spread-falls", nets)
    assert claim.why.startswith(
        "Std of singular values from Standard to AT 0.2, in the median layer a change"
    )


def test_a_sweep_without_a_seed_at_both_ends_says_so(tmp_path):
    nets = [Net(0.0, "standard"), Net(0.1, seed=1), Net(0.2, seed=2)]
    claim = check_one(tmp_path, "accuracy-falls", nets)
    assert claim.verdict == "untested"
    assert claim.why == "No training seed was run at both the weakest and the strongest strength."


def test_two_strengths_need_no_correlation(tmp_path):
    claim = check_one(tmp_path, "accuracy-falls", sweep({0.0: {"accuracy": 0.9}, 0.1: {"accuracy": 0.7}}))
    assert claim.verdict == "as claimed"
    assert "correlation" not in claim.why


def test_statistics_are_those_worked_by_hand(tmp_path):
    # Three seeds of three strengths in perfect order: 2 of (3!)^3 orders are as extreme.
    nets = sweep({0.0: {"accuracy": 0.9}, 0.1: {"accuracy": 0.8}, 0.2: {"accuracy": 0.7}}, seeds=3)
    statistic = check_one(tmp_path, "accuracy-falls", nets).statistic
    assert statistic.value == pytest.approx(-1.0)
    assert statistic.p == pytest.approx(2 / 216)
    layers = check_one(
        tmp_path / "b", "singular-spread-falls", story("singular-spread-falls", "holds")
    ).statistic
    assert (layers.value, layers.high) == (1.0, 1.0)
    assert layers.low == pytest.approx(0.025 ** (1 / 8))
    assert layers.p == pytest.approx(2 / 256)


@pytest.mark.parametrize("name", list(SWEEPS))
def test_one_strength_is_no_sweep(tmp_path, name):
    claim = check_one(tmp_path, name, [Net(0.0, "standard"), Net(0.1, "trades"), Net(0.1, awp=True)])
    assert claim.verdict == "untested"
    assert "at least two strengths" in claim.why


def test_a_study_without_awp_says_so(tmp_path):
    claim = check_one(tmp_path, "awp-flatter", sweep({0.0: {}, 0.1: {}}))
    assert (claim.verdict, claim.why) == (
        "untested",
        "The study has no adversarially trained run with AWP.",
    )


def test_awp_without_its_partner_says_so(tmp_path):
    claim = check_one(tmp_path, "awp-flatter", [Net(0.2), Net(0.1, awp=True), Net(0.1, "trades")])
    assert claim.verdict == "untested"
    assert "AT+AWP 0.1 (seed 0) has no matching run without AWP" in claim.why


def test_a_pair_is_of_one_objective_one_strength_and_one_seed(tmp_path):
    nets = [
        Net(0.1, knobs={"rise": 1.0}),
        Net(0.1, awp=True, knobs={"rise": 0.6}),
        Net(0.1, "trades", knobs={"rise": 2.0}),
        Net(0.1, "trades", awp=True, knobs={"rise": 1.0}),
        Net(0.1, seed=1, knobs={"rise": 9.0}),
    ]
    claim = check_one(tmp_path, "awp-flatter", nets)
    assert claim.effect.value == pytest.approx((-0.4 - 1.0) / 2, abs=1e-6)
    assert "2 of 2 pairs" in claim.why
    assert [value.label for value in claim.values] == [
        "AT 0.1",
        "AT+AWP 0.1",
        "TRADES 0.1",
        "TRADES+AWP 0.1",
    ]


def test_one_pair_is_no_share_of_pairs(tmp_path):
    claim = check_one(tmp_path, "awp-flatter", story("awp-flatter", "holds"))
    assert claim.statistic.name == "share of pairs in which it falls (1 of 1)"
    assert "pair" not in claim.why


def test_a_partner_is_the_run_of_the_same_recipe_without_awp(tmp_path):
    # Both plain runs have the same objective, strength and seed; one differs in its recipe otherwise.
    nets = [
        Net(0.1, method="AT wide", knobs={"robust_gap": 0.5}, unperturbed="wide"),
        Net(0.1, knobs={"robust_gap": 0.3}, unperturbed="plain"),
        Net(0.1, awp=True, knobs={"robust_gap": 0.2}, unperturbed="plain"),
        Net(0.1, awp=True, method="AWP, other", unperturbed="other"),
    ]
    claim = check_one(tmp_path, "awp-smaller-robust-gap", nets)
    assert claim.effect.value == pytest.approx(-0.1)
    assert "AWP, other 0.1 (seed 0) has no matching run without AWP" in claim.note


def test_awp_from_the_attack_is_no_part_of_the_papers_claim(tmp_path):
    nets = [Net(0.1, awp=awp, knobs={"robust_gap": gap}) for awp, gap in ((False, 0.3), (True, 0.1))]
    cheap = Net(0.1, awp=True, from_attack=True, method="cheap", knobs={"robust_gap": 0.9})
    claim = check_one(tmp_path, "awp-smaller-robust-gap", [*nets, cheap])
    assert claim.effect.value == pytest.approx(-0.2)


def test_another_perturbation_is_neither_awp_nor_its_partner_nor_a_strength(tmp_path):
    nets = [Net(0.1, awp=awp, knobs={"robust_gap": gap}) for awp, gap in ((False, 0.3), (True, 0.1))]
    other = Net(0.1, perturbation="rwp", method="RWP", knobs={"robust_gap": 0.9, "accuracy": 0.1})
    claim = check_one(tmp_path / "pairs", "awp-smaller-robust-gap", [other, *nets])
    assert claim.effect.value == pytest.approx(-0.2)
    strengths = check_one(tmp_path / "sweep", "accuracy-falls", [other, *story("accuracy-falls", "holds")])
    assert [value.label for value in strengths.values] == ["Standard", "AT 0.1", "AT 0.2"]


def test_a_strength_in_the_middle_may_be_missing_and_is_named(tmp_path):
    nets = story("accuracy-falls", "holds")
    nets[1] = replace(nets[1], status="failed")
    claim = check_one(tmp_path, "accuracy-falls", nets)
    assert claim.verdict == "as claimed"
    assert "missing: AT 0.1 (seed 0) failed" in claim.note
    assert len(claim.values) == 2


def test_a_strength_trained_in_two_ways_takes_the_method_with_more_runs(tmp_path):
    nets = [Net(0.1, method="AT+EMA", knobs={"accuracy": 0.1}), *story("accuracy-falls", "holds")]
    claim = check_one(tmp_path, "accuracy-falls", nets)
    assert [value.label for value in claim.values] == ["Standard", "AT 0.1", "AT 0.2"]
