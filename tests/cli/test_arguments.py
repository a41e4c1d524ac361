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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--executor", "cloud"], "--executor: found 'cloud', expected one of local, ray, slurm"),
        (["--address", "auto"], "--address: found it with --executor local, expected ray"),
        (["--memory-gib", "2"], "--memory-gib: found it with --executor local, expected ray, slurm"),
        (["--executor", "slurm", "--send-data"], "--send-data: found it with --executor slurm, expected ray"),
        (["--executor", "slurm", "--slurm", "gpu"], "--slurm: found 'gpu', expected NAME=VALUE"),
        (
            ["--executor", "ray", "--device", "cuda:1"],
            "--device: found 'cuda:1', expected auto, cpu, cuda on",
        ),
    ],
)
def test_an_executor_that_is_not_there_and_options_of_others_are_refused(
    options, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["study", "quickstart", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_options_of_a_study_make_its_executor(tmp_path):
    from robustlens.cli.executors import ExecutorOptions, of

    options = ExecutorOptions("ray", 8, 4, 2, "auto", 1.5, None, True)
    ray = of(options, "cuda", tmp_path)
    assert (ray.address, ray.workers, ray.threads, ray.share) == ("auto", 8, 4, 0.5)
    assert (ray.memory, ray.send_data, ray.use_gpus) == (3 << 29, True, True)
    slurm = of(ExecutorOptions("slurm", threads=3, slurm=["partition=gpu"]), "cuda", tmp_path / "study")
    assert (slurm.folder, slurm.gpus, slurm.threads) == (tmp_path / "study.slurm", 1, 3)
    assert slurm.parameters["slurm_partition"] == "gpu"
    assert of(ExecutorOptions("slurm"), "auto", tmp_path).gpus == 0
    assert of(ExecutorOptions(threads=3), "cpu", tmp_path).threads == 3
