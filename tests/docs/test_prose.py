"""Lines of prose in the documents end at 120 characters.

Headings, rows of tables, blocks of code, and a command or an address alone on its line may be longer.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 120
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def prose(text: str) -> str:
    """The text without headings, rows of tables and blocks of code."""
    outside = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in outside.splitlines() if not line.startswith(("#", "|", "    ")))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_of_prose_are_wrapped(path):
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    long = [line for line in lines if len(line) > WIDTH and " " in re.sub(r"`[^`]*`", "", line).strip()]
    assert long == []


def test_a_long_line_is_noticed():
    text = f"| {'cell ' * 40}|\n```sh\n{'word ' * 40}\n```\n{'prose ' * 40}\n"
    assert [len(line) for line in prose(text).splitlines() if len(line) > WIDTH] == [240]
