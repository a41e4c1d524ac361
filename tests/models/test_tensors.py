"""Tensors are put into networks whose buffers nobody could write: expanded ones, whose entries share memory."""

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.small_models import Centred, blobs
from helpers.training_runs import assert_same_bits, recipe, stop_in_epoch_two, weights_of
from robustlens.errors import StoppedError
from robustlens.models.start import start_from
from robustlens.models.tensors import make_writable

CENTRED = "helpers.small_models:Centred"


def from_our_file(folder):
    model, description = Centred(), rl.models.describe(CENTRED, num_classes=3)
    (folder / "w.safetensors").write_bytes(rl.models.to_bytes(Centred(0.25), description))
    rl.models.load_weights(model, folder / "w.safetensors")
    return model


def from_another_file(folder):
    torch.save(Centred(0.25).state_dict(), folder / "w.pt")
    return rl.models.load(folder / "w.pt", architecture=CENTRED)


def from_a_network(folder):
    model = Centred()
    start_from(model, Centred(0.25))
    return model


def from_a_state(folder):
    model = rl.models.get(CENTRED, num_classes=3)
    model.load_state_dict(Centred(0.25).state_dict())
    return model


@pytest.mark.parametrize("filled", [from_our_file, from_another_file, from_a_network, from_a_state])
def test_a_network_with_expanded_buffers_gets_the_tensors_of_another(filled, tmp_path):
    model = filled(tmp_path)
    assert model.mean.unique().tolist() == [0.25]
    assert model.again.mean is model.mean
    assert "scale" not in model.state_dict()


def test_only_what_nobody_could_write_is_copied():
    model = Centred()
    model.register_buffer("turned", torch.rand(3, 2).t())
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    model.add_module("lazy", nn.LazyBatchNorm1d())
    model.register_buffer("none", None)
    kept = {name: buffer for name, buffer in model.named_buffers() if name not in ("mean", "scale")}
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if not name.startswith("lazy")}
    make_writable(model)
    for name, buffer in model.named_buffers():
        assert buffer is kept[name] if name in kept else buffer.is_contiguous(), name
    assert torch.equal(model.mean, before["mean"])
    assert torch.equal(model.scale, before["scale"])


def test_a_network_with_expanded_buffers_is_trained_resumed_loaded_and_started_from(tmp_path):
    changes = {"model": {"name": CENTRED, "options": {}}, "objective": "standard", "optimizer": {"epochs": 2}}
    splits = rl.data.from_tensors(*blobs(), *blobs(60, seed=1))
    whole = rl.train(recipe(**changes), tmp_path / "whole", splits=splits)
    with pytest.raises(StoppedError):
        rl.train(recipe(**changes), tmp_path / "parts", splits=splits, progress=stop_in_epoch_two)
    parts = rl.train(recipe(**changes), tmp_path / "parts", splits=splits)
    assert_same_bits(weights_of(whole), weights_of(parts))
    loaded = rl.models.load(whole.folder, trust_code=True)
    assert torch.equal(loaded.get_buffer("model.mean"), torch.full_like(loaded.get_buffer("model.mean"), 0.5))
