"""The chain of Wen et al.: links at a fixed strength, and what holding singular values changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats

from helpers.chain_stories import BOUNDS, LINKS, bounds_story, link_story
from helpers.claim_data import Net, sweep, write
from helpers.claim_stories import check_one
from robustlens.claims.evidence import StudyData
from robustlens.claims.wen2020 import chain, intervention, quantities
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Bootstrap


@pytest.mark.parametrize(
    ("how", "verdict"), [("holds", "supported"), ("reversed", "not supported"), ("same", "inconclusive")]
)
@pytest.mark.parametrize("name", LINKS)
def test_links_are_judged_within_strengths(tmp_path, name, how, verdict):
    # From one strength to the next both quantities go the other way, which has no part in it.
    claim = check_one(tmp_path, name, link_story(name, how))
    assert claim.verdict == verdict, claim.why
    expected = {"holds": 1.0, "reversed": -1.0, "same": 0.0}[how] * LINKS[name][2]
    assert claim.effect.value == pytest.approx(expected, abs=1e-9)
    assert "12 networks of 3 methods and strengths" in claim.why
    assert claim.statistic.p == pytest.approx(1.0 if how == "same" else 2 / math.factorial(4) ** 3)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_whose_quantity_does_not_differ_is_inconclusive(tmp_path, name):
    claim = check_one(tmp_path, name, link_story(name, "equal"))
    assert claim.verdict == "inconclusive"
    assert "is the same in all networks that were trained alike" in claim.why


@pytest.mark.parametrize("name", LINKS)
def test_one_network_of_each_method_leaves_a_link_untested(tmp_path, name):
    claim = check_one(tmp_path, name, link_story(name, "holds")[::4])
    assert claim.verdict == "untested"
    assert yaml.safe_load(claim.remedy) == {"seeds": [0, 1, 2, 3, 4]}
    # Two seeds at each of two strengths are four networks, of which one is spent on the second strength.
    few = [net for net in link_story(name, "holds", (0.0, 0.1)) if net.seed < 2]
    claim = check_one(tmp_path / "few", name, few)
    assert claim.verdict == "untested"
    assert "found 4 of 2" in claim.why


def test_planned_networks_that_failed_are_named_without_a_remedy(tmp_path):
    nets = [replace(net, status="failed") for net in link_story("loss-gap-follows-concentration", "holds")]
    claim = check_one(tmp_path, "loss-gap-follows-concentration", nets)
    assert claim.verdict == "untested"
    assert "failed (the loss became NaN)" in claim.why
    assert claim.remedy == ""


def test_another_setting_is_a_stratum_of_its_own(tmp_path):
    nets = link_story("loss-gap-follows-concentration", "holds", (0.1,))
    nets = [replace(net, setting="wide" if net.seed % 2 else "narrow") for net in nets]
    assert "Needs at least 4 networks" in check_one(tmp_path, "loss-gap-follows-concentration", nets).why


def test_methods_of_a_strength_are_ranked_together_in_a_second_look(tmp_path):
    name = "loss-gap-follows-concentration"
    nets = link_story(name, "holds", (0.1,))
    assert "among all methods" not in check_one(tmp_path, name, nets).note
    # TRADES has more images near the boundary and a larger gap: of eight ranks 1 to 4 and 5 to 8 fall in each.
    trades = [
        replace(
            net,
            method="TRADES",
            objective="trades",
            knobs={key: value + 0.2 for key, value in net.knobs.items()},
        )
        for net in nets
    ]
    claim = check_one(tmp_path / "both", name, [*nets, *trades])
    assert claim.effect.value == pytest.approx(-1.0)
    rho = 1 - 6 * 2 * 2 * (3**2 + 1) / (8 * 63)
    assert f"second look: among all methods of a strength goes the other way, {rho:+.2f}" in claim.note


def test_layers_count_by_their_geometric_mean(tmp_path):
    write(tmp_path, [Net(knobs={"spectrum": 0.5})])
    run = StudyData.of(StudyFolder(tmp_path), Bootstrap(10)).runs[0]
    mean = chain.over_layers(quantities.spectrum_spread)(run)
    assert float(mean.value()) == pytest.approx(0.5 * math.factorial(8) ** (1 / 8))
    assert mean.layers == ()


def test_a_link_says_which_operator_its_singular_values_are_of(tmp_path):
    name = "activations-follow-singular-values"
    claim = check_one(tmp_path, name, link_story(name, "holds"))
    assert "operator: feature map, circular borders" in claim.note


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "as claimed"), (3, "supported")])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_that_do_what_the_claim_says_support_it(tmp_path, name, seeds, verdict):
    claim = check_one(tmp_path, name, bounds_story(name, "holds", seeds))
    assert claim.verdict == verdict, claim.why
    assert claim.effect.value == pytest.approx(BOUNDS[name][2], abs=1e-4)
    assert len(claim.values) == 2 * seeds  # TRADES is no partner


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "opposite"), (3, "not supported")])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_that_do_the_opposite_do_not_support_it(tmp_path, name, seeds, verdict):
    assert check_one(tmp_path, name, bounds_story(name, "reversed", seeds)).verdict == verdict


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_that_change_nothing_are_unclear(tmp_path, name):
    assert check_one(tmp_path, name, bounds_story(name, "equal")).verdict == "unclear"


@pytest.mark.parametrize("name", BOUNDS)
def test_without_bounds_the_claim_is_untested(tmp_path, name):
    claim = check_one(tmp_path, name, sweep({0.0: {}, 0.1: {}}))
    assert claim.verdict == "untested"
    bounded = yaml.safe_load(claim.remedy)["methods"][1]
    assert bounded["capacity"] == {"low": 0.8, "high": 1.25}
    alone = check_one(tmp_path / "alone", name, bounds_story(name, "holds")[1:])
    assert alone.verdict == "untested"
    assert "AT 0.1" not in alone.why
    assert "AT bounded 0.1 (seed 0) has no matching run without bounds" in alone.why


def test_partners_have_the_same_recipe_but_for_the_bounds(tmp_path):
    write(tmp_path, bounds_story("bounds-shrink-loss-gap", "holds", seeds=2))
    study = StudyData.of(StudyFolder(tmp_path), Bootstrap(10))
    pairs = intervention.bounded_pairs(study)
    assert [(run.name, partner.name) for run, partner in pairs if partner] == [
        (f"AT bounded 0.1 (seed {seed})", f"AT 0.1 (seed {seed})") for seed in range(2)
    ]
    np.testing.assert_array_equal([run.entry.unbounded for run, _ in pairs], ["at 0", "at 1"])


def test_the_interval_is_fishers_with_a_network_less_for_each_further_stratum(tmp_path):
    name = "loss-gap-follows-concentration"
    nets = link_story(name, "holds")
    # At the first strength two neighbours change places: ranks 2 1 3 4, so 1 - 6 * 2 / 60 = 0.8 of three strata.
    gaps = [net.knobs["loss_gap"] for net in nets]
    gaps[0], gaps[1] = gaps[1], gaps[0]
    nets = [replace(net, knobs={**net.knobs, "loss_gap": gap}) for net, gap in zip(nets, gaps, strict=True)]
    claim = check_one(tmp_path, name, nets)
    rho = -(0.8 + 1 + 1) / 3
    assert claim.effect.value == pytest.approx(rho)
    error = math.sqrt((1 + rho**2 / 2) / (12 - 2 - 3))
    assert claim.effect.high == pytest.approx(math.tanh(math.atanh(rho) + stats.norm.ppf(0.975) * error))
