"""A tiny run, trained, evaluated and explained through the command line, as its owner has it."""

from pathlib import Path

import yaml

from robustlens import cli

RECIPE = {
    "data": {"name": "fashion-mnist-10k", "train_limit": 200, "test_limit": 40},
    "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}},
    "objective": "at",
    "awp": {"gamma": 0.01},
    "attack": {"steps": 2},
    "optimizer": {"epochs": 1, "schedule": "one-cycle"},
    "monitor": {"examples": 20, "steps": 2},
}


def trained(folder: Path, **changes: object) -> Path:
    """A run folder with weights and no evaluation."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**RECIPE, **changes}), encoding="utf-8")
    assert cli.run(["train", "--recipe", str(file), "--out", str(folder), "--device", "cpu", "--quiet"]) == 0
    return folder


def evaluated(folder: Path) -> Path:
    """The same, evaluated with both checkpoints, and explained."""
    run = str(trained(folder))
    attacked = ["evaluate", run, "--attacks", "fgsm,pgd-2", "--limit", "40", "--curve", "none", "--quiet"]
    assert cli.run([*attacked, "--checkpoint", "both"]) == 0
    assert cli.run(["explain", run, "--measures", "margins", "--examples", "30", "--quiet"]) == 0
    return folder
