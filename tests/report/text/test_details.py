"""How everything was measured, as the page says it."""

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
    first = details.runs(study)[0]
    assert (first.name, first.place) == ("standard-0-s0", 0)
    assert first.facts["status"] == "done"
    assert first.facts["checkpoint"] == "best"
    assert first.facts["folder"] == "runs/standard-0-s0"
    spectrum, activations, *_ = details.sources(study)
    assert (spectrum.name, spectrum.source, spectrum.seconds) == ("spectrum", "Sedghi et al. 2019", "1.5 s")
    assert activations.unit == "L2 norm"
    assert details.versions(study) == "torch 2.13.0+cpu; python 3.11.2; device cpu"


def test_a_run_that_has_not_started_has_no_facts_that_it_cannot_have(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=QUICKSTART[:1], n=60)
    for file in (folder / "runs/standard-0-s0").iterdir():
        file.unlink()
    (run,) = details.runs(read_study(folder))
    assert run.facts == {"status": "new", "folder": "runs/standard-0-s0"}
    assert run.recipe == {}
