"""Options of the commands that say whom to tell, and what a leaderboard is told."""

import json

import numpy as np
import pytest
import yaml

from helpers.small_models import blobs
from robustlens import cli
from robustlens.results import Run

RECIPE = {
    "data": {"name": "npz:blobs.npz", "augment": "none"},
    "model": {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}},
    "objective": "standard",
    "optimizer": {"name": "adamw", "lr": 0.001, "epochs": 2, "batch_size": 32, "schedule": "ExponentialLR",
                  "schedule_options": {"gamma": 0.5}},
    "monitor": {"examples": 10, "steps": 1},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a small data set and a recipe."""
    monkeypatch.chdir(tmp_path)
    (x, y), (x_test, y_test) = blobs(), blobs(60, seed=1)
    np.savez("blobs.npz", x_train=x.numpy(), y_train=y.numpy(), x_test=x_test.numpy(), y_test=y_test.numpy())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


@pytest.mark.slow
def test_train_tells_the_trackers_in_the_folder_that_is_named(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    command = ["train", "--recipe", "recipe.yaml", "--out", "run", "--track", "tensorboard", "--quiet"]
    assert cli.run([*command, "--track-dir", "shown"]) == 0
    epochs = Run(folder / "run").metrics()
    assert [epoch.lr for epoch in epochs] == pytest.approx([0.001, 0.0005])
    shown = accumulator.EventAccumulator(str(folder / "shown" / "tensorboard" / "run"))
    shown.Reload()
    told = shown.Scalars("validation/clean")
    assert [(one.step, one.value) for one in told] == [
        (epoch.epoch, pytest.approx(epoch.validation.clean)) for epoch in epochs
    ]


@pytest.mark.slow
def test_a_study_tells_each_run_apart(folder):
    pytest.importorskip("tensorboard")
    fields = {key: RECIPE[key] for key in ("optimizer", "monitor")}
    study = {
        "name": "mine",
        "data": RECIPE["data"],
        "model": RECIPE["model"],
        "seeds": [0, 1],
        "defaults": fields,
        "methods": [{"label": "Standard", "objective": "standard"}],
        "evaluation": {"attacks": ["fgsm"], "curve": []},
        "explanation": {"measures": ["margins"], "examples": 10},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    options = ["--track", "tensorboard", "--quiet", "--figures", "none"]
    assert cli.run(["study", "study.yaml", "--out", "mine", *options]) == 0
    written = {path.parent.name for path in (folder / "mine").glob("tracking/tensorboard/*/events.*")}
    assert written == {"standard-0-s0", "standard-0-s1"}
    assert cli.run(["verify", "mine"]) == 0


def test_wrong_options_are_one_line_before_anything_is_done(folder, capsys):
    train = ["train", "--recipe", "recipe.yaml", "--out", "run"]
    evaluate = [
        "evaluate",
        "no_such:model",
        "--data",
        "npz:blobs.npz",
        "--eps",
        "0.1",
        "--attacks",
        "standard",
    ]
    for command, said in (
        ([*train, "--track", "tensorbord"], "did you mean 'tensorboard'"),
        ([*evaluate, "--about", "authors=us"], "--about: found without --leaderboard FILE"),
        ([*evaluate, "--leaderboard", "l.json", "--about", "authors"], "expected FIELD=TEXT"),
        ([*evaluate, "--leaderboard", "l.json", "--about", "autors=us"], "did you mean 'authors'"),
        ([*evaluate, "--leaderboard", "l.json", "--about", "link=arxiv"], "expected an address"),
    ):
        assert cli.run(command) == 2
        error = capsys.readouterr().err
        assert said in error.replace("\n", " ")
    assert not (folder / "run").exists()


def test_what_a_command_could_not_keep_is_said_before_any_attack(folder, capsys):
    evaluate = ["evaluate", "no_such:model", "--data", "npz:blobs.npz", "--eps", "0.1"]
    assert cli.run([*evaluate, "--save-adversarial"]) == 2
    assert "--save-adversarial: found no folder for the images; add --out" in capsys.readouterr().err
    (folder / "taken.json").mkdir()
    assert cli.run([*evaluate, "--attacks", "standard", "--leaderboard", "taken.json"]) == 5
    assert "taken.json: cannot be written (Is a directory)" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_the_leaderboard_is_told_what_was_given(folder):
    assert cli.run(["train", "--recipe", "recipe.yaml", "--out", "run", "--quiet"]) == 0
    command = ["evaluate", "run", "--attacks", "standard", "--eps", "0.02", "--limit", "4", "--out", "ev"]
    about = ["--about", "authors=A. Author, B. Author", "--about", "venue=ICML 2026",
             "--about", "link=https://arxiv.org/abs/2004.05884"]  # fmt: skip
    assert cli.run([*command, "--leaderboard", "entry.json", *about, "--quiet"]) == 0
    entry = json.loads((folder / "entry.json").read_text())
    assert entry["authors"] == "A. Author, B. Author"
    assert (entry["venue"], entry["link"]) == ("ICML 2026", "https://arxiv.org/abs/2004.05884")
