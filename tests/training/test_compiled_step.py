"""Training with a compiled network and attack takes the steps of the plain ones, whatever the objective.

By `aot_eager`, which records backward passes as the default backend does and takes no compiler.
"""

import pytest
import torch
from torch._dynamo import lookup_backend

import robustlens as rl
from helpers.training_runs import distance, recipe, weights_of
from robustlens.data import from_tensors
from robustlens.objectives import OBJECTIVES, takes_second_derivatives

SMOOTH = ["llr", "cure", "gradient-penalty"]


@pytest.fixture
def compiled(monkeypatch):
    """Networks and functions that were given to torch.compile; those of which it has made a graph."""
    given, graphs, real = [], [], torch.compile

    def watched(what, **options):
        given.append(what)

        def backend(graph, inputs):
            graphs.append(what)
            return lookup_backend("aot_eager")(graph, inputs)

        return real(what, **{**options, "mode": None, "backend": backend})

    monkeypatch.setattr(torch, "compile", watched)
    torch.compiler.reset()
    return given, graphs


def assert_trains_alike(folder, **changes):
    """One step on 32 images, without and with `compile`."""
    x, y = (torch.rand(32, 1, 8, 8) * 255).to(torch.uint8), torch.arange(32) % 3
    images = from_tensors(x, y, x, y, validation=0.0)
    one_step = {"monitor": {"examples": 8, "steps": 1}, "optimizer": {"epochs": 1}, **changes}
    plain, fast = (
        rl.train(recipe(**one_step, compile=flag), folder / str(flag), splits=images)
        for flag in (False, True)
    )
    assert distance(weights_of(plain), weights_of(fast)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("objective", [*OBJECTIVES, "robustlens.objectives:GradientPenalty"])
def test_every_objective_takes_its_step_compiled(objective, compiled, tmp_path):
    assert_trains_alike(tmp_path, objective=objective)
    networks = [what for what in compiled[0] if isinstance(what, torch.nn.Module)]
    assert bool(networks) is not takes_second_derivatives(rl.objectives.get(objective))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("replays", [1, 2])
def test_an_attack_in_either_mode_takes_its_steps_compiled(mode, replays, compiled, tmp_path):
    """Of a network with BatchNorm, which counts its batches in train mode."""
    assert_trains_alike(tmp_path, attack={"model_mode": mode, "replays": replays})
    steps = [what for what in compiled[0] if not isinstance(what, torch.nn.Module)]
    assert len(steps) == (mode == "eval" and replays == 1)


@pytest.mark.slow
def test_a_second_training_of_a_process_is_compiled_as_the_first_one(compiled, tmp_path):
    """By code torch counts what it compiles, which networks and attacks share; here it may compile one each."""
    _, graphs = compiled
    numbers = []
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (3, 5):
            assert_trains_alike(tmp_path / str(width), model={"options": {"width": width}})
            numbers.append(len(graphs))
    assert numbers == [2, 4]


def test_objectives_say_that_they_differentiate_twice():
    assert [name for name in OBJECTIVES if takes_second_derivatives(rl.objectives.get(name))] == SMOOTH
