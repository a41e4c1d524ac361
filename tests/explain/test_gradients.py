"""Input gradients: sparsity by hand, nearness to the object in closed form, networks with known gradients."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import Snapshot, everything, images
from robustlens.data import Split
from robustlens.errors import ModelError, NumericsError
from robustlens.explain import Subject
from robustlens.explain.gradients import (
    contrast_alignment,
    foreground_excess,
    gini_index,
    hoyer_sparsity,
    measure_gradients,
)


def test_sparsity_by_hand() -> None:
    rows = torch.tensor([[1.0, -2.0, 3.0, 4.0], [-2.0, 2.0, 2.0, 2.0], [0.0, 7.0, 0.0, 0.0], [0.0] * 4])
    # Of 1 2 3 4: 1 - 2 (1 * 3.5 + 2 * 2.5 + 3 * 1.5 + 4 * 0.5) / (10 * 4) = 0.25.
    assert gini_index(rows).tolist() == pytest.approx([0.25, 0.0, 0.75, 0.0])
    expected = [2 - 10 / math.sqrt(30), 0.0, 1.0, 0.0]
    assert hoyer_sparsity(rows).tolist() == pytest.approx(expected)
    for sparsity in (gini_index, hoyer_sparsity):
        torch.testing.assert_close(sparsity(1e-20 * rows), sparsity(rows))
        torch.testing.assert_close(sparsity(rows.view(4, 1, 2, 2)), sparsity(rows))
        assert sparsity(torch.ones(3, 1)).tolist() == [0.0] * 3


def test_the_gini_index_is_half_the_mean_difference_over_the_mean() -> None:
    sizes = torch.rand(6, 30, dtype=torch.float64)
    differences = (sizes[:, :, None] - sizes[:, None]).abs().mean((1, 2))
    torch.testing.assert_close(gini_index(sizes), differences / (2 * sizes.mean(1)))


def test_a_gradient_along_the_edges_is_aligned_with_the_contrast() -> None:
    x = torch.zeros(3, 2, 6, 6)
    x[:, :, :, 3:] = 0.8  # one vertical edge: the neighbours of columns 2 and 3 differ
    edge = torch.zeros(6, 6, dtype=torch.bool)
    edge[:, 2:4] = True
    gradient = torch.zeros(3, 2, 6, 6)
    gradient[0, 0, edge], gradient[0, 1, edge] = 3.0, -4.0
    gradient[1, 0, ~edge] = 1.0
    gradient[2] = 0.7  # the same everywhere
    assert contrast_alignment(gradient, x).tolist() == pytest.approx([1.0, -1.0, 0.0])
    assert contrast_alignment(gradient, torch.full_like(x, 0.3)).tolist() == [0.0] * 3


def test_the_alignment_is_the_correlation_of_numpy() -> None:
    x, gradient = torch.rand(4, 3, 5, 7), torch.randn(4, 3, 5, 7)
    for place, (image, own) in enumerate(zip(x.double().numpy(), gradient.double().numpy(), strict=True)):
        slopes = [np.gradient(channel) for channel in image]
        contrast = np.sqrt(sum(part**2 for parts in slopes for part in parts))
        size = np.sqrt((own**2).sum(0))
        expected = np.corrcoef(contrast.ravel(), size.ravel())[0, 1]
        assert contrast_alignment(gradient, x)[place].item() == pytest.approx(expected)


def test_the_share_on_the_object_is_beyond_that_of_its_pixels() -> None:
    x = torch.zeros(4, 1, 2, 4)
    x[:3, 0, 0] = 0.5  # half of the pixels
    gradient = torch.zeros(4, 1, 2, 4)
    gradient[0, 0, 0, 1] = -2.0  # all on the object
    gradient[1, 0, 1, 2] = 1.0  # all beside it
    gradient[2] = 1.0
    gradient[3] = 1.0  # there is no object
    assert foreground_excess(gradient, x).tolist() == [0.5, -0.5, 0.0, 0.0]
    assert foreground_excess(torch.zeros_like(gradient), x).tolist() == [0.0] * 4


class TwoPixels(nn.Module):
    """Two logits that read one pixel each."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2]


def test_a_network_that_reads_two_pixels_has_two_in_its_gradient() -> None:
    x = torch.rand(6, 1, 4, 4)
    found = rl.explain.gradients(TwoPixels(), x, torch.tensor([0, 1] * 3))
    # Two of sixteen values of one size: 1 - 2/16, and (4 - sqrt 2) / 3.
    np.testing.assert_allclose(found["gini"], 0.875, rtol=1e-6)
    np.testing.assert_allclose(found["hoyer"], (4 - math.sqrt(2)) / 3, rtol=1e-6)
    assert set(found) == {"gini", "hoyer", "contrast"}  # few pixels are black
    dark = rl.explain.gradients(
        TwoPixels(), x * (torch.arange(16).view(1, 1, 4, 4) < 4), torch.zeros(6).long()
    )
    np.testing.assert_allclose(dark["foreground"], 0.75, rtol=1e-6)


def test_a_sure_network_has_the_gradient_of_an_unsure_one() -> None:
    """Softmax rounds 1 - p_y to 0, and the gradient of the cross entropy with it."""
    model, x = TwoPixels(), torch.rand(4, 1, 2, 2)

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1000 * model(x)

    y = model(x).argmax(1)
    one, other = (rl.explain.gradients(network, x, y) for network in (model, Sure()))
    np.testing.assert_allclose(one["gini"], other["gini"], rtol=1e-6)


def test_batches_change_nothing_and_the_model_is_left_as_it_was() -> None:
    model, (x, y) = everything(), images(7)
    before = Snapshot(model)
    found = [rl.explain.gradients(model, x, y, batch_size=size) for size in (2, 7)]
    before.assert_unchanged()
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)
        assert found[0][name].dtype == np.float32


def test_inputs_without_sides_have_a_sparsity_alone() -> None:
    model = nn.Linear(6, 3)
    assert set(rl.explain.gradients(model, torch.rand(5, 6), torch.arange(5) % 3)) == {"gini", "hoyer"}
    assert "contrast" in rl.explain.gradients(
        nn.Sequential(nn.Flatten(), model), torch.rand(5, 2, 3), torch.arange(5) % 3
    )


def test_a_network_without_a_gradient_is_refused() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3].detach()

    class Rooted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3].sqrt()

    x, y = torch.zeros(4, 1, 2, 2), torch.zeros(4).long()
    with pytest.raises(ModelError, match="carry no gradient"):
        rl.explain.gradients(Detached(), x, y)
    with pytest.raises(NumericsError, match="gradients: found a derivative"):
        rl.explain.gradients(Rooted(), x, y)


def test_the_measure_has_the_numbers_of_the_first_test_images() -> None:
    pixels = torch.randint(1, 256, (20, 1, 4, 4), dtype=torch.uint8)
    pixels[:, :, :2] = 0
    split = Split(pixels, torch.arange(20) % 2, torch.arange(100, 120))
    subject = Subject(TwoPixels(), split, split, rl.ThreatModel("Linf", 0.1), batch_size=3)
    found = measure_gradients(subject, examples=8)
    expected = rl.explain.gradients(TwoPixels(), pixels[:8] / 255, split.labels[:8])
    assert found.arrays["test_index"].tolist() == list(range(100, 108))
    assert found.conditions == {"split": "test", "examples": 8}
    for name in ("gini", "hoyer", "contrast", "foreground"):
        np.testing.assert_allclose(found.arrays[f"test_{name}"], expected[name], rtol=1e-6)
        assert found.value[f"mean_{name}"] == pytest.approx(expected[name].mean())
        assert found.value[f"std_{name}"] == pytest.approx(expected[name].std())
    np.testing.assert_allclose(expected["foreground"], -0.5)  # both pixels that it reads are black
