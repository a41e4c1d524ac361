"""A newcomer's test: objective, measure, attack, perturbation cost a function or a class and one line each.

No line where a recipe names them as "package.module:factory". (The third thing, one row in tests/test_contracts.py, is demanded by the tests there.)
"""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import robustlens as rl
from helpers.small_models import blobs
from helpers.training_runs import assert_same_bits, recipe, weights_of
from robustlens import losses
from robustlens.attacks import ATTACKS, Entry
from robustlens.config import ExplanationPlan
from robustlens.data import from_tensors
from robustlens.errors import ConfigError
from robustlens.explain import MEASURES, Measurement, explain
from robustlens.objectives import OBJECTIVES, inner_pgd
from robustlens.threat import ThreatModel
from robustlens.weights import WeightPerturbation


@dataclass(frozen=True)
class Half:
    """The toy objective: half clean, half adversarial cross entropy (Goodfellow et al. 2015)."""

    share: float = 0.5
    inner_attack = staticmethod(inner_pgd("ce"))

    def __call__(self, model, x, x_adv, y):
        clean, adversarial = losses.cross_entropy(model(x), y), losses.cross_entropy(model(x_adv), y)
        return (1 - self.share) * clean + self.share * adversarial


def measure_dead_units(subject, *, examples: int | None = None):
    """The toy measure: share of hidden units that no test image switches on."""
    x, _ = subject.images("test", examples)
    with torch.no_grad():
        hidden = subject.model[:-1](x)
    dead = (hidden <= 0).all(0)
    return Measurement(
        {"dead": float(dead.float().mean())},
        "share",
        "Units that never fire.",
        "ours",
        {"examples": len(x)},
        arrays={"dead": dead.numpy()},
    )


@dataclass(frozen=True)
class Corner:
    """The toy attack: the corner of the ball at which every pixel is brightest."""

    threat: ThreatModel
    share: float = 1.0

    def __call__(self, model, x, y, *, generator=None):
        return self.threat.project(x + self.share * self.threat.eps, x)


class Shrink(WeightPerturbation):
    """The toy perturbation: all weights a little shorter."""

    name = "shrink"

    def __init__(self, model, by: float = 0.01) -> None:
        self.by = by
        super().__init__(model)

    def offsets(self, losses, craft, generator):
        return [-self.by * weight.detach() for weight in self.weights()]


@pytest.fixture
def toy_module(monkeypatch):
    """This module under a name that a recipe can give."""
    monkeypatch.setitem(sys.modules, "newcomer", sys.modules[__name__])
    return "newcomer"


def splits():
    return from_tensors(*blobs(), *blobs(60, seed=1))


def test_a_new_objective_trains_with_weight_perturbation_and_options(tmp_path, monkeypatch, toy_module):
    monkeypatch.setitem(OBJECTIVES, "half", Half)
    toy = {"objective_options": {"share": 0.3}, "awp": {"gamma": 0.01}, "optimizer": {"epochs": 1}}
    run = rl.train(recipe(objective="half", **toy), tmp_path / "run", splits=splits())
    assert run.record.status == "trained"
    for name in ("half", "newcomer:Half"):
        assert rl.objectives.get(name, share=0.3) == Half(0.3)
        with pytest.raises(ConfigError, match="expected one of share"):
            rl.objectives.get(name, sahre=0.1)
        with pytest.raises(ConfigError, match="share: found 'much'; input should be a valid number"):
            rl.objectives.get(name, share="much")
    named = rl.train(recipe(objective="newcomer:Half", **toy), tmp_path / "named", splits=splits())
    assert_same_bits(weights_of(run), weights_of(named))


def test_a_new_attack_is_part_of_an_evaluation(monkeypatch, toy_module):
    monkeypatch.setitem(ATTACKS, "corner", Corner)
    monkeypatch.setitem(ATTACKS, "half-corner", Entry(Corner, share=0.5))
    model = rl.models.get("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8).eval()
    data, threat = splits().test, ThreatModel("Linf", 0.1)
    names = ("corner", "half-corner", "newcomer:Corner")
    assert rl.attacks.names(names) == names
    evaluation = rl.evaluate(model, data.x(), data.labels, threat, attacks=names)
    expected = rl.evaluate(
        model, data.x(), data.labels, threat, attacks=[Corner(threat), Corner(threat, 0.5)]
    )
    assert tuple(evaluation.by_attack) == names
    assert torch.equal(evaluation.robust, expected.robust)


def test_a_new_perturbation_trains_by_the_name_of_its_class(tmp_path, toy_module):
    def trained(folder, **perturbation):
        toy = recipe(weight_perturbation={"factory": "newcomer:Shrink", **perturbation})
        return rl.train(toy, tmp_path / folder, splits=splits())

    none = rl.train(recipe(), tmp_path / "none", splits=splits())
    assert_same_bits(weights_of(trained("still", options={"by": 0.0})), weights_of(none))
    moved = weights_of(trained("moved", options={"by": 0.1}))
    assert not torch.equal(moved["linear2.weight"], weights_of(none)["linear2.weight"])
    late = trained("late", options={"by": 0.1}, warmup_epochs=3)
    assert_same_bits(weights_of(late), weights_of(none))
    with pytest.raises(ConfigError, match=r"weight_perturbation\.options\.bye: unknown option"):
        trained("refused", options={"bye": 0.1})


def test_a_new_measure_is_part_of_an_explanation(monkeypatch):
    monkeypatch.setitem(MEASURES, "dead-units", measure_dead_units)
    model = rl.models.get("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8).eval()
    plan = ExplanationPlan(measures=("dead-units",), examples=50, options={"dead-units": {"examples": 10}})
    (measurement,) = explain(model, splits(), plan).values()
    assert 0 <= measurement.value["dead"] <= 1
    assert measurement.arrays["dead"].dtype == np.bool_


WRONG_TYPES = {
    'rl.ThreatModel("Linf", "8/255")': "threat.eps: found '8/255', expected a number, as 8/255 without quotes",
    'rl.ThreatModel("Linf", None)': "threat.eps: found None, expected a number",
    'rl.evaluate(model, x, y, "Linf")': "evaluate: found 'Linf' as the threat, expected a ThreatModel",
    "rl.certify(model, x, y, 0.1)": "certify: found 0.1 as the threat, expected a ThreatModel",
    'rl.reliability.planted(model, x, "Linf")': "planted: found 'Linf' as the threat, expected a ThreatModel",
    'rl.attacks.get("standard", "Linf")': "attacks: found 'Linf' as the threat, expected a ThreatModel",
    "awp.perturbed(loss()).__enter__()": "awp: found Tensor, expected a function that computes the loss",
    "awp.perturbed([loss()]).__enter__()": "awp: found Tensor, expected a function that computes the loss",
    "awp.perturbed(None).__enter__()": "awp: found NoneType, expected a function that computes the loss",
}
WRONG_TYPES |= {
    f"rl.attacks.{name}('Linf')": "attack: found 'Linf' as the threat, expected a ThreatModel"
    for name in ("FGSM", "PGD", "APGD", "FAB", "Square", "MinimumNorm", "AdaptiveMinimumNorm")
}


def test_arguments_of_a_wrong_type_are_refused_in_one_line_each():
    """In a process of its own: the tests check all types themselves, before the package can."""
    program = f"""
import robustlens as rl, torch
from torch import nn
model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
awp, loss = rl.AdversarialWeightPerturbation(model), lambda: model(x).mean()
for call in {list(WRONG_TYPES)}:
    try:
        print(eval(call))
    except rl.errors.ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for line, expected in zip(done.stdout.splitlines(), WRONG_TYPES.values(), strict=True):
        assert line.startswith(expected), line
