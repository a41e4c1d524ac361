"""A newcomer's test: a new objective and a new measure cost one function and one registration line each.

(The third thing, one row in tests/test_contracts.py, is demanded by the tests there.)
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from test_train import blobs, recipe

import robustlens as rl
from robustlens import losses
from robustlens.config import ExplanationPlan
from robustlens.data import from_tensors
from robustlens.errors import ConfigError
from robustlens.explain import MEASURES, Measurement, explain
from robustlens.objectives import OBJECTIVES, inner_pgd


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


def test_a_new_objective_trains_with_weight_perturbation_and_options(tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "half", Half)
    splits = from_tensors(*blobs(), *blobs(60, seed=1))
    toy = recipe(
        objective="half", objective_options={"share": 0.3}, awp={"gamma": 0.01}, optimizer={"epochs": 1}
    )
    run = rl.train(toy, tmp_path / "run", splits=splits)
    assert run.status["status"] == "trained"
    with pytest.raises(ConfigError, match="expected one of share"):
        rl.objectives.get("half", sahre=0.1)


def test_a_new_measure_is_part_of_an_explanation(monkeypatch):
    monkeypatch.setitem(MEASURES, "dead-units", measure_dead_units)
    splits = from_tensors(*blobs(), *blobs(60, seed=1))
    model = rl.models.get("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8).eval()
    plan = ExplanationPlan(measures=("dead-units",), examples=50, options={"dead-units": {"examples": 10}})
    (measurement,) = explain(model, splits, plan).values()
    assert 0 <= measurement.value["dead"] <= 1
    assert measurement.arrays["dead"].dtype == np.bool_
