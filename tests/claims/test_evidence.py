"""What claims make of seeds, pairing and layers, and of runs that are missing, damaged or odd."""

from dataclasses import replace

import numpy as np
import pytest

from helpers import claim_data
from helpers.claim_data import ASSOCIATION, LADDERS, N, Net, check_one, ladder, story
from robustlens import claims
from robustlens.results.folders import StudyFolder


def check(folder, name) -> claims.Claim:
    return {claim.id: claim for claim in claims.check(folder)}[name]


# -- seeds, pairing, layers ----------------------------------------------------------------------------


def test_one_seed_says_what_its_interval_does_not_cover(tmp_path):
    found = check_one(tmp_path, "accuracy-falls", story("accuracy-falls", "holds"))
    assert found.note == "one seed: the interval is over examples and does not cover training randomness"


def test_two_seeds_are_labelled_and_three_are_not(tmp_path):
    two = check_one(tmp_path / "2", "accuracy-falls", story("accuracy-falls", "holds", seeds=2))
    three = check_one(tmp_path / "3", "accuracy-falls", story("accuracy-falls", "holds", seeds=3))
    assert "2 seeds" in two.note
    assert "at least 3 seeds" in two.note
    assert three.note == "3 seeds: the interval covers training randomness and examples"


def test_seeds_that_disagree_widen_the_interval_until_it_holds_zero(tmp_path):
    falls = {0: (0.95, 0.80), 1: (0.85, 0.84), 2: (0.83, 0.86)}
    nets = [
        Net(eps, "at" if eps else "standard", seed=seed, knobs={"accuracy": value})
        for seed, values in falls.items()
        for eps, value in zip((0.0, 0.1), values, strict=True)
    ]
    assert check_one(tmp_path / "1", "accuracy-falls", nets[:2]).verdict == "supported"
    several = check_one(tmp_path / "3", "accuracy-falls", nets)
    assert several.effect.value == pytest.approx(-0.1300 / 3, abs=1e-6)
    assert several.verdict == "inconclusive"
    assert several.effect.low < -0.15


def test_directions_that_were_not_resampled_are_said_to_be_so(tmp_path):
    found = check_one(tmp_path, "awp-flatter", story("awp-flatter", "holds"))
    assert "does not cover training randomness; 2 random directions are not resampled" in found.note


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
    assert plain.verdict == "supported"
    # Unpaired, the errors of both shares add up: sqrt(0.8 * 0.2 / 400 + 0.75 * 0.25 / 400) = 0.0295.
    assert apart.effect.high - apart.effect.low == pytest.approx(2 * 1.96 * 0.0295, rel=0.1)
    assert apart.verdict == "inconclusive"
    assert "different images" in apart.note


def test_without_a_saved_index_rows_are_paired(tmp_path):
    nets = [replace(net, drop=("smoothness/index",)) for net in story("smoother-under-attack", "equal")]
    found = check_one(tmp_path, "smoother-under-attack", nets)
    assert (found.effect.low, found.effect.high) == (0.0, 0.0)


def test_spectra_have_layers_for_units_and_six_of_them_are_needed(tmp_path):
    found = check_one(tmp_path / "8", "singular-spread-falls", story("singular-spread-falls", "holds"))
    assert "over layers" in found.note
    folder = claim_data.write(tmp_path / "5", story("singular-spread-falls", "holds"))
    for run in StudyFolder(folder).runs():
        explanation = run.explanation
        layers = explanation["measures"]["spectrum"]["value"]["layers"]
        explanation["measures"]["spectrum"]["value"]["layers"] = dict(list(layers.items())[:5])
        run.write_json("explanation", explanation)
    five = check(folder, "singular-spread-falls")
    assert five.verdict == "inconclusive"
    assert "5 layers are too few" in five.why
    assert five.effect.value == pytest.approx(-40.0)
    assert five.effect.low is None


def test_spectra_of_several_seeds_are_as_uncertain_as_the_seeds(tmp_path):
    falls = {0: 0.3, 1: 0.45, 2: 0.55}
    nets = [Net(0.0, "standard", seed=seed, knobs={"spectrum": 0.5}) for seed in falls]
    nets += [Net(0.1, seed=seed, knobs={"spectrum": value}) for seed, value in falls.items()]
    found = check_one(tmp_path, "singular-spread-falls", nets)
    assert found.statistic.value == 1.0  # on average over seeds it falls in every layer
    assert found.verdict == "inconclusive"
    assert found.effect.low < -40 < 0 < found.effect.high


# -- second looks --------------------------------------------------------------------------------------


def test_a_raw_spread_that_falls_with_the_scale_only_is_noted(tmp_path):
    nets = ladder({0.0: {"spectrum": 0.5}, 0.1: {"spectrum": 0.4, "spectrum_mean": 0.5}})
    found = check_one(tmp_path, "singular-spread-falls", nets)
    assert found.verdict == "supported"
    assert "std over mean of singular values goes the other way, +60 %" in found.note


def test_a_landscape_that_is_flat_by_low_confidence_only_is_noted(tmp_path):
    nets = [Net(0.1, knobs={"rise": 1.0}), Net(0.1, awp=True, knobs={"rise": 0.5, "matched": 0.7})]
    found = check_one(tmp_path, "awp-flatter", nets)
    assert found.verdict == "supported"
    assert "temperature-matched rise goes the other way, +0.2 (low confidence alone looks flat)" in found.note
    agreed = check_one(
        tmp_path / "b", "awp-flatter", [nets[0], replace(nets[1], knobs={"rise": 0.5, "matched": 0.2})]
    )
    assert "temperature-matched rise: -0.3" in agreed.note


def test_the_rate_of_indecisive_errors_is_given_beside_their_share(tmp_path):
    # The knob moves 0.1 to 0.5 of the errors, which are half of the images.
    found = check_one(tmp_path, "errors-indecisive", story("errors-indecisive", "holds"))
    assert "rate of indecisive errors among all images: +0.2" in found.note


def test_a_second_look_that_was_not_measured_says_so(tmp_path):
    nets = [replace(net, drop=("landscape/test_matched",)) for net in story("awp-flatter", "holds")]
    found = check_one(tmp_path, "awp-flatter", nets)
    assert found.verdict == "supported"
    assert "temperature-matched rise: not measured" in found.note


# -- what may be missing or odd ------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(LADDERS))
def test_one_strength_is_no_ladder(tmp_path, name):
    found = check_one(tmp_path, name, [Net(0.0, "standard"), Net(0.1, "trades"), Net(0.1, awp=True)])
    assert found.verdict == "inconclusive"
    assert "at least two strengths" in found.why


def test_a_study_without_awp_says_so(tmp_path):
    found = check_one(tmp_path, "awp-flatter", ladder({0.0: {}, 0.1: {}}))
    assert (found.verdict, found.why) == (
        "inconclusive",
        "The study has no adversarially trained run with AWP.",
    )


def test_awp_without_its_twin_says_so(tmp_path):
    found = check_one(tmp_path, "awp-flatter", [Net(0.2), Net(0.1, awp=True), Net(0.1, "trades")])
    assert found.verdict == "inconclusive"
    assert "AT+AWP 0.1 (seed 0) has no twin without AWP" in found.why


def test_a_pair_is_of_one_objective_one_strength_and_one_seed(tmp_path):
    nets = [
        Net(0.1, knobs={"rise": 1.0}),
        Net(0.1, awp=True, knobs={"rise": 0.6}),
        Net(0.1, "trades", knobs={"rise": 2.0}),
        Net(0.1, "trades", awp=True, knobs={"rise": 1.0}),
        Net(0.1, seed=1, knobs={"rise": 9.0}),
    ]
    found = check_one(tmp_path, "awp-flatter", nets)
    assert found.effect.value == pytest.approx((-0.4 - 1.0) / 2, abs=1e-6)
    assert "2 of 2 pairs" in found.why
    assert [value["label"] for value in found.values] == [
        "AT 0.1",
        "AT+AWP 0.1",
        "TRADES 0.1",
        "TRADES+AWP 0.1",
    ]


def test_a_rung_in_the_middle_may_be_missing_and_is_named(tmp_path):
    nets = story("accuracy-falls", "holds")
    nets[1] = replace(nets[1], status="failed")
    found = check_one(tmp_path, "accuracy-falls", nets)
    assert found.verdict == "supported"
    assert "missing: AT 0.1 (seed 0) failed" in found.note
    assert len(found.values) == 2


def test_a_measure_that_was_not_taken_is_named(tmp_path):
    nets = story("smoother-under-attack", "holds")
    nets[2] = replace(nets[2], drop=("smoothness/probability_change",))
    found = check_one(tmp_path, "smoother-under-attack", nets)
    assert found.verdict == "inconclusive"
    assert "AT 0.2 (seed 0) has no smoothness/probability_change in its explanation" in found.why
    nets[2] = replace(nets[2], drop=("spectrum",))
    spectra = check_one(tmp_path / "b", "singular-spread-falls", nets)
    assert "AT 0.2 (seed 0) has no measure spectrum" in spectra.why


def test_a_damaged_file_makes_claims_inconclusive_and_is_named(tmp_path):
    folder = claim_data.write(tmp_path, story("accuracy-falls", "holds"))
    (StudyFolder(folder).runs()[0].folder / "evaluation.safetensors").write_bytes(b"\x00" * 40)
    found = check(folder, "accuracy-falls")
    assert found.verdict == "inconclusive"
    assert "evaluation.safetensors: damaged" in found.why


def test_runs_measured_under_different_conditions_are_not_compared(tmp_path):
    for name, how in (
        ("smoother-under-attack", {"eps": 0.3}),
        ("awp-flatter", {"eps": 0.3}),
        ("awp-smaller-robust-gap", {"attacks": ["fgsm"]}),
    ):
        nets = story(name, "holds")
        nets[1] = replace(nets[1], conditions=how)
        found = check_one(tmp_path / name, name, nets)
        assert found.verdict == "inconclusive"
        assert "under different conditions" in found.why


def test_flatness_is_read_at_the_largest_alpha_that_all_runs_share(tmp_path):
    nets = story("awp-flatter", "holds")
    other = {"landscape/alpha": np.array([-1.0, -0.25, 0.0, 0.25, 1.0])}
    found = check_one(tmp_path, "awp-flatter", [nets[0], replace(nets[1], arrays=other)])
    # At |alpha| = 1 the rises are twice the knobs 1.0 and 0.4.
    assert found.effect.value == pytest.approx(-1.2, abs=1e-5)
    none = {"landscape/alpha": np.array([-0.3, -0.2, 0.0, 0.2, 0.3])}
    apart = check_one(tmp_path / "b", "awp-flatter", [nets[0], replace(nets[1], arrays=none)])
    assert "no alpha up to 1 in common" in apart.why


def test_too_few_errors_or_images_are_inconclusive(tmp_path):
    few = {"margins/test_correct": np.arange(N) >= 7}
    nets = [replace(net, arrays=few) for net in story("errors-indecisive", "holds")]
    assert "makes 7 errors" in check_one(tmp_path / "a", "errors-indecisive", nets).why
    small = {"test/clean": np.arange(20) < 15, "test/index": np.arange(20)}
    nets = [replace(net, arrays=small) for net in story("accuracy-falls", "holds")]
    assert "on 20 images" in check_one(tmp_path / "b", "accuracy-falls", nets).why


def test_three_methods_are_too_few_to_correlate(tmp_path):
    found = check_one(tmp_path, ASSOCIATION, story(ASSOCIATION, "holds")[:3])
    assert found.verdict == "inconclusive"
    assert "at least 4" in found.why
    assert "found 3" in found.why


def test_seeds_of_a_method_are_no_new_methods(tmp_path):
    found = check_one(tmp_path, ASSOCIATION, story(ASSOCIATION, "holds", seeds=4)[::2])
    assert "found 3" in found.why


def test_a_strength_trained_in_two_ways_takes_the_method_with_more_runs(tmp_path):
    nets = [Net(0.1, method="AT+EMA", knobs={"accuracy": 0.1}), *story("accuracy-falls", "holds")]
    found = check_one(tmp_path, "accuracy-falls", nets)
    assert [value["label"] for value in found.values] == ["Standard", "AT 0.1", "AT 0.2"]


def test_margins_that_differ_by_sampling_alone_do_not_come_closer(tmp_path):
    # Train and test are drawn alike at both strengths, but wide margins give a larger distance by chance.
    def drawn(spread: float, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            f"margins/{split}_probability": (spread * rng.normal(size=N)).clip(-1, 1).astype(np.float32)
            for split in ("train", "test")
        }

    found = []
    for trial in range(20):
        weak = Net(0.0, "standard", arrays=drawn(0.5, 2 * trial))
        strong = Net(0.1, arrays=drawn(0.02, 2 * trial + 1))
        found.append(check_one(tmp_path / str(trial), "train-test-margins-closer", [weak, strong]))
    assert sum(claim.verdict == "inconclusive" for claim in found) >= 18
    assert any("no more than sampling alone gives" in claim.why for claim in found)
