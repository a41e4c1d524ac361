"""Margins and close calls by hand, and the measure at matched temperature."""

import numpy as np
import pytest
import torch
from torch import nn

import robustlens as rl
from robustlens.data import Split
from robustlens.explain import Subject
from robustlens.explain.margins import margins_of, measure_margins, summarize
from robustlens.explain.temperature import best_temperature


def test_margins_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    found = margins_of(logits, torch.tensor([0, 2]))
    p = logits.softmax(1).numpy()
    np.testing.assert_allclose(found["logit"], [1.0, -2.0])
    np.testing.assert_allclose(found["probability"], [p[0, 0] - p[0, 1], p[1, 2] - p[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(found["confidence"], [p[0, 0], p[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(found["loss"], [-np.log(p[0, 0]), -np.log(p[1, 2])], rtol=1e-6)
    assert found["correct"].tolist() == [True, False]


def test_indecisive_errors_by_hand():
    # Probability margins: right by .5; wrong by .05, by .15, by .8.
    found = {
        "logit": np.array([1.0, -0.1, -0.3, -2.0]),
        "probability": np.array([0.5, -0.05, -0.15, -0.8]),
        "confidence": np.array([0.7, 0.5, 0.5, 0.9]),
        "correct": np.array([True, False, False, False]),
        "loss": np.array([0.5, 1.0, 1.5, 3.0]),
    }
    value = summarize(found)
    assert value["indecisive_errors"] == {"0.1": 0.25, "0.2": 0.5, "0.3": 0.5}
    assert value["indecisive_share"] == pytest.approx({"0.1": 1 / 3, "0.2": 2 / 3, "0.3": 2 / 3})
    assert value["within"] == {"0.1": 0.25, "0.2": 0.5, "0.3": 0.5}
    # 2 artanh of 0.1, 0.2, 0.3 is 0.201, 0.405, 0.619.
    assert value["within_logit"] == {"0.1": 0.25, "0.2": 0.5, "0.3": 0.5}
    assert value["error"] == 0.75
    assert value["confidence"] == pytest.approx(0.65)
    assert value["loss"] == pytest.approx(1.5)
    assert value["ramp_risk"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert value["std_logit"] == pytest.approx(np.std([1.0, -0.1, -0.3, -2.0]))
    # Quartiles of -2, -0.3, -0.1, 1: a quarter of the way from -2 back to -0.3 is left out, and so on.
    assert value["iqr_logit"] == pytest.approx((-0.1 + 0.25 * 1.1) - (-0.3 - 0.25 * 1.7))


class Scaled(nn.Module):
    """A linear network whose logits have a factor."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(9, 3)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.body(x.flatten(1) - 0.5)


def subject(model: nn.Module) -> Subject:
    generator = torch.Generator().manual_seed(3)
    parts = []
    for _ in ("train", "test"):
        images = torch.randint(0, 256, (120, 1, 3, 3), generator=generator, dtype=torch.uint8)
        labels = model(images / 255).argmax(1)
        wrong = torch.rand(120, generator=generator) < 0.3
        labels[wrong] = torch.randint(0, 3, (int(wrong.sum()),), generator=generator)
        parts.append(Split(images, labels, torch.arange(120)))
    return Subject(model, parts[0], parts[1], rl.ThreatModel("Linf", 0.05))


def test_of_a_measure_only_numbers_at_matched_temperature_ignore_the_scale():
    one, other = (measure_margins(subject(Scaled(scale))) for scale in (1.0, 8.0))
    assert other.value["matched"]["temperature"] == pytest.approx(
        8 * one.value["matched"]["temperature"], rel=1e-5
    )
    for split in ("train", "test"):
        for kind in ("probability", "confidence", "loss", "logit"):
            key = f"{split}_matched_{kind}"
            np.testing.assert_allclose(one.arrays[key], other.arrays[key], atol=2e-6)
            assert np.abs(one.arrays[f"{split}_{kind}"] - other.arrays[f"{split}_{kind}"]).max() > 0.1
        np.testing.assert_array_equal(one.arrays[f"{split}_correct"], other.arrays[f"{split}_correct"])
        summary = one.value["matched"][split]
        assert summary["confidence"] == pytest.approx(one.arrays[f"{split}_matched_confidence"].mean())
        assert summary["loss"] == pytest.approx(one.arrays[f"{split}_matched_loss"].mean())
    x, y = subject(Scaled(1.0)).images("test")
    assert one.value["matched"]["temperature"] == best_temperature(Scaled(1.0)(x).detach(), y)
    assert one.arrays["temperature"].tolist() == [one.value["matched"]["temperature"]]
