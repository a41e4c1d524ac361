"""LaTeX tables: what is escaped, and that every row has the cells that its head has."""

import re

import pytest

from helpers.study_files import example_claims
from robustlens.report.data import ReportData
from robustlens.report.text.headline import headline
from robustlens.report.text.latex import claims_table, escaped, headline_table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100 % of a_b & c#d", r"100 \% of a\_b \& c\#d"),
        (r"\input{x} $y^2$ ~", r"\textbackslash{}input\{x\} \$y\textasciicircum{}2\$ \textasciitilde{}"),
        ("[1pt]*", "{[}1pt{]}{*}"),
        ("\N{MINUS SIGN}0.1 \N{EN DASH} a--b", "$-$0.1 -- a{-}{-}b"),
        ("two\nlines\t\0", "two lines "),
        (
            "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller \N{GREEK SMALL LETTER EPSILON}",
            "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller ?",
        ),
    ],
)
def test_texts_are_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


def cells(table: str) -> list[list[str]]:
    body = [line for line in table.splitlines() if line.endswith(r"\\")]
    return [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in body]


def test_the_headline_has_a_row_for_each_network_and_one_for_its_intervals(study: ReportData) -> None:
    table = headline_table(headline(study))
    rows = cells(table)
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", table)
    assert columns
    assert {len(row) for row in rows} == {len(columns[1])}
    assert len(rows) == 2 + 2 * len(study.networks)
    assert table.count("{") == table.count("}")
    assert table.splitlines()[2] == r"\toprule"
    assert rows[2][0].strip() == "Standard"


def test_claims_that_were_tested_have_their_verdicts() -> None:
    claims = tuple(example_claims())
    rows = cells(claims_table(claims))
    tested = [claim for claim in claims if claim.verdict != "untested"]
    assert [row[1].strip() for row in rows[1:]] == [claim.wording for claim in tested]
    assert {len(row) for row in rows} == {5}
    assert cells(claims_table(())) == [["Claim ", " Verdict ", " Effect ", " Unit ", r" Adjusted $p$ "]]
