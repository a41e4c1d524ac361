"""Small training runs: their recipe, their weights, and a listener that stops them half-way."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import robustlens as rl
from robustlens.config import Recipe, checked
from robustlens.data import Splits
from robustlens.errors import StoppedError
from robustlens.progress import Event
from robustlens.results import Run

RST = {
    "objective": "trades",
    "data": {"unlabeled": 100},
    "pseudo_labels": {"teacher": {"lr": 0.05, "epochs": 3, "batch_size": 32, "schedule": "one-cycle"}},
}
"""Fields of a recipe with pseudo-labels."""


def recipe(**changes: Any) -> Recipe:
    """Three epochs of PGD-2 training of a tiny network; fields of `changes` are merged into its parts."""
    values: dict[str, Any] = {
        "model": {"name": "small-cnn-bn", "options": {"width": 4, "hidden": 8}},
        "threat": {"norm": "Linf", "eps": 0.03},
        "objective": "at",
        "attack": {"steps": 2},
        "optimizer": {"lr": 0.05, "epochs": 3, "batch_size": 32, "schedule": "one-cycle"},
        "monitor": {"examples": 40, "steps": 3},
        "data": {"name": "arrays", "augment": "none"},
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
    return checked(Recipe, values, "recipe")


def without_batch_norm(**changes: Any) -> Recipe:
    """As `recipe`, of a network without BatchNorm, whose batches can be split."""
    return recipe(model={"name": "small-cnn"}, **changes)


def weights_of(run: Run, name: str = "last") -> dict[str, Tensor]:
    """Tensors of one of the run's safetensors files."""
    return load_file(run.folder / f"{name}.safetensors")


def after_one_epoch(folder: Path, splits: Splits, **changes: Any) -> dict[str, Tensor]:
    """Weights after one epoch of `without_batch_norm`, less those of the normalisation."""
    optimizer = {"epochs": 1, **changes.pop("optimizer", {})}
    run = rl.train(without_batch_norm(optimizer=optimizer, **changes), folder, splits=splits)
    return {key: tensor for key, tensor in weights_of(run).items() if not key.startswith("normalize.")}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference between weights of the same names."""
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Fail with the name of the first tensor that differs."""
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def stop_in_epoch_two(event: Event) -> None:
    """Stop a run of two or three epochs in the second one, as a signal would."""
    if event.phase == "train" and event.done > event.total / 2:
        raise StoppedError("stop")
