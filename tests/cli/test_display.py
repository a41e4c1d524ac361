"""What the terminal shows is what was said: text that is not ours is no markup, and no emoji."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from robustlens.cli import display, tables
from robustlens.progress import Event
from robustlens.results import Measurement

NAME = "at[/y]-s0"
TEXT = "x[/y]/runs/[lower]/run.json: damaged :fire: [1]"


def test_progress_without_a_terminal_says_names_and_notes_as_they_are(capsys):
    with display.shown() as listen:
        listen(NAME, Event("ended", 1, 1, TEXT))
    assert capsys.readouterr().err == f"{NAME}: ended 1/1 ({TEXT})\n"


def test_bars_say_names_phases_and_notes_as_they_are(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        display, "console", Console(file=screen, force_terminal=True, color_system=None, width=200)
    )
    with display.shown() as listen:
        listen(NAME, Event("certify [/y]", 0, 1, TEXT))
    for said in (NAME, "certify [/y]", TEXT):
        assert said in screen.getvalue()


@pytest.mark.parametrize("where", [display.output, display.console], ids=["output", "console"])
def test_lines_and_tables_say_what_they_are_given(where, capsys):
    table = Table(NAME, box=None, title=NAME)
    table.add_row(TEXT)
    where.print(table)
    where.print(TEXT)
    display.print_titled(where, "[bold]title[/] ", TEXT)
    out, err = capsys.readouterr()
    said = out + err
    assert (said.count(NAME), said.count(TEXT)) == (2, 3)
    assert f"title {TEXT}\n" in said


def test_measures_are_called_what_somebody_called_them(capsys):
    tables.measurements({NAME: Measurement({"mean": 0.5}, "[0, 1]", TEXT, "", {})})
    assert capsys.readouterr().out.startswith(f"{NAME} ([0, 1]): {TEXT}\n")
