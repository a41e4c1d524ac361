"""Networks are used without a trace, also where torch lets nobody write their tensors."""

import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens import models
from robustlens.models.inference import put_back
from robustlens.reliability.state import ModelState


class Centred(nn.Module):
    """Subtracts one mean, expanded over the channels, from normalised images."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.5).expand(1, 3, 1, 1))
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x - self.mean).flatten(1))


def images() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


def test_expanded_buffers_stay_as_they_are_and_others_come_back():
    model, (x, y) = Centred(), images()
    mean, before = model.mean, {name: each.clone() for name, each in model.state_dict().items()}
    with models.frozen(model, "train"):
        model(x)
        assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])
    rl.attacks.PGD(rl.ThreatModel("Linf", 0.1), steps=2, model_mode="train")(model, x, y)
    assert model.mean is mean
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_a_network_made_in_inference_mode_gives_its_logits_and_stays_as_it_is():
    with torch.inference_mode():
        model = Centred()
    x, _ = images()
    with models.inference(model):
        logits = model(x)
    assert logits.shape == (6, 4)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("value", [0.5, torch.nan])
def test_what_cannot_be_written_has_to_be_as_it_was(value):
    shared = torch.tensor(value).expand(3)
    put_back(shared, shared.clone())
    with pytest.raises(RuntimeError, match="more than one element"):
        put_back(shared, torch.tensor([value, 1.0, value]))


def test_a_model_state_is_put_back_beside_expanded_buffers():
    model, (x, _) = Centred(), images()
    state = ModelState(model)
    model(x)
    assert state.changed() == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    state.restore()
    assert not state.changed()
