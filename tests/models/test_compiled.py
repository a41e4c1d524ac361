"""Networks that torch compiles: the same logits and gradients, for few sizes of a batch."""

import functools
import shutil

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.errors import ConfigError, StateError
from robustlens.models import compiled_copy

THREAT = rl.ThreatModel("Linf", 0.1)


@pytest.fixture
def seen(monkeypatch):
    """Rows of the batches that are compiled, in place of compiling."""
    rows = []

    class Recorded(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.inside = network

        def forward(self, x):
            rows.append(len(x))
            return self.inside(x)

    monkeypatch.setattr(torch, "compile", lambda network, dynamic, isolate_recompiles: Recorded(network))
    return rows


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return layers.eval().requires_grad_(False)


def _images(count):
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(
    ("count", "filled"),
    [(0, 4), (1, 4), (4, 4), (5, 16), (16, 16), (17, 64), (64, 64), (65, 128), (130, 192)],
)
def test_a_batch_is_filled_up_to_one_of_few_sizes(seen, network, count, filled):
    copy = compiled_copy(network, _images(4), 64)
    x = _images(count).requires_grad_()
    logits = copy(x)
    assert seen == [4, filled]
    torch.testing.assert_close(logits, network(x))
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    (expected,) = torch.autograd.grad(network(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_batches_of_one_image_have_one_size(seen, network):
    copy = compiled_copy(network, _images(1), 1)
    torch.testing.assert_close(copy(_images(1)), network(_images(1)))
    assert set(seen) == {1}


def test_what_torch_cannot_compile_is_refused_in_one_line(monkeypatch, network):
    def fails(network, dynamic, isolate_recompiles):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError) as caught:
        compiled_copy(network, _images(2), 8)
    assert str(caught.value) == (
        "evaluate.compile: found a network that torch cannot compile (RuntimeError: no compiler); leave it out"
    )


def test_each_network_is_compiled_however_many_were_before_it(monkeypatch):
    """By code torch counts what it compiles, and networks that are a Sequential share theirs."""
    graphs, real = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(real, backend=backend))
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        for number in (1, 2, 3):
            network = nn.Sequential(nn.Flatten(), nn.Linear(12, number)).eval().requires_grad_(False)
            compiled_copy(network, _images(4), 4)
            assert len(graphs) == number


def test_an_evaluation_gives_the_same_masks_and_compiles_few_sizes(seen, network):
    x, y = _images(90), network(_images(90)).argmax(1)
    settings = {"attacks": ["fgsm", "pgd-5", "apgd-ce", "fab"], "batch_size": 32, "flags": False}
    plain = rl.evaluate(network, x, y, THREAT, **settings)
    assert seen == []
    compiled = rl.evaluate(network, x, y, THREAT, **settings, compile=True)
    assert torch.equal(compiled.robust, plain.robust)
    assert 0 < int(plain.robust.sum()) < 90
    assert set(seen) <= {2, 8, 32}


def test_progress_of_a_compiled_search_is_its_own(seen, network, tmp_path):
    x, y = _images(6), torch.zeros(6, dtype=torch.int64)
    rl.evaluate(network, x, y, THREAT, attacks=["fgsm"], flags=False, compile=True, state=tmp_path)
    with pytest.raises(StateError, match="compiled"):
        rl.evaluate(network, x, y, THREAT, attacks=["fgsm"], flags=False, state=tmp_path)


def test_a_network_without_a_copy_is_not_compiled(seen):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model.register_forward_hook(lambda *_: None)
    rl.evaluate(model, _images(4), torch.zeros(4, dtype=torch.int64), THREAT, attacks=["fgsm"], compile=True)
    assert seen == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_torch_compiles_it_and_gives_several_gradients_of_a_pass(network):
    """FAB asks for a gradient a class, which torch's compiled passes refuse by default."""
    x, y = _images(20), network(_images(20)).argmax(1)
    settings = {"attacks": ["pgd-3", "fab"], "batch_size": 8, "flags": False, "curve": (1.0,)}
    plain = rl.evaluate(network, x, y, THREAT, **settings)
    compiled = rl.evaluate(network, x, y, THREAT, **settings, compile=True)
    assert torch.equal(compiled.robust, plain.robust)
    torch.testing.assert_close(compiled.distance, plain.distance, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_a_model_that_its_owner_compiled_can_be_attacked(network):
    x, y = _images(20), network(_images(20)).argmax(1)
    plain = rl.evaluate(network, x, y, THREAT, attacks=["pgd-3", "fab"], flags=False)
    owned = rl.evaluate(torch.compile(network), x, y, THREAT, attacks=["pgd-3", "fab"], flags=False)
    assert torch.equal(owned.robust, plain.robust)
