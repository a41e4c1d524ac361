"""What the terminal shows is what was said: text that is not ours is no markup, and no emoji."""

import io
import sys
import time

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


def test_a_run_that_is_over_leaves_the_bars_to_those_at_work(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=100, height=8)
    monkeypatch.setattr(display, "console", console)
    with display.shown() as listen:
        for number in range(20):
            listen(f"over-{number}", Event("train", 0, 1))
            listen(f"over-{number}", Event("done", 1, 1))
        screen.truncate(0)
        listen("at-work", Event("train", 1, 5))
        time.sleep(0.3)  # the bars are drawn ten times a second
        drawn = screen.getvalue()
    assert "at-work" in drawn
    assert "over-" not in drawn


def test_a_run_that_is_over_is_a_line_above_the_bars(monkeypatch):
    screen = io.StringIO()
    plain = {"color_system": None, "markup": False, "emoji": False, "highlight": False}
    monkeypatch.setattr(display, "console", Console(file=screen, force_terminal=True, width=200, **plain))
    with display.shown() as listen:
        listen(NAME, Event("train", 0, 1))
        listen(NAME, Event("ended", 1, 1, TEXT))
    assert f"{NAME}: ended 1/1 ({TEXT})" in screen.getvalue()


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("cp1252", "-1.5 \x96 \\u03b1 \xd7"),
        ("ascii", "-1.5 - \\u03b1 x"),
        ("utf-8", "\u22121.5 \u2013 \u03b1 \xd7"),
    ],
)
def test_what_an_encoding_lacks_is_written_in_another_way(encoding, written, monkeypatch):
    """Standard output that goes to a file on Windows has the encoding of old; a log of ASCII is another one."""
    into = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(into, encoding=encoding))
    display.write_in_any_encoding()
    display.output.print("\u22121.5 \u2013 \u03b1 \xd7")
    sys.stdout.flush()
    expected = written.encode("latin-1") if encoding == "cp1252" else written.encode(encoding)
    assert into.getvalue() == expected + b"\n"


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
