"""results.json: its numbers are the table's, and it is what its schema says."""

import json
from pathlib import Path

import jsonschema
import pytest

from helpers.study_files import QUICKSTART, example_claims, write_study
from robustlens.errors import ConfigError
from robustlens.report import write
from robustlens.report.reading import read_study
from robustlens.report.results_document import results_schema


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
