"""Temperatures against closed forms, and the twins of measures at matched temperature."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl
from robustlens.data import Split
from robustlens.explain import Subject
from robustlens.explain.margins import margins_of, measure_margins
from robustlens.explain.smoothness import changes_of
from robustlens.explain.temperature import best_temperature


def test_the_best_temperature_is_found_where_it_is_known():
    # One logit gap g for all, a share q right: the best T makes sigmoid(g / T) = q.
    logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1)
    y = (torch.arange(100) >= 75).long()
    assert best_temperature(logits, y) == pytest.approx(2.0 / np.log(3), rel=1e-10)


def random_logits(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (n,), generator=generator)
    return 3 * torch.randn(n, 4, generator=generator).double() + 2 * F.one_hot(y, 4), y


def test_no_other_temperature_has_a_lower_loss():
    logits, y = random_logits()
    best = best_temperature(logits, y)
    loss = [float(F.cross_entropy(logits / (best * factor), y)) for factor in (0.99, 1.0, 1.01)]
    assert loss[1] < min(loss[0], loss[2])


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_a_factor_on_all_logits_goes_into_the_temperature_and_nowhere_else(scale):
    logits, y = random_logits()
    plain, scaled = best_temperature(logits, y), best_temperature(scale * logits, y)
    assert scaled == pytest.approx(scale * plain, rel=1e-9)
    one, other = margins_of(logits / plain, y), margins_of(scale * logits / scaled, y)
    for kind in one:
        np.testing.assert_allclose(one[kind], other[kind], atol=1e-6)


def test_the_matched_changes_do_not_depend_on_the_scale_of_the_logits():
    logits, y = random_logits()
    attacked = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    one, other = changes_of(logits, attacked, y), changes_of(4 * logits, 4 * attacked, y)
    for kind in ("matched_probability_change", "matched_confidence_change"):
        np.testing.assert_allclose(one[kind], other[kind], atol=1e-6)
    assert np.abs(one["probability_change"] - other["probability_change"]).max() > 0.05
    temperature = best_temperature(logits, y)
    expected = (logits / temperature).softmax(1).amax(1) - (attacked / temperature).softmax(1).amax(1)
    np.testing.assert_allclose(one["matched_confidence_change"], expected.numpy(), atol=1e-9)


def test_the_ends_of_the_range_where_there_is_no_best():
    right = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert best_temperature(right, torch.tensor([0, 1])) == pytest.approx(np.exp(-5))
    assert best_temperature(right, torch.tensor([1, 0])) == pytest.approx(np.exp(5))


def test_images_without_a_prediction_are_left_out_and_excluded_classes_are_not():
    logits, y = random_logits()
    best = best_temperature(logits, y)
    broken = torch.cat([logits, torch.tensor([[torch.nan, 0, 0, 0], [torch.inf, 0, 0, 0]]).double()])
    assert best_temperature(broken, torch.cat([y, y[:2]])) == best
    excluded = torch.cat([logits, torch.full((len(y), 1), -torch.inf).double()], dim=1)
    assert best_temperature(excluded, y) == pytest.approx(best, rel=1e-9)
    assert best_temperature(torch.full((3, 4), torch.nan), y[:3]) == 1.0


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
    return Subject(model, *parts, rl.ThreatModel("Linf", 0.05))


def test_of_a_measure_only_the_twins_at_matched_temperature_ignore_the_scale():
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
