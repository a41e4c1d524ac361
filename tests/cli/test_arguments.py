"""Options that are refused before anything is read: a device that is not there, a checkpoint of no run."""

import pytest
import torch

from robustlens import cli

VERBS = {
    "train": ["train", "--data", "npz:absent.npz"],
    "evaluate": ["evaluate", "absent", "--data", "npz:absent.npz", "--eps", "0.1"],
    "explain": ["explain", "absent", "--data", "npz:absent.npz", "--eps", "0.1"],
    "study": ["study", "quickstart"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("name", "code"), [("cuda", 5), ("cuda:1", 5), ("gpu", 2)])
def test_a_device_that_is_not_there_is_refused_first(verb, name, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.run([*VERBS[verb], "--device", name]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"error: device: found '{name}'")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
def test_a_checkpoint_of_what_is_no_run_is_refused(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run([*VERBS[verb], "--checkpoint", "last"]) == 2
    assert capsys.readouterr().err == "error: --checkpoint: found last, but absent is no run folder of ours\n"
