"""Entries of the RobustBench leaderboard."""

from dataclasses import replace

import pytest

from robustlens.errors import ConfigError
from robustlens.evaluation import leaderboard_entry
from robustlens.results import EvaluationResult, Flag, Provenance, SplitResult, ThreatRecord
from robustlens.stats.intervals import Interval


def result(**changes):
    """An evaluation by the suite "standard"; `changes` are fields of its test split."""
    split = SplitResult(
        n=10000,
        clean=Interval(0.8534),
        robust=Interval(0.5),
        loss=Interval(1.0),
        by_attack={"apgd-ce": Interval(0.6), "square": Interval(0.53415), "pgd-20": Interval(0.5)},
    )
    return EvaluationResult(
        provenance=Provenance(None, "w", "d", None, {}),
        threat=ThreatRecord("Linf", 8 / 255),
        attacks=("apgd-ce", "square", "pgd-20"),
        suites={"standard": ("apgd-ce", "square")},
        splits={"test": replace(split, **changes)},
        gaps={},
    )


def test_leaderboard_fields():
    entry = leaderboard_entry(result(), name="Ours", dataset="cifar10", architecture="resnet20")
    assert list(entry) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
        "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "unreliable",
    ]  # fmt: skip
    assert (entry["clean_acc"], entry["autoattack_acc"], entry["eps"]) == ("85.34", "53.41", "8/255")
    assert entry["unreliable"] is False
    flagged = leaderboard_entry(result(flags=(Flag("randomised", "seen"),)), footnote="Ours.")
    assert flagged["unreliable"] is True
    assert flagged["footnote"] == "Ours. Reliability flags: randomised."


def test_leaderboard_needs_the_standard_suite():
    with pytest.raises(ConfigError, match="expected the suite standard"):
        leaderboard_entry(replace(result(), suites={}))
    with pytest.raises(ConfigError, match="found the attacks apgd-ce, square, pgd-20"):
        leaderboard_entry(replace(result(), suites={"fast": ("apgd-ce",)}))


def test_facts_of_the_paper_are_as_given_and_numbers_are_read():
    given = {
        "authors": "A. Author, B. Author",
        "venue": "ICML 2026",
        "link": "https://arxiv.org/abs/2004.05884",
    }
    entry = leaderboard_entry(result(), **given, additional_data="true", number_forward_passes="20")
    assert given.items() <= entry.items()
    assert entry["additional_data"] is True
    assert entry["number_forward_passes"] == 20
    assert leaderboard_entry(result())["authors"] == ""


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"autors": "us"}, "found the field 'autors'.*did you mean 'authors'"),
        ({"link": "arxiv"}, "link: found 'arxiv', expected an address"),
        ({"number_forward_passes": "0"}, "greater than 0"),
        ({"additional_data": "perhaps"}, "additional_data: found 'perhaps'"),
        ({"venue": 2026}, "venue: found 2026; input should be a valid string"),
    ],
)
def test_wrong_facts_are_one_line(about, said):
    with pytest.raises(ConfigError, match=said):
        leaderboard_entry(result(), **about)
