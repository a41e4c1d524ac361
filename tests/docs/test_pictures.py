"""docs/pictures.md has a section for each figure of the report, in the order of the page, each with its caveat."""

import re
from pathlib import Path

import pytest

from helpers.study_files import write_study
from robustlens.report.figures import figures
from robustlens.report.reading import read_study

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pictures.md"


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The text below the heading of each figure, by its name."""
    parts = re.split(r"^### .*\{#([a-z0-9-]+)\}$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_figure_of_the_report_has_a_section(sections, tmp_path):
    drawn = figures(read_study(write_study(tmp_path / "study")))
    assert list(sections) == [figure.name for figure in drawn]


def test_every_section_ends_with_a_caveat(sections):
    for name, text in sections.items():
        assert len(text.split("**Caveat.**")) == 2, name
