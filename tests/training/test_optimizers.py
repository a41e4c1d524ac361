"""Optimizers of a recipe: their steps against torch's own, their options, their errors."""

import copy

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.training_runs import recipe
from robustlens.config import OptimizerSpec, Recipe, checked
from robustlens.errors import ConfigError
from robustlens.training import optimizers
from robustlens.training.checks import check_optimizer
from robustlens.training.optimizer_state import packed, restore


def three_steps(optimizer, weight):
    """The weight after three steps down the cross entropy of fixed numbers."""
    for step in range(3):
        optimizer.zero_grad()
        (weight * torch.arange(1.0, 4.0) ** step).square().sum().backward()
        optimizer.step()
    return weight.detach().clone()


@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        ({"lr": 0.1}, lambda w: torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=5e-4)),
        (
            {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "options": {"betas": [0.8, 0.95]}},
            lambda w: torch.optim.AdamW([w], lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
        ),
        (
            {"name": "adam", "lr": 0.01, "options": {"amsgrad": True, "eps": 1e-6}},
            lambda w: torch.optim.Adam([w], lr=0.01, weight_decay=5e-4, amsgrad=True, eps=1e-6),
        ),
        (
            {"name": "torch.optim:RMSprop", "lr": 0.01, "options": {"alpha": 0.9}},
            lambda w: torch.optim.RMSprop([w], lr=0.01, weight_decay=5e-4, alpha=0.9),
        ),
    ],
)
def test_steps_are_those_of_torch(fields, theirs):
    ours, other = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    built = optimizers.build(checked(OptimizerSpec, fields, "optimizer"), [ours])
    assert torch.equal(three_steps(built, ours), three_steps(theirs(other), other))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "adamv", "lr": 0.1}, "optimizer.name: found 'adamv'.*did you mean 'adam"),
        ({"name": "adamw"}, "optimizer.lr: found none for adamw"),
        ({"name": "adamw", "lr": 0.1, "momentum": 0.8}, "momentum: found beside adamw"),
        ({"name": "adamw", "lr": 0.1, "options": {"beta": 1}}, "options.beta: unknown option.*'betas'"),
        ({"name": "adamw", "lr": 0.1, "options": {"betas": [0.9, 1.0]}}, "options.betas: found"),
        ({"name": "adamw", "lr": 0.1, "options": {"amsgrad": "perhaps"}}, "options.amsgrad: found 'perhaps'"),
        ({"options": {"momentum": 0.9}}, "sgd has momentum and nesterov beside lr"),
        ({"name": "torch.optim:LBFGS", "options": {}}, "optimizer 'torch.optim:LBFGS': failed"),
        ({"name": "torch.nn:Linear"}, "failed|expected a Optimizer"),
        ({"name": "no_such:thing"}, "cannot import 'no_such'"),
        ({"schedule": "StepLr"}, "schedule: found 'StepLr'.*did you mean 'StepLR'"),
        ({"schedule": "StepLR"}, "schedule_options.step_size: found none"),
        ({"schedule": "StepLR", "schedule_options": {"step_size": 2, "gama": 1}}, "did you mean 'gamma'"),
        ({"schedule": "StepLR", "schedule_options": {"step_size": "two"}}, "step_size: found 'two'"),
        ({"schedule": "cosine", "schedule_options": {"T_max": 2}}, "found T_max beside cosine"),
        ({"schedule": "LinearLR", "schedule_options": {"start_factor": 7.0}}, "'LinearLR': failed"),
    ],
)
def test_wrong_optimizers_and_schedules_are_one_line(fields, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_optimizer(checked(OptimizerSpec, fields, "optimizer"))
    assert "\n" not in str(caught.value)


def test_fields_at_their_default_do_not_enter_the_hash():
    """The literal is the hash of the version before optimizers had names."""
    plain = recipe()
    spelled = recipe(optimizer={"name": "sgd", "options": {}, "schedule_options": {}}, listeners=["a:b"])
    assert plain.hash() == spelled.hash() == "a52183338b18"
    assert recipe(optimizer={"name": "adamw"}).hash() != plain.hash()
    again = checked(Recipe, spelled.model_dump(mode="json"), "recipe")
    assert (again.listeners, again.hash()) == ((), plain.hash())


def test_a_state_keeps_types_that_torch_would_cast_and_refuses_what_it_cannot_keep():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight] = {"codes": torch.tensor([1.5, 2.0], dtype=torch.float64), "k": 3}
    tensors, values = packed(optimizer)
    other = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.2)
    restore(other, tensors, values)
    (kept,) = other.state.values()
    assert kept["codes"].dtype == torch.float64
    assert (kept["codes"].tolist(), kept["k"], other.param_groups[0]["lr"]) == ([1.5, 2.0], 3, 0.1)
    optimizer.state[weight]["history"] = [1, 2]
    with pytest.raises(ConfigError, match=r"keeps a list \(history\)"):
        packed(optimizer)


@pytest.mark.parametrize(
    "build",
    [
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True),
        lambda weights: torch.optim.Adam(weights, lr=0.1, amsgrad=True, fused=True),
        lambda weights: torch.optim.AdamW(weights, lr=0.1),
    ],
    ids=["fused sgd", "fused adam", "adamw"],
)
def test_a_state_comes_back_in_the_layout_of_its_weights(build):
    """Fused optimizers, as on CUDA, mix elements up or refuse where it is another one; files have just one."""
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer, generator = build(layer.parameters()), torch.Generator().manual_seed(0)

    def step(layer, optimizer, seed):
        for weight in layer.parameters():
            numbers = torch.rand(weight.shape, generator=generator.manual_seed(seed))
            weight.grad = torch.empty_like(weight).copy_(numbers)  # as autograd makes it
        optimizer.step()

    def as_in_a_file(tensors):
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}

    step(layer, optimizer, 1)
    other = copy.deepcopy(layer)
    tensors, values = packed(optimizer)
    restored = build(other.parameters())
    restore(restored, as_in_a_file(tensors), values)
    for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        kept = {name: value for name, value in restored.state[theirs].items() if value.ndim}
        assert kept
        for name, value in kept.items():
            assert value.stride() == optimizer.state[mine][name].stride() == theirs.stride()
    for each, its in ((layer, optimizer), (other, restored)):
        step(each, its, 2)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


HEARD: list = []


class Hearing:
    def __call__(self, event):
        HEARD.append(event)


def test_a_recipe_names_listeners_by_where_they_lie(tmp_path, splits):
    HEARD.clear()
    asked = recipe(objective="standard", optimizer={"epochs": 2}, listeners=[f"{__name__}:Hearing"])
    run = rl.train(asked, tmp_path / "a", splits=splits)
    assert [event.step for event in HEARD if event.metrics] == [1, 2]
    assert run.recipe.listeners == ()
    for name, said in (
        ("robustlens:__version__", "found str, expected a function"),
        ("no_such:x", "cannot import"),
    ):
        with pytest.raises(ConfigError, match=said):
            rl.train(recipe(listeners=[name]), tmp_path / "b", splits=splits)
    assert not (tmp_path / "b").exists()


def test_plateau_needs_validation_images(tmp_path):
    from helpers.small_models import blobs

    without = rl.data.from_tensors(*blobs(), *blobs(60, seed=1), validation=0)
    asked = recipe(optimizer={"schedule": "ReduceLROnPlateau"})
    with pytest.raises(ConfigError, match="ReduceLROnPlateau without validation images"):
        rl.train(asked, tmp_path / "a", splits=without)
