"""Sealed weights: no flipped bit passes, and a file of a run belongs to the run's recipe."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustlens import models
from robustlens.config import Recipe, checked
from robustlens.errors import ModelError, RobustlensError, StateError
from robustlens.results import Run, array_files, files

DESCRIBED = models.describe("small-cnn-bn", num_classes=3, in_channels=1, width=2, hidden=3)
RECIPE = checked(Recipe, {"model": {"name": "small-cnn-bn", "options": {"width": 2, "hidden": 3}}}, "recipe")


def network() -> nn.Module:
    return models.build_from(DESCRIBED).eval()


def run_with_weights(folder: Path, model: nn.Module | None = None, recipe: str = RECIPE.hash()) -> Path:
    """A run folder of `RECIPE` with weights; returns their file."""
    run = Run(folder)
    run.bind(RECIPE)
    path = folder / "best.safetensors"
    path.write_bytes(models.to_bytes(model or network(), DESCRIBED, recipe))
    return path


def same(model: nn.Module, other: nn.Module) -> bool:
    mine, theirs = model.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bits(content: bytes, start: int, end: int, count: int) -> Iterator[int]:
    """Bits of the bytes from `start` to `end`: all, or `count` of them by chance."""
    everything = range(8 * start, 8 * end)
    yield from everything if len(everything) <= count else random.Random(0).sample(everything, count)


def regions(content: bytes) -> dict[str, tuple[int, int]]:
    """First and last byte of the parts of a safetensors file."""
    data = 8 + int.from_bytes(content[:8], "little")
    padding = len(content[8:data].rstrip(b" ")) + 8
    seal = content.index(b'"seal":"')
    return {
        "length": (0, 8),
        "metadata": (8, seal),
        "seal key": (seal, seal + 8),
        "seal": (seal + 8, seal + 74),
        "tensors' names": (seal + 74, padding),
        "padding": (padding, data),
        "tensors": (data, len(content)),
    }


@pytest.mark.parametrize(
    "region", ["length", "metadata", "seal key", "seal", "tensors' names", "padding", "tensors"]
)
def test_no_flipped_bit_passes(tmp_path: Path, region: str) -> None:
    path = run_with_weights(tmp_path)
    content = path.read_bytes()
    start, end = regions(content)[region]
    for bit in bits(content, start, end, 96):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(StateError, match=r"best\.safetensors: ") as of_run:
            models.load(tmp_path)
        assert of_run.value.exit_code == 7
        with pytest.raises(RobustlensError, match=r"best\.safetensors: ") as bare:
            models.load(path)
        for caught in (of_run, bare):
            assert "\n" not in str(caught.value)
    path.write_bytes(content)
    models.load(tmp_path)


def test_padding_is_a_region_of_the_file(tmp_path: Path) -> None:
    """Some of these files have no padding; the one of these tests must have some."""
    start, end = regions(run_with_weights(tmp_path).read_bytes())["padding"]
    assert end > start


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_of_a_run_is_damage(tmp_path: Path, kept: int) -> None:
    path = run_with_weights(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StateError, match=r"best\.safetensors: truncated or damaged"):
        models.load(tmp_path)


def test_a_flipped_bit_of_a_bare_file_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    path = run_with_weights(tmp_path)
    content, model = path.read_bytes(), network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    path.write_bytes(flipped(content, 8 * len(content) - 1))
    with pytest.raises(StateError, match="does not have its seal"):
        models.load_weights(model, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_weights_of_another_recipe_are_refused_in_a_run_alone(tmp_path: Path) -> None:
    model = network()
    path = run_with_weights(tmp_path, model, recipe="0123456789ab")
    with pytest.raises(
        StateError,
        match=rf"best\.safetensors: found weights of recipe '0123456789ab', expected '{RECIPE.hash()}'",
    ):
        models.load(tmp_path)
    assert same(models.load(path), model)
    run_with_weights(tmp_path, model, recipe="")
    assert same(models.load(tmp_path), model)


@pytest.mark.parametrize("recipe", ["", RECIPE.hash()])
def test_a_folder_without_a_recipe_takes_any_weights_of_ours(tmp_path: Path, recipe: str) -> None:
    model = network()
    (tmp_path / "last.safetensors").write_bytes(models.to_bytes(model, DESCRIBED, recipe))
    assert same(models.load(tmp_path), model)


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "FORMAT", 3)
    path = run_with_weights(tmp_path)
    monkeypatch.undo()
    for spec in (tmp_path, path):
        with pytest.raises(
            StateError, match=r"found format 3, expected at most 2; a newer robustlens wrote it"
        ):
            models.load(spec)


def test_weights_of_format_1_load_without_a_seal(tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "best.safetensors"
    save_file(model.state_dict(), path, {"robustlens": json.dumps({"model": DESCRIBED})})
    assert same(models.load(path), model)
    assert same(models.load(tmp_path), model)


def test_a_file_of_others_is_no_weights_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_file({"weight": torch.zeros(3, 4)}, path)
    with pytest.raises(StateError, match=r"best\.safetensors: damaged, it does not describe its network"):
        models.load(tmp_path)
    with pytest.raises(ModelError, match="architecture"):
        models.load(path)


def test_the_seal_names_the_weights(tmp_path: Path) -> None:
    path = run_with_weights(tmp_path)
    seal = files.seal_of(path.read_bytes())
    assert seal is not None
    run_with_weights(tmp_path)
    assert files.seal_of(path.read_bytes()) != seal, "other weights have another seal"
