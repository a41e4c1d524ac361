"""Networks before the first step: their normalisation, and weights that come from elsewhere."""

import sys
import types

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.small_models import blobs
from helpers.training_runs import recipe, weights_of
from robustlens.data import from_tensors
from robustlens.errors import ConfigError, ModelError
from robustlens.training.network import describe_model, starting_network


def test_normalisation_is_that_of_the_training_images(splits):
    description = describe_model(recipe(), splits)
    x = splits.train.x().double()
    assert description["mean"] == pytest.approx([x.mean().item()], abs=1e-5)
    assert description["std"] == pytest.approx([x.std(unbiased=False).item()], abs=1e-5)


@pytest.mark.parametrize("option", ["num_classes", "in_channels", "mean"])
def test_what_follows_from_the_data_is_no_option(splits, option):
    with pytest.raises(ModelError, match=f"found '{option}' among the options, .* follows from the data"):
        describe_model(recipe(model={"name": "small-cnn", "options": {option: 3}}), splits)


def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def normalised(num_classes):
    """As the documentation prepares a network for attacks on images in [0, 1]."""
    return nn.Sequential(rl.models.Normalize([0.25], [0.5]), plain(num_classes))


@pytest.mark.parametrize("factory", [plain, normalised])
def test_a_network_is_normalised_once(factory, splits):
    """One with a normalisation of its own behind that of the data would see other images than it expects."""
    described = recipe(model={"name": f"{__name__}:{factory.__name__}", "options": {}})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    network = starting_network(described, describe_model(described, splits))
    assert torch.equal(torch.get_rng_state(), before)
    (normalisation,) = (module for module in network.modules() if isinstance(module, rl.models.Normalize))
    assert (float(normalisation.mean) == 0.25) == (factory is normalised)


def test_images_too_small_for_the_network_are_refused_before_any_file_is_written(tmp_path):
    x, y = torch.rand(12, 1, 3, 3), torch.arange(12) % 3
    with pytest.raises(ModelError, match=r"fails on images of shape \(2, 1, 3, 3\)"):
        rl.train(recipe(), tmp_path / "run", splits=from_tensors(x, y, x, y))
    assert not (tmp_path / "run").exists()


def test_a_network_in_place_of_a_function_that_builds_it_is_not_trained(tmp_path, splits, monkeypatch):
    (tmp_path / "network_at_hand.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="'network_at_hand:net': found a network, expected a function"):
        rl.train(recipe(model={"name": "network_at_hand:net"}), tmp_path / "run", splits=splits)
    assert not (tmp_path / "run").exists()


def test_a_network_starts_from_another_with_a_head_of_its_own(tmp_path, splits):
    before = rl.train(recipe(objective="standard"), tmp_path / "before", splits=splits)
    x, y = blobs(classes=2)
    fewer = from_tensors(x, y, x, y)
    slow = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    init = {"model": str(before.folder), "new_head": True}
    after = weights_of(rl.train(recipe(init=init, optimizer=slow), tmp_path / "after", splits=fewer))
    theirs = weights_of(before, "best")
    assert torch.allclose(after["conv1.weight"], theirs["conv1.weight"], atol=1e-6)
    assert after["linear2.weight"].shape == (2, 8)
    with pytest.raises(
        ModelError, match=r"linear2.bias is \(3,\) .* expected \(2,\); with other classes give"
    ):
        rl.train(recipe(init={"model": str(before.folder)}), tmp_path / "refused", splits=fewer)
    assert not (tmp_path / "refused").exists()


def test_a_network_of_ones_own_starts_from_another_of_its_kind(tmp_path, splits, monkeypatch):
    """Who trusts the recipe's code trusts the run that the recipe names; a recipe without code trusts none."""
    module = types.ModuleType("own_nets")
    module.make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(splits.train.images[0].numel(), 3))
    monkeypatch.setitem(sys.modules, "own_nets", module)
    own = {"name": "own_nets:make", "options": {}}
    slow = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    before = rl.train(recipe(model=own, objective="standard"), tmp_path / "before", splits=splits)
    init = {"model": str(before.folder)}
    after = rl.train(recipe(model=own, init=init, optimizer=slow), tmp_path / "after", splits=splits)
    theirs = weights_of(before, "best")
    assert all(torch.allclose(weight, theirs[name], atol=1e-6) for name, weight in weights_of(after).items())
    with pytest.raises(
        ModelError, match=r"own_nets:make.* trust_code=True \(--trust-code\) if you trust both"
    ):
        rl.train(recipe(init=init), tmp_path / "refused", splits=splits)


def test_a_network_starts_from_a_kept_epoch(tmp_path, splits):
    before = rl.train(recipe(objective="standard", keep_every=2), tmp_path / "before", splits=splits)
    slow = {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    init = {"model": str(before.folder), "checkpoint": "epoch-2"}
    after = weights_of(rl.train(recipe(init=init, optimizer=slow), tmp_path / "after", splits=splits))
    kept = weights_of(before, "epoch-0002")
    assert torch.allclose(after["conv1.weight"], kept["conv1.weight"], atol=1e-6)
    assert not torch.allclose(after["conv1.weight"], weights_of(before, "last")["conv1.weight"], atol=1e-6)
    for several in ("both", "every"):
        with pytest.raises(ConfigError, match=f"found '{several}', expected best, last or epoch-NNNN"):
            recipe(init={**init, "checkpoint": several})
