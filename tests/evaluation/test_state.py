"""States of an evaluation: what they count, that damage and other formats are refused, and format 1 read."""

import json
import random

import pytest
import torch
from safetensors.torch import save_file

from robustlens.errors import StateError
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.state import ROBUST, WRONG, EvaluationState
from robustlens.results import array_files


def test_a_state_by_hand(tmp_path):
    clean = torch.tensor([True, False, True, True])
    state = EvaluationState.open(tmp_path, {"model": "a"}, clean, 2)
    assert state.broken_by.tolist() == [ROBUST, WRONG, ROBUST, ROBUST]
    assert state.rows(0).tolist() == [0, 2, 3]
    state.record(0, torch.tensor([0, 2]), torch.tensor([True, False]), torch.tensor([0.5, torch.inf]), 1.5)
    again = EvaluationState.open(tmp_path, {"model": "a"}, clean, 2)
    assert again.broken_by.tolist() == [0, WRONG, ROBUST, ROBUST]
    assert again.distance.tolist() == [0.5, 0.0, torch.inf, torch.inf]
    assert again.seconds.tolist() == [1.5, 0.0]
    assert again.rows(0).tolist() == [0, 2, 3]  # the same batches as before the stop
    assert again.untried(0, again.rows(0)).tolist() == [3]
    assert again.rows(1).tolist() == [2, 3]
    assert again.rows(1, include_broken=True).tolist() == [0, 2, 3]
    assert again.robust_after(0).tolist() == [False, False, True, True]
    again.record(1, torch.tensor([0, 2]), torch.tensor([True, True]), torch.tensor([0.25, 0.375]), 1.0)
    assert again.broken_by.tolist() == [0, WRONG, 1, ROBUST]  # an image stays with the try that broke it
    assert again.distance.tolist() == [0.25, 0.0, 0.375, torch.inf]
    assert again.robust_after(0).tolist() == [False, False, True, True]


def saved(folder):
    """A state of three images, the first of them broken, in `folder`."""
    state = EvaluationState.open(folder, {"model": "a"}, torch.tensor([True, False, True]), 1)
    state.record(0, torch.tensor([0]), torch.tensor([True]), torch.tensor([0.5]), 1.0)
    return folder / "progress.safetensors"


def opened(folder, model="a"):
    return EvaluationState.open(folder, {"model": model}, torch.tensor([True, False, True]), 1)


def test_no_flipped_bit_passes(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 600):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(StateError, match=r"progress\.safetensors: ") as caught:
            opened(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert opened(tmp_path).broken_by.tolist() == [0, WRONG, ROBUST]


def test_a_state_of_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "FORMAT", 3)
    saved(tmp_path)
    monkeypatch.undo()
    with pytest.raises(StateError, match="found format 3, expected at most 2"):
        opened(tmp_path)


def format_1(folder, **changes):
    """The same state as version 0.1.0 wrote it: without a seal, `broken_by` called `fell`."""
    tensors = {
        "fell": torch.tensor([0, -2, -1]),
        "tried": torch.tensor([1, 0, 0]),
        "distance": torch.tensor([0.5, 0.0, torch.inf], dtype=torch.float64),
        "seconds": torch.tensor([1.0], dtype=torch.float64),
    }
    tensors |= changes
    folder.mkdir(exist_ok=True)
    metadata = {"robustlens-evaluation": json.dumps({"model": "a"})}
    save_file(tensors, folder / "progress.safetensors", metadata)


def test_a_state_of_format_1_goes_on(tmp_path):
    format_1(tmp_path / "old")
    saved(tmp_path / "new")
    old, new = opened(tmp_path / "old"), opened(tmp_path / "new")
    for name in ("broken_by", "tried", "distance", "seconds"):
        assert torch.equal(getattr(old, name), getattr(new, name)), name
    assert old.untried(0, old.rows(0)).tolist() == [2]
    with pytest.raises(StateError, match="belongs to another model"):
        opened(tmp_path / "old", model="b")
    old.record(0, torch.tensor([2]), torch.tensor([False]), torch.tensor([torch.inf]), 1.0)
    assert array_files.read_header(tmp_path / "old" / "progress.safetensors").seal is not None


def test_tensors_that_do_not_fit_are_damage(tmp_path):
    format_1(tmp_path, fell=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(StateError, match="damaged; delete"):
        opened(tmp_path)
    save_file({"fell": torch.zeros(3, dtype=torch.int64)}, tmp_path / "progress.safetensors")
    with pytest.raises(StateError, match="does not say which evaluation it belongs to"):
        opened(tmp_path)


def test_another_sealed_file_in_place_of_a_state_is_refused(tmp_path):
    AdversarialImages(tmp_path).add(0, torch.tensor([0]), torch.zeros(1, 2))
    (images,) = tmp_path.glob("adversarial-*")
    images.rename(tmp_path / "progress.safetensors")
    with pytest.raises(StateError, match="does not say which evaluation it belongs to"):
        opened(tmp_path)
