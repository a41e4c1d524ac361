"""Claims as the page shows them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.study_files import QUICKSTART, example_claims, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.report.text.claims import by_chance, by_paper, dots, facts, untested, verdict_counts
from robustlens.report.text.headline import notices
from robustlens.results import ClaimResult, ClaimValue, Statistic


def test_a_claim_shows_its_effect_statistic_and_values(study: ReportData) -> None:
    papers = by_paper(study)
    assert list(papers) == ["Wen et al. 2020", "Wu et al. 2020"]
    first, second = papers["Wen et al. 2020"]
    effect, statistic = facts(first)
    assert (effect.name, statistic.name) == ("Strongest minus standard", "Spearman over strengths")
    assert effect.text == "\N{MINUS SIGN}12.5 points [\N{MINUS SIGN}18, \N{MINUS SIGN}7]"
    assert 0 < effect.bar["low"] < effect.bar["value"] < effect.bar["high"] < 50  # zero is in the middle
    assert (50 - effect.bar["low"]) / (50 - effect.bar["high"]) == pytest.approx(18 / 7)
    assert [fact.name for fact in facts(second)] == ["Strongest minus standard"]
    (last,) = papers["Wu et al. 2020"]
    rows = dots(last, study)
    assert [row.label for row in rows] == ["Standard", "AT 0.05", "AT 0.1", "AT 0.2"]
    assert [row.positions for row in rows][::3] == [(100.0,), (0.0,)]


def test_a_description_shows_its_statistic_without_an_interval(study: ReportData) -> None:
    claim = study.claims[0]
    layers = Statistic("share of layers in which it falls (6 of 6)", 1.0, 0.54, 1.0, 0.03)
    described = replace(claim, statistic=layers)
    assert facts(described)[1].text == "1"
    decided = replace(described, verdict="supported", scope=None, seeds=3, adjusted_p=0.02)
    decided = replace(decided, effect=replace(claim.effect, p=0.00001))
    assert [fact.text for fact in facts(decided)][1:] == [
        "1 [0.54, 1], p = 0.03",
        "p < 0.0001 alone, p = 0.02 together",
    ]


def test_differences_of_equal_numbers_are_shown_as_zero(study: ReportData) -> None:
    claim = study.claims[2]
    tiny = replace(claim, effect=replace(claim.effect, value=1.11e-16, low=-1.11e-16, high=0.03))
    assert facts(tiny)[0].text == "0 nats [0, 0.03]"
    values = tuple(replace(one, value=-1.11e-16 * place) for place, one in enumerate(claim.values))
    assert {row.text for row in dots(replace(claim, values=values), study)} == {"0"}


def untested_claims() -> list[ClaimResult]:
    texts = (
        ("A.", "No measure x.", "explanation:\n  measures: [margins, x]"),
        ("B.", "No measure y.", "explanation:\n  measures: [margins, y]"),
        ("C.", "No measure y.", "explanation:\n  measures: [margins, y]"),
        ("D.", "Run AT failed.", ""),
    )
    return [ClaimResult("id", "paper", one, "q", "untested", why, remedy=lines) for one, why, lines in texts]


def test_untested_claims_are_listed_once_with_the_lines_that_would_measure_them() -> None:
    lacking = untested([*example_claims(), *untested_claims()])
    assert lacking.number == 4
    assert dict(lacking.reasons) == {
        "No measure x.": ("A",),
        "No measure y.": ("B", "C"),
        "Run AT failed.": ("D",),
    }
    assert yaml.safe_load(lacking.yaml) == {"explanation": {"measures": ["margins", "x", "y"]}}
    assert untested(example_claims()).number == 0


def test_counts_are_of_tested_claims_and_name_their_scope() -> None:
    decided = [
        replace(example_claims()[0], verdict=verdict, scope=None, seeds=3)
        for verdict in ("supported", "supported", "inconclusive")
    ]
    text = verdict_counts([*decided, *example_claims(), *untested_claims()])
    assert text == (
        "6 claims of the papers were tested. Decided over training seeds: 2 supported and 1 inconclusive. "
        "Described on these networks only (a decision takes 3 training seeds or more): 1 as claimed, 1 opposite "
        "and 1 unclear. 4 are untested."
    )
    assert "none could be tested" in verdict_counts(untested_claims())
    assert verdict_counts(decided[:1]) == (
        "1 claim of the papers was tested. Decided over training seeds: 1 supported."
    )


def test_the_page_says_how_many_would_come_out_by_chance() -> None:
    first = replace(example_claims()[0], verdict="supported", scope=None, seeds=3, adjusted_p=0.01)
    family = [first] * 4 + [replace(first, verdict="inconclusive", adjusted_p=0.3)] * 16
    (text,) = by_chance(family)
    assert "20 claims are decided here. One by one, at 95 % each, 1 would come out by chance" in text
    assert "of the 4 that came out, 0.2 on average at most by chance" in text
    (old,) = by_chance([replace(first, adjusted_p=None)])
    assert "did not control them together" in old
    described, looks = by_chance([replace(example_claims()[0], note="second look: +1")])
    assert "another training seed may turn them round" in described
    assert "decide nothing" in looks


def test_a_value_that_is_not_known_has_no_dot(tmp_path: Path) -> None:
    claim = example_claims()[0]
    values = (*claim.values, ClaimValue("AT 0.2", 0.2, 1, math.nan))
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60, claims=[replace(claim, values=values)])
    data = read_study(folder)
    assert [len(row.positions) for row in dots(data.claims[0], data)] == [1, 1, 1, 1]


def test_an_unknown_verdict_never_reads_as_support(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60, claims=example_claims())
    content = json.loads((folder / "claims.json").read_text())
    content["claims"][0]["verdict"] = "hooray"
    unsealed = {key: value for key, value in content.items() if key != "seal"} | {"format": 1}
    (folder / "claims.json").write_text(json.dumps(unsealed))
    data = read_study(folder)
    assert data.claims == ()
    ((who, what),) = notices(data)
    assert who == "This report"
    assert "claims.json cannot be read" in what
    assert "hooray" in what
