"""Reliability flags of the report: explained once, with everyone that raised them."""

from pathlib import Path

from helpers.attacked_runs import attacked_run, attacked_seeds, split_of
from robustlens.report.reading import read_run
from robustlens.report.text.attacks import by_network
from robustlens.report.text.flags import explained
from robustlens.report.text.headline import notices
from robustlens.results import Flag

SOFTMAX = Flag("softmax", "rows sum to one", "all rows sum to one", "gradients vanish", "return the logits")


def test_a_kind_of_flag_is_explained_once_with_all_that_was_seen(tmp_path: Path) -> None:
    other = Flag("softmax", "rows sum to two", SOFTMAX.raised_if, SOFTMAX.meaning, SOFTMAX.remedy)
    data = attacked_seeds(tmp_path, [split_of(flags=(SOFTMAX,)), split_of(flags=(SOFTMAX, other))])
    (kind,) = explained(data)
    assert kind.raised == (
        ("AT, seed 0", "rows sum to one (test images)"),
        ("AT, seed 1", "rows sum to one (test images)"),
        ("AT, seed 1", "rows sum to two (test images)"),
    )
    assert kind.flag == SOFTMAX
    assert notices(data) == []
    (attacks,) = by_network(data, "test")
    assert attacks.flags == {"softmax": "rows sum to one; rows sum to two"}


def test_what_was_seen_on_both_splits_is_said_once(tmp_path: Path) -> None:
    flagged = split_of(flags=(SOFTMAX,))
    data = read_run(attacked_run(tmp_path / "AT", {"test": flagged, "train": flagged}).folder)
    (kind,) = explained(data)
    assert kind.raised == (("AT", "rows sum to one (test and training images)"),)


def test_a_flag_without_an_explanation_is_a_notice_of_one_line(tmp_path: Path) -> None:
    old = Flag("masking", "gradients vanish; attack again")
    data = read_run(attacked_run(tmp_path / "AT", {"test": split_of(flags=(old,))}).folder)
    assert explained(data) == []
    assert notices(data) == [("AT", "gradients vanish; attack again (test images)")]
    assert by_network(data, "test")[0].flags == {"masking": "gradients vanish; attack again"}
