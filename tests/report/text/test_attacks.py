"""Tables of the attacks: counts, suites and times."""

from pathlib import Path

import pytest

from helpers.attacked_runs import SECONDS, N, attacked_run, attacked_seeds, split_of
from helpers.made_networks import ATTACKS, SEARCH, SUITE
from robustlens.report.data import ReportData
from robustlens.report.reading import read_run, read_study
from robustlens.report.text.attacks import AttackLine, by_network, by_split
from robustlens.stats.intervals import wilson


def lines_of(data: ReportData, split: str = "test") -> dict[str, AttackLine]:
    (attacks,) = by_network(data, split)
    return {line.name: line for line in attacks.lines}


def test_an_attack_is_given_what_is_still_right_and_breaks_some_of_it(tmp_path: Path) -> None:
    lines = lines_of(read_run(attacked_run(tmp_path, {"test": split_of()}).folder))
    shown = {name: (line.images, line.broken, line.seconds) for name, line in lines.items()}
    assert shown == {
        "clean": (40, 4, None),
        "fgsm": (36, 6, 0.5),
        "standard": (30, 9, 40.0),
        "apgd-ce": (30, 6, 2.0),
        "apgd-t": (24, 3, 30.0),
        "square": (21, 0, 8.0),
        "min-norm": (36, 1, 4.0),  # it measures distances, so it had all that were right
    }
    assert [line.kind for line in lines.values()] == [
        "clean", "attack", "suite", "member", "member", "member", "attack",
    ]  # fmt: skip
    assert lines["standard"].right == lines["square"].right == wilson(21, N)
    assert lines["standard"].before == lines["apgd-ce"].before == 0.75
    assert lines["clean"].before == 1


def test_a_minimum_norm_attack_without_a_curve_is_given_survivors_only(tmp_path: Path) -> None:
    data = read_run(attacked_run(tmp_path, {"test": split_of(curve=())}).folder)
    assert lines_of(data)["min-norm"].images == 21


def test_counts_of_the_file_are_taken_as_they_are(tmp_path: Path) -> None:
    counted = split_of(attacked={"fgsm": 35, "min-norm": 12}, broken={"fgsm": 5})
    lines = lines_of(read_run(attacked_run(tmp_path, {"test": counted}).folder))
    assert (lines["fgsm"].images, lines["fgsm"].broken) == (35, 5)
    assert (lines["min-norm"].images, lines["min-norm"].broken) == (12, 1)
    assert (lines["apgd-ce"].images, lines["apgd-ce"].broken) == (30, 6)


def test_counts_that_follow_from_the_shares_are_those_that_are_counted(suite_study: ReportData) -> None:
    for network in suite_study.networks:
        (part,) = network.splits("test")
        right = round(part.n * part.clean.value)
        for attack in (*ATTACKS, *SUITE):
            left = round(part.n * part.by_attack[attack].value)
            assert (part.attacked[attack], part.broken[attack]) == (right, right - left)
            right = left
        (search,) = SEARCH
        assert part.attacked[search] == round(part.n * part.clean.value)
        assert part.broken[search] == right - round(part.n * part.by_attack[search].value)


def test_files_of_the_first_version_have_attacks_without_suites_and_times(tmp_path: Path) -> None:
    old = split_of({"fgsm": 30, "apgd-ce": 24}, seconds={})
    attacked_run(tmp_path, {"test": old}, attacks=("fgsm", "apgd-ce"), suites={})
    data = read_run(tmp_path)
    (attacks,) = by_split(data)
    assert [(line.kind, line.images, line.broken) for line in attacks.networks[0].lines] == [
        ("clean", 40, 4),
        ("attack", 36, 6),
        ("attack", 30, 6),
    ]
    assert not attacks.timed
    assert not attacks.searched
    assert list(data.columns) == ["fgsm", "apgd-ce"]


def test_over_seeds_everything_is_a_mean(tmp_path: Path) -> None:
    right_after = {"fgsm": 27, "apgd-ce": 27, "apgd-t": 18, "square": 17, "min-norm": 17}
    slower = {name: 3 * seconds for name, seconds in SECONDS.items()}
    other = split_of(right_after, clean=33, seconds=slower)
    lines = lines_of(attacked_seeds(tmp_path, [split_of(), other]))
    assert (lines["fgsm"].images, lines["fgsm"].broken, lines["fgsm"].seconds) == (34.5, 6, 1.0)
    assert (lines["standard"].images, lines["standard"].broken) == (28.5, 9.5)
    assert lines["standard"].seconds == 80.0
    right = lines["square"].right
    ends = wilson(17, 40).low, wilson(21, 40).high  # two seeds: the hull of their own intervals
    assert (right.value, right.low, right.high) == pytest.approx((19 / 40, *ends))


def test_a_seed_that_was_not_evaluated_changes_nothing(tmp_path: Path) -> None:
    attacked_seeds(tmp_path, [split_of(), split_of(clean=33)])
    (tmp_path / "runs/s1/evaluation.json").unlink()
    assert lines_of(read_study(tmp_path)) == lines_of(read_run(tmp_path / "runs/s0"))
