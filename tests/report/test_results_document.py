"""results.json: its numbers are the table's, and it is what its schema says."""

import json
from pathlib import Path

import jsonschema
import pytest

from helpers.study_files import QUICKSTART, example_claims, write_study
from robustlens.errors import ConfigError
from robustlens.report import write
from robustlens.report.reading import read_study
from robustlens.report.results_document import results, results_schema
from robustlens.report.text.headline import headline
from robustlens.results.values import plain


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(
        tmp_path_factory.mktemp("study"), members=QUICKSTART[:2], n=40, claims=example_claims()
    )
    write(folder, formats=["png"])
    return folder


def test_it_has_the_numbers_of_the_runs_and_fits_its_schema(reported: Path) -> None:
    content = json.loads((reported / "report" / "results.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(results_schema()).validate(content)
    data = read_study(reported)
    robust = data.networks[1].over_seeds(lambda run: run.after("cw-20"))
    assert robust
    assert content["networks"][1]["numbers"]["attack:cw-20"] == {
        "value": robust.value,
        "low": robust.low,
        "high": robust.high,
    }
    assert [one["label"] for one in content["networks"]] == ["Standard", "AT 0.05"]
    assert len(content["claims"]) == len(list(example_claims()))


def test_runs_without_a_result_are_counted_out_and_noted(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:2], seeds=3, n=60)
    (folder / "runs/at-0.05-s1/evaluation.json").write_bytes(b"{ damaged")
    (folder / "runs/at-0.05-s2/evaluation.json").unlink()
    data = read_study(folder)
    content = plain(results(data, headline(data)))
    jsonschema.Draft202012Validator(results_schema()).validate(content)
    standard, damaged = content["networks"]
    assert (damaged["seeds"], set(damaged["runs"].values())) == ([0, 1, 2], {1})
    assert set(standard["runs"].values()) == {3}
    assert damaged["runs"].keys() == damaged["numbers"].keys()
    assert [note.partition(" (")[0] for note in content["notes"]] == [
        "AT 0.05, seed 1: done, but without an evaluation that counts; see the notes",
        "AT 0.05, seed 1: at-0.05-s1/evaluation.json: damaged JSON",
        "AT 0.05, seed 2: done, but its evaluation is missing",
    ]


def test_a_changed_document_does_not_fit_the_schema(reported: Path) -> None:
    content = json.loads((reported / "report" / "results.json").read_text(encoding="utf-8"))
    content["networks"][0]["seeds"] = "0"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(results_schema()).validate(content)


def test_only_the_formats_that_were_asked_for_are_drawn_and_linked(reported: Path) -> None:
    kinds = {path.suffix for path in (reported / "report" / "figures").iterdir()}
    page = (reported / "report" / "index.html").read_text(encoding="utf-8")
    assert kinds == {".png", ".csv"}
    assert (reported / "report" / "figures" / "margins.png").read_bytes().startswith(b"\x89PNG")
    assert 'href="figures/margins.png"' in page
    assert 'href="figures/margins.pdf"' not in page
    assert 'data-copies="headline"' in page
    with pytest.raises(ConfigError, match="found 'gif', expected pdf, svg, png"):
        write(reported, formats=["gif"])
