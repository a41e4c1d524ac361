"""Texts of a run as Markdown that shows them, whatever characters are in them."""

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")


def text(value: str) -> str:
    r"""One line of text; no character of it formats anything, and nothing of it is HTML.

    >>> text("a_b | <img>\nnext")
    'a\\_b \\| \\<img\\> next'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))


def code(value: str) -> str:
    """One line in the type of code, in a table, too.

    >>> code("small-cnn"), code("a`b|c")
    ('`small-cnn`', "`a'b/c`")
    """
    return f"`{' '.join(value.split()).replace('`', chr(39)).replace('|', '/') or ' '}`"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"|{'|'.join(line)}|" if number == 1 else f"| {' | '.join(line)} |"
        for number, line in enumerate(lines)
    )
