"""Method of the measurements, as the page says it."""

from pathlib import Path

from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.report.text import details


def test_recipes_are_shown_by_the_fields_in_which_they_differ(study: ReportData) -> None:
    common, differ, each = details.recipes(study)
    assert {"threat.eps", "objective", "awp.gamma"} <= set(differ)
    assert not set(differ) & set(common)
    assert common["optimizer.schedule"] == "one-cycle"
    assert "seed" not in common
    assert [network.label for network, _ in each] == [network.label for network in study.networks]


def test_runs_have_their_facts_and_measures_their_sources(study: ReportData) -> None:
    facts = details.facts(study.runs[0])
    assert facts["status"] == "done"
    assert facts["checkpoint"] == "best"
    assert facts["folder"] == "runs/standard-0-s0"
    sources = details.sources(study)
    assert list(sources)[:2] == ["spectrum", "activations"]
    assert sources["spectrum"].source == "Sedghi et al. 2019"
    assert details.mean_seconds(study, "spectrum") == "1.5 s"
    assert details.versions(study) == "torch 2.13.0+cpu; python 3.11.2; device cpu"


def test_a_run_that_has_not_started_has_no_facts_that_it_cannot_have(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60)
    for file in (folder / "runs/standard-0-s0").iterdir():
        file.unlink()
    (run,) = read_study(folder).runs
    assert details.facts(run) == {"status": "new", "folder": "runs/standard-0-s0"}
    assert details.recipe(run) == {}
