"""Run folders: atomic files, locks, damage in one line, and no torch."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustlens.config import Recipe, checked
from robustlens.errors import LockedError, ResourceError, StateError
from robustlens.results.folders import Run, StudyFolder, locked, read_json, write_atomic, write_json


def test_a_write_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    write_atomic(path, b"first")
    assert path.read_bytes() == b"first"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it as any other file"

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ResourceError, match="No space left") as caught:
        write_atomic(path, b"second")
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path], "a temporary file was left"


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [np.float32(1.5), np.int64(2), float("inf")]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.5, 2, None]}


def test_arrays_come_back(tmp_path):
    run = Run(tmp_path)
    arrays = {
        "test/clean": np.array([True, False]),
        "test/loss": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    run.write_arrays("evaluation", arrays)
    assert run.array_names("evaluation") == ["test/clean", "test/loss"]
    assert run.array_names("explanation") == []
    for name, array in arrays.items():
        np.testing.assert_array_equal(run.array("evaluation", name), array)
    with pytest.raises(KeyError):
        run.array("evaluation", "test/fgsm")


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", "\xff"])
def test_damaged_json_is_one_line_with_the_file(tmp_path, damage):
    (tmp_path / "run.json").write_text(damage, encoding="latin-1")
    with pytest.raises(StateError, match=r"run\.json") as caught:
        _ = Run(tmp_path).status
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 7


def test_damaged_arrays_are_one_line_with_the_file(tmp_path):
    run = Run(tmp_path)
    run.write_arrays("evaluation", {"a": np.zeros(100)})
    path = tmp_path / "evaluation.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StateError, match=r"evaluation\.safetensors: damaged") as caught:
        run.array("evaluation", "a")
    assert "\n" not in str(caught.value)


def test_a_half_written_last_metric_is_passed_over_and_one_in_the_middle_is_not(tmp_path):
    run = Run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    assert run.metrics() == [{"epoch": 1}]
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(StateError, match="line 2"):
        run.metrics()


def _hold(folder, ready, release):
    with locked(Path(folder)):
        ready.set()
        release.wait(30)


def test_a_lock_keeps_other_processes_out_and_dies_with_its_holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(LockedError) as caught, locked(tmp_path):
        pass
    assert caught.value.exit_code == 6
    holder.kill()
    holder.join()
    with locked(tmp_path):
        pass


def test_a_folder_belongs_to_one_recipe(tmp_path):
    run = Run(tmp_path / "run")
    run.check(Recipe())
    assert not run.folder.exists(), "checking must not create anything"
    run.claim(Recipe())
    run.claim(Recipe())
    with pytest.raises(StateError, match="seed: 0 -> 1"):
        run.claim(checked(Recipe, {"seed": 1}, "recipe"))
    assert run.recipe == Recipe()


def test_a_recipe_of_another_version_is_one_line(tmp_path):
    write_json(tmp_path / "recipe.json", {"learning_rate": 1})
    with pytest.raises(StateError, match="learning_rate: unknown key") as caught:
        _ = Run(tmp_path).recipe
    assert caught.value.exit_code == 7


def test_a_result_is_there_only_with_its_arrays(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.write_result("evaluation", {"a": 1}, {"x": np.zeros(2)})

    def killed(self, name, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_result("evaluation", {"a": 2}, {"x": np.ones(2)})
    assert run.evaluation is None


def test_a_study_folder_lists_its_runs(tmp_path):
    with pytest.raises(StateError, match=r"study\.json"):
        StudyFolder(tmp_path).runs()
    write_json(tmp_path / "study.json", {"runs": [{"id": "a", "folder": "runs/a", "label": "A"}]})
    (run,) = StudyFolder(tmp_path).runs()
    assert run.folder == tmp_path / "runs" / "a"
    assert run.entry["label"] == "A"
    assert run.status == {"status": "new"}
    assert run.evaluation is None
    assert StudyFolder(tmp_path).claims == []
    assert read_json(tmp_path / "study.json")["runs"]


@pytest.mark.parametrize("room", ["runs", "recipe", "claims", "report"])
def test_reading_results_needs_no_torch(room):
    program = f"import sys, robustlens.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
