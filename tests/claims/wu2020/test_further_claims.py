"""Further claims about AWP, and about flatness at images: data that support, that reverse, and that lack."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from helpers.awp_stories import AWP_STORIES, FALL, GAMMA, SMALL, awp_story
from helpers.claim_data import N, Net, sweep, write
from helpers.claim_stories import check_one
from robustlens import claims
from robustlens.claims.evidence import StudyData
from robustlens.claims.robustness import robust_accuracy
from robustlens.claims.wu2020 import overfitting, selections
from robustlens.results import EpochRecord, MonitorRecord, StudyFolder
from robustlens.stats.bootstrap import Bootstrap

NAMES = list(AWP_STORIES)


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "as claimed"), (3, "supported")])
@pytest.mark.parametrize("name", NAMES)
def test_data_that_support_a_claim_support_it(tmp_path, name, seeds, verdict):
    claim = check_one(tmp_path, name, awp_story(name, "holds", seeds))
    assert claim.verdict == verdict, claim.why
    assert claim.seeds == seeds
    values = AWP_STORIES[name][1]
    assert claim.effect.value == pytest.approx(values[-1] - values[0], abs=1e-5)


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "opposite"), (3, "not supported")])
@pytest.mark.parametrize("name", NAMES)
def test_reversed_data_do_not_support_it(tmp_path, name, seeds, verdict):
    claim = check_one(tmp_path, name, awp_story(name, "reversed", seeds))
    assert claim.verdict == verdict, claim.why
    assert "opposite" in claim.why


@pytest.mark.parametrize("name", NAMES)
def test_data_without_a_difference_are_unclear(tmp_path, name):
    assert check_one(tmp_path, name, awp_story(name, "equal")).verdict == "unclear"


@pytest.mark.parametrize("name", NAMES)
def test_where_runs_are_lacking_it_is_untested_with_the_lines_that_would_measure_it(tmp_path, name):
    claim = check_one(tmp_path, name, sweep({0.0: {}, 0.1: {}}))
    assert claim.verdict == "untested"
    lines = yaml.safe_load(claim.remedy)
    if "images" in name.split("-"):
        assert lines == {"explanation": {"measures": ["sharpness"]}}
    else:
        assert any("awp" in method for method in lines["methods"])


@pytest.mark.parametrize("name", NAMES)
def test_failed_runs_leave_it_untested_and_are_named(tmp_path, name):
    failed = [replace(net, status="failed") for net in awp_story(name, "holds")]
    claim = check_one(tmp_path, name, failed)
    assert claim.verdict == "untested"
    assert "failed (the loss became NaN)" in claim.why


def test_the_last_checkpoint_that_was_not_evaluated_is_named_with_its_remedy(tmp_path):
    claim = check_one(tmp_path, "awp-beats-early-stopping", [Net(0.1), Net(0.1, awp=True)])
    assert claim.verdict == "untested"
    assert "has no evaluation-last" in claim.why
    assert yaml.safe_load(claim.remedy)["evaluation"] == {"checkpoint": "every"}


def test_each_objective_gets_a_verdict_of_its_own(tmp_path):
    nets = [
        Net(0.1, objective, awp=awp, seed=seed, knobs={"robust": 0.4 + awp * change})
        for objective, change in (("at", 0.2), ("trades", -0.2))
        for awp in (False, True)
        for seed in range(3)
    ]
    study = StudyData.of(StudyFolder(write(tmp_path, nets)), Bootstrap(500))
    found = {claim.setting: claim.verdict for claim in claims.CLAIMS["awp-more-robust"].claims(study)}
    assert found == {"": "inconclusive", "for AT": "supported", "for TRADES": "not supported"}


def test_of_a_ladder_the_rung_nearest_to_the_paper_is_the_methods_awp(tmp_path):
    def rung(gamma, objective, **options):
        name = f"{objective} {gamma} {options}"
        return Net(0.1, objective, awp=True, method=name, options={"gamma": gamma, **options})

    nets = [Net(0.1), rung(0.001, "at"), rung(0.009, "at"), rung(0.05, "at"), rung(0.01, "at", steps=2),
            Net(0.1, "trades"), rung(0.004, "trades"), rung(0.01, "trades")]  # fmt: skip
    study = StudyData.of(StudyFolder(write(tmp_path, nets)))
    assert [run.entry.method for run, _ in selections.against_none(study)] == [
        "at 0.009 {}",
        "trades 0.004 {}",
    ]
    gammas = [
        [run.entry.perturbation_options["gamma"] for run in own] for own in selections.ladders(study, "gamma")
    ]
    assert gammas == [[0.001, 0.009, 0.05], [0.004, 0.01]]


def test_awp_by_some_images_is_no_awp_of_the_paper(tmp_path):
    nets = [Net(0.1), Net(0.1, awp=True, options=SMALL)]
    claim = check_one(tmp_path, "awp-more-robust", nets)
    assert (claim.verdict, claim.why) == ("untested", "The study has no adversarially trained run with AWP.")


def test_a_ladder_that_turns_back_is_unclear(tmp_path):
    nets = [
        Net(0.1, awp=True, method=f"gamma {gamma}", knobs={"rise": rise}, options={"gamma": gamma})
        for gamma, rise in ((0.001, 1.0), (0.002, 0.3), (0.004, 0.4), (0.008, 0.9))
    ]
    # Ranks 4 1 2 3 over 1 2 3 4: rho = 1 - 6 * (9 + 1 + 1 + 1) / 60 = -0.2.
    claim = check_one(tmp_path, "awp-larger-flatter", nets)
    assert claim.statistic.value == pytest.approx(-0.2)
    assert claim.verdict == "unclear"
    assert "support needs 0.5" in claim.why


def test_robust_accuracy_after_each_attack_stands_in_the_note(tmp_path):
    nets = awp_story("awp-more-robust", "holds")
    folder = StudyFolder(write(tmp_path, nets))
    for run in folder.runs():
        evaluation = run.evaluation()
        test = evaluation.splits["test"]
        arrays = {
            **test.arrays,
            "pgd-20": test.arrays["robust"] | (np.arange(N) < 40),
            "cw-20": test.arrays["robust"],
        }
        splits = {**evaluation.splits, "test": replace(test, arrays=arrays)}
        run.write("evaluation", replace(evaluation, attacks=("pgd-20", "cw-20"), splits=splits))
    study = StudyData.of(StudyFolder(tmp_path), Bootstrap(500))
    note = claims.CLAIMS["awp-more-robust"].check(study).note
    assert "second look: robust accuracy after pgd-20: +0.1" in note
    assert "second look: robust accuracy after cw-20: +0.2" in note


def test_flatter_networks_are_correlated_without_awp_first_and_then_with(tmp_path):
    # Without AWP the gap grows with the rise; AWP has both the flattest landscapes and the largest gaps.
    methods = ("at", "trades", "mart", "fgsm")
    nets = [
        Net(0.1, objective, awp=awp, seed=seed,
            knobs={"rise": 1.0 + 0.2 * i - 0.9 * awp, "robust_gap": 0.1 + 0.05 * i + 0.3 * awp})
        for i, objective in enumerate(methods)
        for awp in (False, True)
        for seed in range(3)
    ]  # fmt: skip
    study = StudyData.of(StudyFolder(write(tmp_path, nets)), Bootstrap(500))
    without, with_awp = claims.CLAIMS["flatter-smaller-gap"].claims(study)
    assert without.setting == "among methods without AWP"
    assert without.statistic.value == pytest.approx(1.0)
    assert with_awp.setting == "among all methods"
    # Gap ranks over rise ranks: those of AWP 5 6 7 8 over 1 2 3 4, the others 1 2 3 4 over 5 6 7 8.
    assert with_awp.statistic.value == pytest.approx(1 - 6 * 8 * 16 / (8 * 63))


def test_training_images_and_other_alphas_are_second_looks(tmp_path):
    nets = [
        Net(0.1, awp=awp, knobs={"rise": 1.0 - 0.6 * awp, "train_rise": 0.5 + 0.2 * awp})
        for awp in (False, True)
    ]
    note = check_one(tmp_path, "awp-flatter", nets).note
    assert "rise at |alpha| 1: -1.2" in note
    assert "rise on training images goes the other way, +0.2" in note


def test_second_looks_of_a_correlation_name_their_own(tmp_path):
    nets = [
        Net(
            0.1,
            objective,
            knobs={"rise": 1.0 + 0.2 * i, "train_rise": 2.0 - 0.2 * i, "robust_gap": 0.1 + 0.05 * i},
        )
        for i, objective in enumerate(("at", "trades", "mart", "fgsm"))
    ]
    note = check_one(tmp_path, "flatter-smaller-gap", nets).note
    assert "second look: rise at |alpha| 1: +1.00 over 4 methods" in note
    assert "second look: rise on training images goes the other way, -1.00 over 4 methods" in note


def with_log(folder, falls):
    """Runs without evaluations beside the best, whose logs fall by so much at the end."""
    nets = [Net(0.1, awp=awp, seed=seed) for seed in range(len(falls)) for awp in (False, True)]
    study = StudyFolder(write(folder, nets))
    for run, fall in zip(study.runs(), [each for pair in falls for each in pair], strict=True):
        run.update(epochs_done=20)
        for epoch in range(1, 21):
            robust = FALL - fall if epoch > 10 else FALL
            record = MonitorRecord(100, clean=0.8, robust=robust, loss=1.0)
            run.append_metrics(EpochRecord(epoch, validation=record))
    return StudyData.of(StudyFolder(folder), Bootstrap(500))


def test_overfitting_is_read_from_the_monitor_where_nothing_else_was_evaluated(tmp_path):
    check = claims.CLAIMS["awp-less-overfitting"].check
    claim = check(with_log(tmp_path / "3", [(0.3, 0.1), (0.31, 0.1), (0.29, 0.1)]))
    assert claim.verdict == "supported"
    assert claim.effect.value == pytest.approx(-0.2)
    assert "3 seeds: the interval covers training randomness" in claim.note
    other = check(with_log(tmp_path / "r", [(0.1, 0.3), (0.1, 0.31), (0.1, 0.29)]))
    assert other.verdict == "not supported"
    one = check(with_log(tmp_path / "1", [(0.3, 0.1)]))
    assert one.verdict == "unclear"
    assert "one number of one seed has no interval" in one.why
    run = with_log(tmp_path / "c", [(0.3, 0.1)]).runs[0]
    assert overfitting.fall(run).conditions == "validation images of the monitor"
    assert overfitting.fall(run).value() == pytest.approx(0.3)


def test_the_end_of_training_is_the_mean_over_its_evaluated_epochs(tmp_path):
    along = {epoch: {"robust": robust} for epoch, robust in ((5, 0.1), (11, 0.3), (15, 0.4), (20, 0.5))}
    study = StudyData.of(StudyFolder(write(tmp_path, [Net(0.1, knobs={"robust": 0.6}, along=along)])))
    quantity = overfitting.fall(study.runs[0])
    assert quantity.value() == pytest.approx(0.6 - 0.4)
    assert quantity.conditions == "test images, 3 of the last 10 epochs"


@pytest.mark.parametrize("best_with_awp", [5, 18])
def test_networks_whose_best_epochs_lie_apart_are_compared(tmp_path, best_with_awp):
    """At how many of the last epochs a run was past its best is no condition, and said of each run."""
    nets = [
        Net(0.1, awp=awp, seed=seed, knobs={"robust": 0.5}, along=dict.fromkeys(range(11, 21), knobs))
        for seed in range(3)
        for awp, knobs in ((False, {"robust": 0.3 + 0.01 * seed}), (True, {"robust": 0.49}))
    ]
    folder = StudyFolder(write(tmp_path, nets))
    for run in folder.runs():
        run.update(best_epoch=best_with_awp if run.entry.perturbation == "awp" else 5)
    claim = claims.CLAIMS["awp-less-overfitting"].check(StudyData.of(folder, Bootstrap(300)))
    assert claim.verdict == "supported"
    assert claim.effect.value == pytest.approx(-0.18)
    names = [f"the end of AT+AWP 0.1 (seed {seed}) is 3 of 10 evaluated epochs" for seed in range(2)]
    assert [name in claim.note for name in names] == [best_with_awp == 18] * 2
    assert ("from its best on; and 1 more" in claim.note) is (best_with_awp == 18)
    assert "the end of AT 0.1" not in claim.note


def test_networks_that_were_evaluated_at_other_epochs_are_not_compared(tmp_path):
    nets = [
        Net(0.1, awp=awp, along={epoch: {"robust": 0.3} for epoch in epochs})
        for awp, epochs in ((False, (18, 20)), (True, (20,)))
    ]
    claim = claims.CLAIMS["awp-less-overfitting"].check(
        StudyData.of(StudyFolder(write(tmp_path, nets)), Bootstrap(50))
    )
    assert claim.verdict == "unclear"
    assert "different conditions (test images, 2 of the last 10 epochs; test images, 1 of" in claim.why


def test_a_network_with_too_few_broken_images_is_left_out_and_named(tmp_path):
    few = np.stack([np.zeros(N, bool), np.arange(N) < 49])
    reason = "has 49 broken images; at least 50 are needed"
    name, nets = "adversarial-images-flatter", awp_story("adversarial-images-flatter", "holds", 4)
    lacking = [replace(net, arrays={"sharpness/test_wrong": few}) for net in nets]
    one = check_one(tmp_path / "one", name, [lacking[0], *nets[1:]])
    assert one.verdict == "supported"
    assert reason in one.note
    assert len(one.values) == len(nets) - 1
    none = check_one(tmp_path / "none", name, lacking)
    assert none.verdict == "untested"
    assert reason in none.why


def test_robust_accuracy_is_that_of_test_images(tmp_path):
    run = StudyData.of(
        StudyFolder(write(tmp_path, [Net(0.1, knobs={"robust": 0.35, "robust_gap": 0.2})]))
    ).runs[0]
    assert robust_accuracy(run).value() == pytest.approx(0.35)
    assert GAMMA["images"] == "all"


def test_epochs_before_the_best_one_are_no_end_of_training(tmp_path):
    """Eight epochs, each better than the one before: nothing falls."""
    folder = StudyFolder(write(tmp_path, [Net(0.1)]))
    (run,) = folder.runs()
    run.update(epochs_done=8)
    for epoch in range(1, 9):
        record = MonitorRecord(100, clean=0.9, robust=0.05 * epoch, loss=1.0)
        run.append_metrics(EpochRecord(epoch, validation=record))
    (data,) = StudyData.of(folder).runs
    assert float(overfitting.fall_of_monitor(data).value()) == 0.0
