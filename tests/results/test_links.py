"""Nothing outside a folder of ours is written or read through a link."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.study_files import write_study
from robustlens import report
from robustlens.config import BEST, Recipe
from robustlens.errors import StateError
from robustlens.results import EpochRecord, Run, RunEntry, StudyFolder, StudyRecord, links, verify
from robustlens.results.links import inside, refuse_links
from robustlens.results.locks import locked


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the user's, outside any run."""
    path = tmp_path / "precious" / "file"
    path.parent.mkdir()
    path.write_text("mine")
    return path


@pytest.mark.parametrize("name", ["lock", "lease", "metrics.jsonl", "evaluation.state", "report", "deep/er"])
def test_a_link_out_of_the_folder_is_refused_and_its_target_stays(tmp_path, precious, name):
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(precious if "." in name or name == "lock" else precious.parent)
    with pytest.raises(StateError, match=name), locked(folder):
        pass
    assert precious.read_text() == "mine"
    assert list(precious.parent.iterdir()) == [precious]


@pytest.mark.parametrize("name", ["run.json", "recipe.json", "metrics.jsonl", "evaluation.json"])
def test_a_document_behind_a_link_is_neither_read_nor_written(tmp_path, name):
    study = StudyFolder(write_study(tmp_path / "study"))
    run = study.runs()[0]
    outside = tmp_path / name
    (run.folder / name).rename(outside)
    (run.folder / name).symlink_to(outside)
    before = outside.read_bytes()
    read = {
        "run.json": lambda: run.record,
        "recipe.json": lambda: run.recipe,
        "metrics.jsonl": run.metrics,
        "evaluation.json": run.evaluation,
    }[name]
    with pytest.raises(StateError, match=f"{name}: is a link out of"):
        read()
    change = {"metrics.jsonl": lambda: run.append_metrics(EpochRecord(9))}
    change |= {"run.json": lambda: run.update(epochs_done=9)}
    with pytest.raises(StateError, match="is a link out of"):
        change.get(name, lambda: run.path(name))()
    assert outside.read_bytes() == before
    assert any("is a link" in str(check.problem) for check in verify(study.folder))


def test_weights_behind_a_link_are_not_read(tmp_path, precious):
    run = Run(tmp_path / "run")
    run.bind(Recipe())
    run.write_arrays("elsewhere", {"w": np.zeros(2)})
    (run.folder / "elsewhere.safetensors").rename(tmp_path / "best.safetensors")
    (run.folder / "best.safetensors").symlink_to(tmp_path / "best.safetensors")
    with pytest.raises(StateError, match=r"best\.safetensors: is a link out of"):
        run.weights_path(BEST)


def test_a_linked_report_is_not_written_through(tmp_path, precious):
    folder = write_study(tmp_path / "study")
    (folder / "report").symlink_to(precious.parent)
    with pytest.raises(StateError, match="report: is a link out of"):
        report.write(folder)
    (folder / "report").unlink()
    (folder / "report").mkdir()
    (folder / "report" / "figures").symlink_to(precious.parent)
    with pytest.raises(StateError, match="figures: is a link out of"):
        report.write(folder)
    assert list(precious.parent.iterdir()) == [precious]


@pytest.mark.parametrize("folder", ["../x", "/etc", "runs/../../x", "", ".", "C:\\x", "..\\x", "runs/a\0b"])
def test_the_runs_of_a_study_lie_inside_it(tmp_path, folder):
    study = StudyFolder(tmp_path / "study")
    study.write_record(StudyRecord("s", runs=(RunEntry("a", folder, "A"),)))
    with pytest.raises(StateError, match="expected one inside this folder"):
        study.runs()
    with pytest.raises(StateError):
        report.write(study.folder)


def test_a_linked_run_of_a_study_is_refused(tmp_path, precious):
    study = StudyFolder(tmp_path / "study")
    study.write_record(StudyRecord("s", runs=(RunEntry("a", "runs/a", "A"),)))
    (study.folder / "runs").mkdir()
    (study.folder / "runs" / "a").symlink_to(precious.parent)
    with pytest.raises(StateError, match="is a link out of"):
        study.runs()


def test_links_that_stay_inside_and_a_linked_folder_itself_are_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("a")
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    refuse_links(tmp_path / "linked")
    assert inside(tmp_path / "linked", "b").read_text() == "a"
    with locked(tmp_path / "linked"):
        pass


def test_a_copy_made_of_hard_links_is_not_written_through(tmp_path):
    run = Run(tmp_path / "run")
    run.bind(Recipe())
    run.append_metrics(EpochRecord(1))
    os.link(run.folder / "metrics.jsonl", tmp_path / "backup.jsonl")
    before = (tmp_path / "backup.jsonl").read_bytes()
    run.append_metrics(EpochRecord(2))
    assert (tmp_path / "backup.jsonl").read_bytes() == before
    assert [epoch.epoch for epoch in run.metrics()] == [1, 2]


@pytest.mark.parametrize("name", ["runs", "claims.json", "best.safetensors", "state.safetensors", "report"])
def test_verify_names_every_link_that_leads_out(tmp_path, name):
    study = StudyFolder(write_study(tmp_path / "study"))
    inside_run = name.endswith(".safetensors")
    place = (study.runs()[0].folder if inside_run else study.folder) / name
    outside = tmp_path / "outside"
    if place.exists():
        place.rename(outside)
    else:
        outside.touch()
    place.symlink_to(outside)
    (problem,) = [check.problem for check in verify(study.folder) if check.path == place]
    assert f"{name}: is a link out of" in str(problem)


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("junction", [False, True])
def test_a_link_anywhere_on_the_way_is_seen(tmp_path, precious, monkeypatch, place, junction):
    """A junction of Windows leads elsewhere, but is no link to `islink`."""
    if junction:
        path = SimpleNamespace(realpath=os.path.realpath, islink=lambda path: False)
        monkeypatch.setattr(links, "os", SimpleNamespace(name="nt", path=path, sep=os.sep))
    (tmp_path / "run" / place).parent.mkdir(parents=True)
    (tmp_path / "run" / place).symlink_to(precious.parent)
    for names in (("a/b/c/d",), ("a", "b", "c"), ("a", "b/c/d")):
        with pytest.raises(StateError, match="is a link out of"):
            inside(tmp_path / "run", *names)
    (tmp_path / "run" / place).unlink()
    assert inside(tmp_path / "run", "a", "b/c") == tmp_path / "run" / "a" / "b" / "c"


@pytest.mark.parametrize("folder", ["", ".", "..", "../run"])
def test_a_folder_by_a_relative_path_is_looked_through_too(tmp_path, precious, monkeypatch, folder):
    (tmp_path / "run" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / ("deep" if folder == ".." else ""))
    (tmp_path / "run" / "out").symlink_to(precious.parent)
    with pytest.raises(StateError, match="is a link out of"):
        inside(Path(folder), "out", "file")
