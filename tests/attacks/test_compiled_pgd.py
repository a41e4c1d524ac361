"""PGD of which torch compiles a step, called as any attack is; training has its own tests."""

from functools import partial

import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.attacks import PGD, CompiledPGD
from robustlens.errors import ConfigError, DataError, ModelError

THREAT = rl.ThreatModel("Linf", 0.1)
LAST = partial(PGD, THREAT, steps=2, keep="last")
X, Y = torch.linspace(0, 1, 96).view(6, 1, 4, 4), torch.arange(6) % 2


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.slow
def test_a_call_gives_the_images_of_pgd(network, monkeypatch):
    """By `aot_eager`, which records backward passes as the default backend does and takes no compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    assert torch.equal(CompiledPGD(LAST())(network, X, Y), LAST()(network, X, Y))
    assert network.training


def test_a_call_checks_its_network_before_anything_is_compiled(network, monkeypatch):
    """A hook would be compiled with the network, and what it looks at be no logits."""

    def without_hooks(step, **options):
        def run(model, *rest):
            assert not model._forward_hooks
            return step(model, *rest)

        return run

    monkeypatch.setattr(torch, "compile", without_hooks)
    attack = CompiledPGD(LAST())
    assert torch.equal(attack(network, X, Y), LAST()(network, X, Y))
    for wrong, images, labels, said in [
        (network, X, Y + 1, "returned 2 logits an image, expected at least 3"),
        (nn.Identity(), X, Y, "model: "),
        (network, X[:, :, 1:], Y, "model: "),
    ]:
        with pytest.raises(ModelError, match=said):
            attack(wrong, images, labels)
    with pytest.raises(DataError, match="attack: "):
        attack(network, 2 * X, Y)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "best"}, "attack.keep: found 'best', expected 'last'"),
        ({"model_mode": "train"}, "attack.model_mode: found 'train', expected 'eval'"),
        ({"targets": "least-likely"}, "attack.targets: found 'least-likely', expected none"),
    ],
)
def test_what_a_compiled_step_does_not_do_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        CompiledPGD(LAST(**options))
