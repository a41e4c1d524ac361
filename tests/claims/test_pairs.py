"""Matched pairs: seeds, pairing of images, layers as units, and the sensitivity checks of the note."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.claim_data import N, Net, sweep, write
from helpers.claim_stories import check_one, story
from robustlens.claims import CLAIMS
from robustlens.claims.estimates import Estimate
from robustlens.claims.evidence import StudyData
from robustlens.claims.pairs import Change, MatchedPair, limitation
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Quantity
from robustlens.stats.intervals import Inference


def test_one_seed_says_what_its_interval_does_not_cover(tmp_path):
    claim = check_one(tmp_path, "accuracy-falls", story("accuracy-falls", "holds"))
    assert claim.note.startswith(
        "one seed: the interval is over examples and does not cover training randomness"
    )


def test_two_seeds_are_labelled_and_three_are_not(tmp_path):
    two = check_one(tmp_path / "2", "accuracy-falls", story("accuracy-falls", "holds", seeds=2))
    three = check_one(tmp_path / "3", "accuracy-falls", story("accuracy-falls", "holds", seeds=3))
    assert "2 seeds" in two.note
    assert "at least 3 seeds" in two.note
    assert three.note.startswith("3 seeds: the interval covers training randomness and examples")


def test_seeds_that_disagree_widen_the_interval_until_it_holds_zero(tmp_path):
    falls = {0: (0.95, 0.80), 1: (0.85, 0.84), 2: (0.83, 0.86)}
    nets = [
        Net(eps, "at" if eps else "standard", seed=seed, knobs={"accuracy": value})
        for seed, values in falls.items()
        for eps, value in zip((0.0, 0.1), values, strict=True)
    ]
    assert check_one(tmp_path / "1", "accuracy-falls", nets[:2]).verdict == "as claimed"
    several = check_one(tmp_path / "3", "accuracy-falls", nets)
    assert several.effect.value == pytest.approx(-0.1300 / 3, abs=1e-6)
    assert several.verdict == "inconclusive"
    assert several.effect.low < -0.15


def test_directions_that_were_not_resampled_are_said_to_be_so(tmp_path):
    claim = check_one(tmp_path, "awp-flatter", story("awp-flatter", "holds"))
    assert "does not cover training randomness; 2 random directions are not resampled" in claim.note


def test_the_same_images_are_paired_whatever_their_order(tmp_path):
    order = np.random.default_rng(0).permutation(N)
    right, lost = np.arange(N) < 320, np.arange(N) < 300
    weak = Net(0.0, "standard", arrays={"test/clean": right})
    strong = Net(0.1, arrays={"test/clean": lost})
    shuffled = replace(strong, arrays={"test/clean": lost[order], "test/index": order})
    other = replace(strong, arrays={"test/clean": lost, "test/index": np.arange(N) + 5000})
    plain, again, apart = (
        check_one(tmp_path / str(i), "accuracy-falls", [weak, net])
        for i, net in enumerate((strong, shuffled, other))
    )
    assert plain.effect == again.effect
    # 20 images of 400 are lost and none won: a share of 0.05, whose own standard error is 0.0109.
    assert plain.effect.high - plain.effect.low == pytest.approx(2 * 1.96 * 0.0109, rel=0.1)
    assert plain.verdict == "as claimed"
    # Unpaired, the errors of both shares add up: sqrt(0.8 * 0.2 / 400 + 0.75 * 0.25 / 400) = 0.0295.
    assert apart.effect.high - apart.effect.low == pytest.approx(2 * 1.96 * 0.0295, rel=0.1)
    assert apart.verdict == "unclear"
    assert "different images" in apart.note


def test_without_a_saved_index_rows_are_paired(tmp_path):
    nets = [replace(net, drop=("smoothness/index",)) for net in story("smoother-under-attack", "equal")]
    claim = check_one(tmp_path, "smoother-under-attack", nets)
    assert (claim.effect.low, claim.effect.high) == (0.0, 0.0)


def test_spectra_have_layers_for_units_and_six_of_them_are_needed(tmp_path):
    claim = check_one(tmp_path / "8", "singular-spread-falls", story("singular-spread-falls", "holds"))
    assert "over layers" in claim.note
    folder = write(tmp_path / "5", story("singular-spread-falls", "holds"))
    for run in StudyFolder(folder).runs():
        result = run.explanation()
        assert result is not None
        spectrum = result.measures["spectrum"]
        layers = {"layers": dict(list(spectrum.at("layers").items())[:5])}
        run.write("explanation", replace(result, measures={"spectrum": replace(spectrum, value=layers)}))
    five = CLAIMS["singular-spread-falls"].check(StudyData.of(StudyFolder(folder)))
    assert five.verdict == "unclear"
    assert "5 layers are too few" in five.why
    assert five.effect.value == pytest.approx(-40.0)
    assert five.effect.low is None


def test_spectra_of_several_seeds_are_as_uncertain_as_the_seeds(tmp_path):
    falls = {0: 0.3, 1: 0.45, 2: 0.55}
    nets = [Net(0.0, "standard", seed=seed, knobs={"spectrum": 0.5}) for seed in falls]
    nets += [Net(0.1, seed=seed, knobs={"spectrum": value}) for seed, value in falls.items()]
    claim = check_one(tmp_path, "singular-spread-falls", nets)
    assert claim.statistic.value == 1.0  # on average over seeds it falls in every layer
    assert claim.verdict == "inconclusive"
    assert claim.effect.low < -40 < 0 < claim.effect.high


def test_a_raw_spread_that_falls_with_the_scale_only_is_noted(tmp_path):
    nets = sweep({0.0: {"spectrum": 0.5}, 0.1: {"spectrum": 0.4, "spectrum_mean": 0.5}})
    claim = check_one(tmp_path, "singular-spread-falls", nets)
    assert claim.verdict == "as claimed"
    assert "std over mean of singular values goes the other way, +60 %" in claim.note


def test_a_landscape_that_is_flat_by_low_confidence_only_is_noted(tmp_path):
    nets = [Net(0.1, knobs={"rise": 1.0}), Net(0.1, awp=True, knobs={"rise": 0.5, "matched": 0.7})]
    claim = check_one(tmp_path, "awp-flatter", nets)
    assert claim.verdict == "as claimed"
    assert "temperature-matched rise goes the other way, +0.2 (low confidence alone looks flat)" in claim.note
    agreed = check_one(
        tmp_path / "b", "awp-flatter", [nets[0], replace(nets[1], knobs={"rise": 0.5, "matched": 0.2})]
    )
    assert "temperature-matched rise: -0.3" in agreed.note


def test_the_share_of_indecisive_errors_is_given_beside_their_rate(tmp_path):
    # The knob moves 0.1 to 0.5 of the errors, which are half of the images.
    claim = check_one(tmp_path, "errors-indecisive", story("errors-indecisive", "holds"))
    assert claim.effect.value == pytest.approx(0.2)
    assert "share of the errors that are indecisive: +0.4" in claim.note


def test_a_sensitivity_check_that_was_not_measured_says_so(tmp_path):
    nets = [replace(net, drop=("landscape/test_matched",)) for net in story("awp-flatter", "holds")]
    claim = check_one(tmp_path, "awp-flatter", nets)
    assert claim.verdict == "as claimed"
    assert "temperature-matched rise: not measured" in claim.note


def test_margins_that_differ_by_sampling_alone_do_not_come_closer(tmp_path):
    # Train and test are drawn alike at both strengths, but wide margins give a larger distance by chance.
    def drawn(spread: float, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            f"margins/{split}_probability": (spread * rng.normal(size=N)).clip(-1, 1).astype(np.float32)
            for split in ("train", "test")
        }

    checked = []
    for trial in range(20):
        weak = Net(0.0, "standard", arrays=drawn(0.5, 2 * trial))
        strong = Net(0.1, arrays=drawn(0.02, 2 * trial + 1))
        checked.append(check_one(tmp_path / str(trial), "train-test-margins-closer", [weak, strong]))
    assert sum(claim.verdict == "unclear" for claim in checked) >= 18
    assert any("no more than sampling alone gives" in claim.why for claim in checked)


def test_before_is_the_weakest_or_without_awp_and_after_the_strongest_or_with(tmp_path):
    sweeping = check_one(tmp_path / "sweep", "accuracy-falls", story("accuracy-falls", "holds"))
    assert "went from 0.9 (Standard) to 0.7 (AT 0.2)" in sweeping.why
    assert (sweeping.values[0].eps, sweeping.values[-1].eps) == (0.0, 0.2)
    pair = check_one(tmp_path / "pair", "awp-flatter", story("awp-flatter", "holds"))
    assert "went from 1 (AT 0.1) to 0.4 (AT+AWP 0.1)" in pair.why
    # Several pairs of different methods: the means over them, (1 + 2) / 2 and (0.6 + 1) / 2.
    nets = [
        Net(0.1, objective, awp=awp, knobs={"rise": rise})
        for objective, awp, rise in (
            ("at", False, 1.0),
            ("at", True, 0.6),
            ("trades", False, 2.0),
            ("trades", True, 1.0),
        )
    ]
    several = check_one(tmp_path / "several", "awp-flatter", nets)
    assert "went from 1.5 (mean without AWP) to 0.8 (mean with AWP)" in several.why


@pytest.mark.parametrize("direction", [1, -1])
def test_the_larger_of_two_distances_is_compared_with_what_sampling_alone_gives(tmp_path, direction):
    study = StudyData.of(StudyFolder(write(tmp_path, sweep({0.0: {}, 0.1: {}}))))

    def pair(*floors: float) -> list[MatchedPair]:
        def side(run, value, floor):
            return Estimate(run, Quantity(lambda: np.array([value]), floor=lambda: floor), np.array(value))

        smaller_and_larger = (0.02, floors[0]), (0.05, floors[1])
        values = zip(study.runs, smaller_and_larger[::direction], strict=True)
        return [MatchedPair(*(side(run, *value) for run, value in values))]

    change = Change(Inference(0.03 * direction, 0.01 * direction, 0.05 * direction), 1)
    assert limitation(change, pair(0.03, 0.04)) == ""  # the smaller is within its floor, the larger is not
    beyond = "even the larger value, 0.05, is no more than sampling alone gives (up to 0.06)"
    assert limitation(change, pair(0.01, 0.06)) == beyond
