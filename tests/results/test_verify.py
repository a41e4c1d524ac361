"""The check of a whole folder: quiet where all is well, exit 7 and the file's name for any flipped bit."""

import os
import shutil

import numpy as np
import pytest

from helpers.golden import unpack
from robustlens import cli
from robustlens.errors import StateError, StoppedError
from robustlens.results import Run, files, verify


def test_a_folder_that_cannot_be_looked_into_is_no_clean_one(tmp_path, monkeypatch):
    """As that of another user, or one on a disk that fails."""
    Run(tmp_path / "runs" / "a").update(status="new")
    Run(tmp_path).update(status="new")
    look, locked = os.scandir, str(tmp_path / "runs")

    def scandir(path):
        if os.fspath(path) == locked:
            raise PermissionError(13, "Permission denied", locked)
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [check.problem for check in verify(tmp_path) if check.problem] == [
        f"{locked}: cannot be read (Permission denied)"
    ]


def test_a_stop_ends_the_check_of_a_folder(tmp_path, monkeypatch):
    def stopped(*arguments):
        raise StoppedError("stopped by SIGINT")

    Run(tmp_path).update(status="new")
    for called in ("read_bytes", "read_json"):
        with monkeypatch.context() as patch:
            patch.setattr(files, called, stopped)
            with pytest.raises(StoppedError):
                verify(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study with one finished run, evaluated and explained, with kept epochs and pseudo-labels."""
    from robustlens import study
    from robustlens.config import StudySpec, checked
    from robustlens.executors import InProcess

    values = {
        "name": "sealed",
        "data": {"name": "fashion-mnist-10k", "train_limit": 120, "test_limit": 60, "unlabeled": 40},
        "model": {"name": "small-cnn", "options": {"width": 2, "hidden": 8}},
        "defaults": {
            "attack": {"steps": 2},
            "optimizer": {"lr": 0.05, "epochs": 2, "batch_size": 32},
            "monitor": {"examples": 20, "steps": 2},
            "keep_every": 1,
            "pseudo_labels": {"teacher": {"epochs": 1, "batch_size": 32}},
        },
        "methods": [{"label": "RST", "objective": "trades"}],
        "evaluation": {"attacks": ["pgd-2"], "checkpoint": "every", "curve": [], "save_adversarial": True},
        "explanation": {"measures": ["margins"], "examples": 40, "checkpoint": "both"},
    }
    folder = tmp_path_factory.mktemp("sealed")
    study.run(checked(StudySpec, values, "sealed"), folder, executor=InProcess())
    return folder


def test_a_clean_folder_is_quiet(finished, capsys):
    checks = verify(finished)
    assert len(checks) > 15
    assert all(check.sealed and check.problem is None for check in checks)
    assert cli.run(["verify", str(finished)]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_flipped_bit_in_any_file_is_exit_7_with_its_name(finished, tmp_path, capsys):
    rng = np.random.default_rng(0)
    files = [path for path in sorted(finished.rglob("*")) if path.is_file() and path.stat().st_size]
    assert {path.suffix for path in files} == {".json", ".jsonl", ".safetensors"}
    for path in files:
        content = path.read_bytes()
        for bit in rng.choice(8 * len(content), 5, replace=False):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(changed)
            code, said = cli.run(["verify", str(finished)]), capsys.readouterr().err
            path.write_bytes(content)
            assert (code, path.name in said, said.count("\n")) == (7, True, 1), (path, bit, said)
            assert "Traceback" not in said


def test_what_lies_in_a_report_or_is_hidden_is_not_ours(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    for name in ("report/a.json", "report/figures/deep/b.json", ".c.json", "d.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{")
    assert {check.path for check in verify(folder) if check.problem} == set()
    (folder / "e.json").write_text("{")
    (problem,) = [check for check in verify(folder) if check.problem]
    assert (problem.path, problem.sealed) == (folder / "e.json", False)


def test_files_that_do_not_belong_together_are_found(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (run,) = (folder / "runs").iterdir()
    shutil.copy(run / "evaluation-last.safetensors", run / "evaluation.safetensors")
    problems = [check.problem for check in verify(folder) if check.problem]
    assert problems
    for problem in problems:
        assert "evaluation.safetensors: does not belong to the result beside it" in problem


def test_the_numbers_of_a_result_in_anothers_place_are_not_read(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (run,) = (folder / "runs").iterdir()
    shutil.copy(run / "evaluation-last.json", run / "evaluation.json")
    with pytest.raises(StateError, match=r"evaluation\.safetensors: does not belong to the result beside it"):
        Run(run).evaluation()


def test_format_1_is_counted_and_left_as_it_is(tmp_path, capsys):
    folder = unpack("format-1", tmp_path) / "study"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert cli.run(["verify", str(folder)]) == 0
    assert "are of format 1, unsealed" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(StateError, match="no run, no study and no packed data set here"):
        verify(tmp_path)
