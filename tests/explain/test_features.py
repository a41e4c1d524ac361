"""Scatter of features between and within classes: by hand, against matrices, and where there are none."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens.data import Split
from robustlens.explain import Subject
from robustlens.explain.features import between_over_within, logits_and_features, scatter
from robustlens.explain.margins import logits_of, measure_margins


def test_scatter_by_hand() -> None:
    # Classes 0 and 2 with means (1, 0) and (5, 0); the mean of all is (3, 0).
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, -1.0]])
    found = scatter(points, torch.tensor([0, 0, 2, 2]))
    assert found["within"].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert found["total"].tolist() == [9.0, 1.0, 5.0, 5.0]
    assert between_over_within(**found) == 4.0
    assert between_over_within(np.zeros(3), np.ones(3)) is None


def test_means_are_the_traces_of_the_scatter_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 5, generator=generator)
    y = torch.arange(60) % 3
    y[:10] = 0  # classes of unequal size
    values = points.double().numpy()
    within, between = np.zeros((5, 5)), np.zeros((5, 5))
    for label in range(3):
        own = values[y.numpy() == label]
        share = len(own) / 60
        within += share * np.cov(own.T, bias=True)
        step = own.mean(0) - values.mean(0)
        between += share * np.outer(step, step)
    found = scatter(points, y)
    assert found["within"].mean() == pytest.approx(np.trace(within))
    assert found["total"].mean() == pytest.approx(np.trace(within + between))
    assert between_over_within(**found) == pytest.approx(np.trace(between) / np.trace(within))
    assert between_over_within(**scatter(7 * points - 3, y)) == pytest.approx(between_over_within(**found))


def test_features_are_those_of_the_pass_that_gives_the_logits() -> None:
    model, (x, _) = everything(), images(7)
    before = Snapshot(model)
    logits, features, why = logits_and_features(model, x, 3)
    before.assert_unchanged()
    assert why == ""
    assert features is not None
    torch.testing.assert_close(logits, logits_of(model, x, 3))
    torch.testing.assert_close(torch.nn.functional.linear(features, model.fc.weight, model.fc.bias), logits)


class Tokens(nn.Module):
    """Logits of every row of an image, averaged afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0]).mean(1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 4), nn.Flatten()), "expected a Linear layer"),
        (Tokens(), "does not read one vector for each image"),
    ],
)
def test_margins_of_a_network_without_a_vector_of_features_are_measured_all_the_same(
    model: nn.Module, why: str
) -> None:
    pixels = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8)
    split = Split(pixels, torch.arange(12) % 5, torch.arange(12))
    found = measure_margins(Subject(model, split, split, rl.ThreatModel("Linf", 0.1)))
    assert why in found.value["scatter_missing"]
    assert "between_over_within" not in found.value["test"]
    assert "test_scatter_within" not in found.arrays
    np.testing.assert_allclose(
        found.arrays["test_logit"], rl.explain.margins(model, pixels / 255, split.labels)["logit"]
    )


def test_the_measure_margins_has_the_scatter_of_both_splits() -> None:
    parts = [
        Split(torch.randint(0, 256, (15, 3, 4, 4), dtype=torch.uint8), torch.arange(15) % 5, torch.arange(15))
        for _ in range(2)
    ]
    found = measure_margins(
        Subject(everything(), parts[0], parts[1], rl.ThreatModel("Linf", 0.1), batch_size=4)
    )
    for name, part in zip(("train", "test"), parts, strict=True):
        _, features, _ = logits_and_features(everything(), part.x(slice(None)))
        assert features is not None
        expected = scatter(features, part.labels)
        for kind in ("within", "total"):
            np.testing.assert_allclose(found.arrays[f"{name}_scatter_{kind}"], expected[kind], rtol=1e-4)
        assert found.value[name]["between_over_within"] == pytest.approx(
            between_over_within(**expected), rel=1e-4
        )
