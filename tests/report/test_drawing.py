"""The files of a report: drawings and CSV, and what a broken study does to them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.measured_more import measure_more
from helpers.study_files import ATTACKS, QUICKSTART, example_claims, write_study
from helpers.troubled_study import MARKUP, NASTY, NASTY_IMAGE, write_troubled_study
from robustlens.errors import StateError
from robustlens.report import data as collect
from robustlens.report import figures, write, write_run
from robustlens.report.data import ReportData
from robustlens.report.drawing import matplotlib as files
from robustlens.report.drawing.spec import Figure
from robustlens.report.text import headline
from robustlens.results.folders import write_json


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study with its report."""
    folder = measure_more(write_study(tmp_path_factory.mktemp("study") / "quick", claims=example_claims()))
    write(folder)
    return folder


@pytest.fixture(scope="module")
def study(study_folder: Path) -> ReportData:
    return collect.study(study_folder)


@pytest.fixture(scope="module")
def troubled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_troubled_study(tmp_path_factory.mktemp("study") / "troubled")


def evaluation_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "evaluation.json").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def figure(study: ReportData, name: str) -> Figure:
    return next(found for found in figures.figures(study) if found.name == name)


def test_the_headline_equals_the_evaluation_files(study: ReportData, study_folder: Path) -> None:
    rows = rows_of(study_folder / "report" / "figures" / "headline.csv")
    for group in study.groups:
        found = evaluation_of(study_folder, group.records[0].name)
        wanted = {"clean": found["splits"]["test"]["clean"]}
        wanted |= {f"attack:{name}": found["splits"]["test"]["by_attack"][name] for name in ATTACKS}
        wanted |= {f"gap:{name}": gap for name, gap in found["gaps"].items()}
        told = {row["column"]: row for row in rows if row["label"] == group.label}
        for column, interval in wanted.items():
            assert {key: float(told[column][key]) for key in interval} == interval


def test_csv_files_hold_every_point_in_full_precision(study: ReportData, study_folder: Path) -> None:
    for found in figures.figures(study):
        rows = rows_of(study_folder / "report" / "figures" / f"{found.name}.csv")
        told = [(row["view"], row["panel"], row["x"], row["y"]) for row in rows]
        assert told == [(str(r["view"]), str(r["panel"]), str(r["x"]), str(r["y"])) for r in found.rows()]
        assert rows


def test_every_drawing_is_there_is_what_it_says_and_embeds_its_fonts(
    study: ReportData, study_folder: Path
) -> None:
    folder = study_folder / "report" / "figures"
    for found in figures.figures(study):
        names = [name for view in found.views if (name := found.file_of(view))]
        assert names[0] == found.name
        for name in names:
            pdf, svg = (folder / f"{name}.pdf").read_bytes(), (folder / f"{name}.svg").read_text()
            assert pdf.startswith(b"%PDF")
            assert b"/Type3" not in pdf
            assert b"/FontFile2" in pdf
            assert "<svg" in svg


def test_the_same_data_makes_the_same_bytes(study: ReportData) -> None:
    found = figure(study, "strength")
    once, again = (files.drawings(found, found.views[0], study.groups) for _ in range(2))
    assert once == again


def test_drawings_take_any_label_as_plain_text(troubled_folder: Path) -> None:
    study = collect.study(troubled_folder)
    found = figure(study, "robust-accuracy")
    svg = files.drawings(found, found.views[0], study.groups)["svg"].decode()
    assert NASTY not in svg
    assert f"{MARKUP} 0.1" in found.labels()


def test_a_csv_cell_is_never_a_formula() -> None:
    assert files.csv_bytes([{"label": "=1+1", "x": -1.0}]).decode() == "label,x\n'=1+1,-1.0\n"


def test_a_folder_without_a_study_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"study\.json: no such file"):
        write(tmp_path)
    with pytest.raises(StateError, match="no run here"):
        write_run(tmp_path)
    write_json(tmp_path / "study.json", {"format": 1, "runs": None})
    with pytest.raises(StateError, match="no list of runs"):
        write(tmp_path)


def test_the_report_never_imports_torch(study_folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from robustlens.report.drawing import matplotlib as files
from robustlens.report import write_run
drawings = files.drawings
files.drawings = lambda figure, *rest: drawings(figure, *rest) if figure.name == "landscape" else {{}}
write_run({str(study_folder / "runs" / "at-0.1-s0")!r}, {str(tmp_path)!r})
sys.exit("torch" in sys.modules)
"""
    source = Path(__file__).resolve().parent.parent / "src"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(source)}
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text()
    assert "One network (AT 0.1), trained on fashion-mnist-10k" in page
    assert (tmp_path / "figures" / "landscape.pdf").exists()


def test_every_problem_of_a_run_is_told_and_none_hides_another_run(troubled_folder: Path) -> None:
    study = collect.study(troubled_folder)
    told = headline.notices(study)
    text = "\n".join(f"{who}: {what}" for who, what in told)
    assert f"Failed 0.1: failed: loss became NaN {NASTY_IMAGE}" in text
    assert "New 0.1: not started" in text
    assert "evaluation.json: damaged JSON" in text
    assert f"Bare 0.1: gradients vanish {NASTY_IMAGE} (test images)" in text
    rows = {row.group.label: row for row in headline.headline(study).rows}
    assert len(rows) == 9
    assert rows["Failed 0.1"].message == f"failed: loss became NaN {NASTY_IMAGE}"
    assert rows["Bare 0.1"].message == ""
    assert figure(study, "margins").labels() == [
        "Standard",
        "AT 0.05",
        "AT 0.1",
        f"{NASTY} 0.1",
        f"{MARKUP} 0.1",
    ]
    figures_told = {what for _, what in headline.notices(study)}  # reading arrays finds damaged ones
    assert any("explanation.safetensors: damaged" in what for what in figures_told)


def test_a_study_in_which_nothing_has_run_yet_still_has_a_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60)
    for file in list((folder / "runs" / "standard-0-s0").iterdir()):
        file.unlink()
    page = write(folder).read_text()
    assert "not started" in page
    assert page.count("Not measured in these runs.") >= 8
