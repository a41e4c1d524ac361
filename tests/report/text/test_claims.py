"""Claims as the page shows them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.study_files import QUICKSTART, example_claims, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.report.text.claims import by_paper, dots, facts
from robustlens.report.text.headline import notices
from robustlens.results import ClaimValue


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
