"""Changes of features and of outputs, against linear networks in which they are known."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import Snapshot
from robustlens import models
from robustlens.data import Split
from robustlens.errors import ConfigError
from robustlens.explain import Subject
from robustlens.explain.smoothness import changes_of, feature_changes, input_change, measure_smoothness
from robustlens.explain.temperature import best_temperature


def linear_network(seed: int = 0) -> Any:
    """Two linear layers without biases or a nonlinearity; the first turns the image and doubles it."""
    torch.manual_seed(seed)
    first, second = nn.Linear(9, 9, bias=False), nn.Linear(9, 3, bias=False)
    first.weight.data = 2 * torch.linalg.qr(torch.randn(9, 9)).Q
    return nn.Sequential(nn.Flatten(), first, second).eval()


def images(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 3, 3, generator=generator) * 0.6 + 0.2
    return x, x + 0.1 * torch.randn(x.shape, generator=generator)


def test_a_linear_network_changes_its_features_as_its_matrices_do() -> None:
    model, (x, moved) = linear_network(), images()
    found = feature_changes(model, x, moved, batch_size=4)
    assert list(found) == ["2.input", "logits"]
    delta, flat = (moved - x).flatten(1), x.flatten(1)
    whole = (model[2].weight @ model[1].weight).detach()
    expected = (delta @ whole.T).norm(dim=1) / (flat @ whole.T).norm(dim=1)
    np.testing.assert_allclose(found["logits"], expected.numpy(), rtol=1e-5)
    # A rotation and a factor change nothing relative to the size of the feature: the amplification is 1.
    np.testing.assert_allclose(found["2.input"], input_change(x, moved), rtol=1e-5)
    np.testing.assert_allclose(
        input_change(x, moved), (delta.norm(dim=1) / flat.norm(dim=1)).numpy(), rtol=1e-6
    )


def test_twice_the_perturbation_changes_the_features_of_a_linear_network_twice_as_much() -> None:
    model, (x, moved) = linear_network(), images()
    once, twice = (feature_changes(model, x, x + factor * (moved - x)) for factor in (1, 2))
    for key, change in once.items():
        np.testing.assert_allclose(2 * change, twice[key], rtol=1e-4)


def test_a_shift_before_a_relu_decides_how_much_gets_through() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    first.weight.data, first.bias.data = torch.eye(2), torch.tensor([0.0, -1.0])
    model = nn.Sequential(first, nn.ReLU(), second)
    # The second unit is silent at 0.5 and wakes at 1.5; the first goes from 4 to 4.
    found = feature_changes(model, torch.tensor([[4.0, 0.5]]), torch.tensor([[4.0, 1.5]]))
    np.testing.assert_allclose(found["2.input"], [0.5 / 4.0])


def test_nothing_that_stays_nothing_has_not_changed_and_something_from_nothing_has_wholly() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    first.weight.data = torch.eye(2)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    found = feature_changes(model, x, torch.tensor([[-2.0, -1.0], [3.0, -1.0]]))
    assert found["2.input"].tolist() == [0.0, 1.0]
    assert found["logits"][0] == 0.0


def test_images_without_a_change_have_none_and_batches_make_no_difference() -> None:
    model = models.get("small-cnn-bn", num_classes=3, in_channels=1, width=2).train()
    x = torch.rand(5, 1, 12, 12)
    before = Snapshot(model)
    moved = x.clone()
    moved[3:] += 0.05
    whole, parts = (feature_changes(model, x, moved, batch_size=size) for size in (256, 2))
    before.assert_unchanged()
    for key, change in whole.items():
        assert change.shape == (5,)
        assert (change > 1e-5).tolist() == [False, False, False, True, True]  # rounding aside
        np.testing.assert_allclose(parts[key], change, rtol=1e-4, atol=1e-6)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one shape"):
        feature_changes(linear_network(), torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 4))


def subject(model: nn.Module, eps: float, n: int = 40) -> Subject:
    pixels = torch.randint(0, 256, (n, 1, 3, 3), generator=torch.Generator().manual_seed(1))
    split = Split(pixels.to(torch.uint8), pixels.sum((1, 2, 3)) % 3, torch.arange(n) + 7)
    return Subject(model, split, split, rl.ThreatModel("Linf", eps))


def test_the_measure_moves_features_and_margins_by_one_and_the_same_attack() -> None:
    model = linear_network()
    found = measure_smoothness(subject(model, 0.05), steps=3)
    x, y = subject(model, 0.05).images("test")
    x_adv = rl.attacks.PGD(rl.ThreatModel("Linf", 0.05), steps=3)(model, x, y)
    np.testing.assert_allclose(found.arrays["attack_input"], input_change(x, x_adv), rtol=1e-6)
    whole = feature_changes(model, x, x_adv)
    assert found.value["layers"].keys() == whole.keys() == {"2.input", "logits"}
    for layer, change in whole.items():
        np.testing.assert_allclose(found.arrays[f"attack/{layer}"], change, rtol=1e-5)
        assert found.value["layers"][layer]["attack"] == pytest.approx(change.mean(), rel=1e-5)
    for kind in ("attack", "noise"):
        assert found.value["layers"]["2.input"][f"{kind}_amplification"] == pytest.approx(1.0, rel=1e-4)
    direct = rl.explain.smoothness(model, x, y, rl.ThreatModel("Linf", 0.05), steps=3)
    for name, change in direct.items():
        np.testing.assert_allclose(found.arrays[name], change, atol=1e-6)
    assert found.arrays["index"].tolist() == list(range(7, 47))


def test_the_noise_is_the_same_for_every_network_and_stays_in_the_ball() -> None:
    one, other = (measure_smoothness(subject(linear_network(seed), 0.05), steps=1) for seed in (0, 1))
    np.testing.assert_array_equal(one.arrays["noise_input"], other.arrays["noise_input"])
    assert (one.arrays["attack_input"] != other.arrays["attack_input"]).any()
    x, _ = subject(linear_network(), 0.05).images("test")
    largest = 0.05 * 3 / x.flatten(1).norm(dim=1).numpy()  # all nine pixels moved by eps
    assert (one.arrays["noise_input"] > 0).all()
    assert (one.arrays["noise_input"] <= largest * 1.0001).all()


def test_without_a_radius_nothing_changes_and_nothing_is_amplified() -> None:
    found = measure_smoothness(subject(linear_network(), 0.0), steps=1)
    nothing = dict.fromkeys(("attack", "attack_amplification", "noise", "noise_amplification"), 0.0)
    assert found.value["layers"]["logits"] == {**nothing, "attack_over_noise": None}


def random_logits(n: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (n,), generator=generator)
    return 3 * torch.randn(n, 4, generator=generator).double() + 2 * F.one_hot(y, 4), y


def test_the_matched_changes_do_not_depend_on_the_scale_of_the_logits() -> None:
    logits, y = random_logits()
    attacked = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    one, other = changes_of(logits, attacked, y), changes_of(4 * logits, 4 * attacked, y)
    for kind in ("matched_probability_change", "matched_confidence_change"):
        np.testing.assert_allclose(one[kind], other[kind], atol=1e-6)
    assert np.abs(one["probability_change"] - other["probability_change"]).max() > 0.05
    temperature = best_temperature(logits, y)
    expected = (logits / temperature).softmax(1).amax(1) - (attacked / temperature).softmax(1).amax(1)
    np.testing.assert_allclose(one["matched_confidence_change"], expected.numpy(), atol=1e-9)


def test_margin_change_of_a_linear_model_is_the_dual_norm() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 2).double()
    x, y = torch.rand(30, 20, dtype=torch.float64) * 0.2 + 0.4, torch.randint(0, 2, (30,))
    gap = (model.weight[0] - model.weight[1]).detach()
    found = rl.explain.smoothness(model, x, y, rl.ThreatModel("Linf", 0.05))
    np.testing.assert_allclose(found["margin_change"], (0.05 * gap.abs().sum()).expand(30).numpy(), rtol=1e-6)


def test_flips_and_the_quantile_of_the_fall_are_those_counted_by_hand() -> None:
    # Two logits, half the gap of each: 100 images whose logit margin falls by 1 to 100, on both sides of 0.
    fall = torch.arange(1.0, 101.0)
    clean = torch.stack([torch.full((100,), 40.0), torch.zeros(100)], dim=1)
    attacked = torch.stack([40.0 - fall, torch.zeros(100)], dim=1)
    changes = changes_of(clean, attacked, torch.zeros(100).long())
    # From 41 on the other logit is larger; at 40 they are equal, and the first one stays.
    assert changes["label_flip"].tolist() == [False] * 40 + [True] * 60
    np.testing.assert_allclose(changes["margin_change"], fall.numpy(), rtol=1e-6)


def test_the_measure_gives_flips_the_quantile_of_the_fall_and_the_ratio_of_directions() -> None:
    model = linear_network()
    found = measure_smoothness(subject(model, 0.05), steps=3)
    x, y = subject(model, 0.05).images("test")
    x_adv = rl.attacks.PGD(rl.ThreatModel("Linf", 0.05), steps=3)(model, x, y)
    flips = model(x).argmax(1) != model(x_adv).argmax(1)
    assert found.arrays["label_flip"].tolist() == flips.tolist()
    assert found.value["mean_label_flip"] == pytest.approx(flips.double().mean().item())
    # Of 40 images 38 lie at or below the quantile.
    fall = np.sort(found.arrays["margin_change"])
    assert found.value["q95_margin_change"] == pytest.approx(fall[37])
    assert found.arrays["noise_label_flip"].dtype == bool
    # A rotation stretches all directions alike; the last layer keeps three of nine, which the attack finds.
    layers = found.value["layers"]
    assert layers["2.input"]["attack_over_noise"] == pytest.approx(1.0, rel=1e-4)
    assert layers["logits"]["attack_over_noise"] > 1.2
