"""The files of a report, and what its page says without a browser."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.attacked_runs import PARTS, N, attacked_run, attacked_seeds, split_of
from helpers.measured_more import measure_more
from helpers.study_files import QUICKSTART, example_claims, write_study
from helpers.troubled_study import NASTY, NASTY_IMAGE
from robustlens.report import write, write_run
from robustlens.report.data import ReportData
from robustlens.report.figures import figures
from robustlens.report.page import rendering
from robustlens.report.page.rendering import csv_bytes, page
from robustlens.report.reading import read_run, read_study
from robustlens.report.text.attacks import by_network
from robustlens.report.text.headline import headline
from robustlens.results import Flag, Run
from robustlens.stats.intervals import wilson

pytestmark = pytest.mark.lasts(60)

SOFTMAX = Flag("softmax", "rows sum to one", "all rows sum to one", "gradients vanish", "return the logits")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study with its report."""
    folder = measure_more(write_study(tmp_path_factory.mktemp("study") / "quick", claims=example_claims()))
    write(folder, formats=["pdf", "svg"])
    return folder


@pytest.fixture(scope="module")
def data(reported: Path) -> ReportData:
    return read_study(reported)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def shown_page(data: ReportData) -> str:
    """The page without its figures."""
    return page(data, [], headline(data))


# -- files -----------------------------------------------------------------------------------------


def test_the_csv_of_the_headline_is_the_table_in_full_precision(data: ReportData, reported: Path) -> None:
    rows = rows_of(reported / "report" / "figures" / "headline.csv")
    wanted = headline(data).csv_rows()
    assert rows == [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in wanted
    ]


def test_csv_files_hold_every_point_in_full_precision(data: ReportData, reported: Path) -> None:
    for drawn in figures(data):
        rows = rows_of(reported / "report" / "figures" / f"{drawn.name}.csv")
        written = [(row["view"], row["panel"], row["x"], row["y"]) for row in rows]
        assert written == [(str(r["view"]), str(r["panel"]), str(r["x"]), str(r["y"])) for r in drawn.rows()]
        assert rows


def test_every_drawing_is_there_is_what_it_says_and_embeds_its_fonts(
    data: ReportData, reported: Path
) -> None:
    folder = reported / "report" / "figures"
    for drawn in figures(data):
        names = [name for view in drawn.views if (name := drawn.file_of(view))]
        assert names[0] == drawn.name
        for name in names:
            pdf, svg = (folder / f"{name}.pdf").read_bytes(), (folder / f"{name}.svg").read_text()
            assert pdf.startswith(b"%PDF")
            assert b"/Type3" not in pdf
            assert b"/FontFile2" in pdf
            assert "<svg" in svg


def test_a_csv_cell_is_never_a_formula() -> None:
    assert csv_bytes([{"label": "=1+1", "x": -1.0}]).decode() == "label,x\n'=1+1,-1.0\n"


def test_the_csv_of_the_attacks_has_both_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "drawings", lambda *_: {})
    attacked_run(tmp_path / "run", {"test": split_of(), "train": split_of(clean=38)})
    write_run(Run(tmp_path / "run"), tmp_path)
    rows = rows_of(tmp_path / "figures" / "attacks.csv")
    assert [(row["split"], row["attack"]) for row in rows[6:9]] == [
        ("test", "min-norm"),
        ("train", "clean"),
        ("train", "fgsm"),
    ]
    assert [row["kind"] for row in rows[:4]] == ["clean", "attack", "suite", "member"]
    assert float(rows[8]["broken"]) == 8
    share = wilson(21, N)
    ends = (share.value, share.low, share.high)
    assert (float(rows[2]["value"]), float(rows[2]["low"]), float(rows[2]["high"])) == ends
    assert float(rows[2]["seconds"]) == 40


def test_the_report_never_imports_torch(reported: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from robustlens.report import write_run
from robustlens.report.page import rendering
drawings = rendering.drawings
rendering.drawings = lambda figure, *rest: drawings(figure, *rest) if figure.name == "landscape" else {{}}
write_run({str(reported / "runs" / "at-0.1-s0")!r}, {str(tmp_path)!r})
sys.exit("torch" in sys.modules)
"""
    source = Path(__file__).resolve().parents[3] / "src"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(source)}
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "index.html").read_text()
    assert "One network (AT 0.1), trained on fashion-mnist-10k" in text
    assert (tmp_path / "figures" / "landscape.pdf").exists()


def test_a_study_in_which_nothing_has_run_yet_still_has_a_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60)
    for file in list((folder / "runs" / "standard-0-s0").iterdir()):
        file.unlink()
    text = write(folder).read_text()
    assert "not started" in text
    assert text.count("Not measured in these runs.") == 1  # once, with all that it holds of
    assert "Singular values of every layer; Spread of the singular values; " in text
    assert 'class="card" id="figure-' not in text
    assert 'id="section-' not in text
    assert 'class="effect"' not in text


# -- the page's attacks and flags ------------------------------------------------------------------


def test_a_column_of_times_is_shown_where_the_files_have_times(tmp_path: Path) -> None:
    old = split_of({"fgsm": 30}, seconds={})
    untimed = attacked_run(tmp_path / "old", {"test": old}, attacks=("fgsm",), suites={})
    assert ">Time</th>" not in shown_page(read_run(untimed.folder))
    timed = attacked_run(tmp_path / "new", {"test": split_of()})
    assert ">Time</th>" in shown_page(read_run(timed.folder))


def test_counts_of_several_seeds_are_shown_as_means(tmp_path: Path) -> None:
    right_after = {"fgsm": 27, "apgd-ce": 27, "apgd-t": 18, "square": 17, "min-norm": 17}
    text = shown_page(attacked_seeds(tmp_path, [split_of(), split_of(right_after, clean=33)]))
    assert '<td class="number">34.5</td>' in text
    assert '<td class="number">6</td>' in text
    assert '<td class="number">6.0</td>' not in text
    assert "images and times are means" in text


def test_an_interval_of_shares_over_seeds_stays_within_0_and_100(tmp_path: Path) -> None:
    """Shares 0, 0 and 0.75: Student's interval of their mean would begin below zero and end above one."""
    data = attacked_seeds(tmp_path, [split_of({"fgsm": right}) for right in (0, 0, 30)])
    low = 25 - 4.302652730 * 100 * np.std([0, 0, 0.75], ddof=1) / np.sqrt(3)
    assert low < 0
    page = shown_page(data)
    assert f"\N{MINUS SIGN}{-low:.1f} to" not in page
    assert "0.0 to 100.0" in page


def test_a_network_without_an_evaluation_has_no_block_and_none_at_all_no_section(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:2], n=60)
    (folder / "runs/standard-0-s0/evaluation.json").unlink()
    data = read_study(folder)
    assert [attacks.network.label for attacks in by_network(data, "train")] == ["AT 0.05"]
    assert 'id="attacks"' in shown_page(data)
    (folder / "runs/at-0.05-s0/evaluation.json").unlink()
    text = shown_page(read_study(folder))
    assert 'id="attacks"' not in text
    assert 'href="#attacks"' not in text


def test_the_page_says_what_was_seen_what_it_means_and_what_to_do_or_that_there_is_no_flag(
    tmp_path: Path,
) -> None:
    splits = {"test": split_of(flags=(SOFTMAX,), notes=("2 classes: DLR gives way to the margin",))}
    text = shown_page(read_run(attacked_run(tmp_path / "AT", splits).folder))
    for words in (
        "<dd><ul><li><b>AT</b>: rows sum to one (test images)</li></ul></dd>",
        "<dt>It means</dt><dd>Gradients vanish.</dd>",
        "<dt>What to do</dt><dd>Return the logits.</dd>",
        "<dt>Raised if</dt><dd>All rows sum to one.</dd>",
        '<p class="note">2 classes: DLR gives way to the margin</p>',
    ):
        assert words in text
    assert "No reliability flag" not in text
    sound = shown_page(read_run(attacked_run(tmp_path / "sound", {"test": split_of()}).folder))
    assert "No reliability flag" in sound
    assert 'id="notices"' not in sound


def test_flags_and_notes_are_shown_as_text_whatever_they_say(tmp_path: Path) -> None:
    hostile = Flag(*(f"{name} {NASTY}" for name in ("name", "observed", "raised_if", "meaning", "remedy")))
    splits = {"test": split_of(flags=(hostile, Flag(NASTY_IMAGE, NASTY_IMAGE)), notes=(NASTY,))}
    text = shown_page(read_run(attacked_run(tmp_path, splits, suites={NASTY: PARTS}).folder))
    assert NASTY not in text
    assert NASTY_IMAGE not in text
    assert text.count("&lt;script&gt;") >= 7
