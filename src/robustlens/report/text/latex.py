"""The headline table and the claims as LaTeX tables for papers (booktabs); every text is escaped."""

import unicodedata
from collections.abc import Iterable, Sequence

from robustlens.report.text.headline import Headline
from robustlens.results import ClaimResult

_WRITTEN = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # a row that begins with one would be read as the option of the \\ before it
    "]": "{]}",
    "*": "{*}",  # so would this
    "-": "{-}",  # two would be one dash
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
}
_HEAD = "% Written by robustlens. Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.\n"


def escaped(text: str) -> str:
    r"""The text as LaTeX prints it; a character that pdflatex has no letter for is a question mark.

    >>> escaped("AT_1 50 % {x}\n&"), escaped("caf\xe9 \u4e2d")
    ('AT\\_1 50 \\% \\{x\\} \\&', 'caf\xe9 ?')
    """
    return "".join(_WRITTEN.get(character) or _letter(character) for character in " ".join(text.split()))


def headline_table(table: Headline) -> str:
    """The headline table: a row for each network, numbers with their intervals under them."""
    columns = [column for column in table.columns if column.key not in ("seconds", "cpu_seconds")]
    titles = [column.title for column in columns]
    units = [f"({column.unit})" if column.unit else "" for column in columns]
    body: list[list[str]] = []
    for row in table.rows:
        cells = [row.cells[column.key] for column in columns]
        body.append([escaped(cell.text) for cell in cells])
        if any(cell.interval for cell in cells):
            body.append(
                [rf"{{\scriptsize {escaped(cell.interval)}}}" if cell.interval else "" for cell in cells]
            )
    heads = [[escaped(text) for text in line] for line in (titles, units)]
    return _tabular("".join("r" if column.numeric else "l" for column in columns), heads, body)


def claims_table(claims: Iterable[ClaimResult]) -> str:
    """The claims that were tested: statement, verdict, effect with its interval, adjusted p-value."""
    body = []
    for claim in claims:
        if claim.verdict == "untested":
            continue
        effect, where = claim.effect, f" ({claim.setting})" if claim.setting else ""
        ends = (
            "" if effect.low is None or effect.high is None else f" ({effect.low:.3g} to {effect.high:.3g})"
        )
        size = "" if effect.value is None else f"{effect.value:.3g}{ends}".replace("-", "\N{MINUS SIGN}")
        p = "" if claim.adjusted_p is None else f"{claim.adjusted_p:.2g}"
        body.append(
            [escaped(text) for text in (claim.statement + where, claim.wording, size, effect.unit, p)]
        )
    heads = [["Claim", "Verdict", "Effect", "Unit", r"Adjusted $p$"]]
    return _tabular(r"p{0.42\linewidth}llll", heads, body)


def _tabular(columns: str, heads: Sequence[Sequence[str]], body: Sequence[Sequence[str]]) -> str:
    def lines(rows: Sequence[Sequence[str]]) -> list[str]:
        return [" & ".join(cells) + r" \\" for cells in rows]

    rules = [r"\toprule", *lines(heads), r"\midrule", *lines(body), r"\bottomrule"]
    return _HEAD + "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rules, r"\end{tabular}"]) + "\n"


def _letter(character: str) -> str:
    """ASCII and Latin letters with accents, which pdflatex has in every font of T1."""
    if character.isascii():
        return character if character.isprintable() else ""
    is_latin = "\N{LATIN CAPITAL LETTER A WITH GRAVE}" <= character <= "\N{LATIN SMALL LETTER Z WITH CARON}"
    return character if is_latin and unicodedata.category(character).startswith("L") else "?"
