"""A few test images: on linear networks adversarial image and gradient are known in closed form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robustlens as rl
from helpers.data_files import OFFICIAL
from robustlens.config import ExplanationPlan
from robustlens.data import from_tensors
from robustlens.errors import DataError
from robustlens.explain import Subject
from robustlens.explain.gallery import measure_gallery, spread_over_classes

NORMS = {"Linf": 0.05, "L2": 0.4, "L1": 1.5}


def two_classes(weight: Tensor) -> nn.Linear:
    """Logits (0, <weight, x>): the loss of class 0 rises along `weight`, that of class 1 falls."""
    model = nn.Linear(len(weight), 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
    return model


def signed(y: Tensor, weight: Tensor) -> Tensor:
    return (1 - 2 * y[:, None]) * weight


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_the_linf_image_of_a_linear_network_is_the_corner_and_the_gradient_its_weights(
    bounds: tuple[float, float],
) -> None:
    low, width = bounds[0], bounds[1] - bounds[0]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=generator) / width
    x, y = low + width * torch.rand(7, 12, generator=generator), torch.arange(7) % 2
    eps = 0.05 * width
    found = rl.explain.gallery(two_classes(weight), x, y, rl.ThreatModel("Linf", eps, bounds))
    corner = (x + eps * signed(y, weight).sign()).clamp(*bounds)
    np.testing.assert_allclose(found["x_adv"], corner, atol=1e-6 * width)
    np.testing.assert_allclose(found["gradient"], signed(y, weight), rtol=1e-5)
    for prefix, images in (("", x), ("adversarial_", corner)):
        one = torch.sigmoid(images @ weight)
        np.testing.assert_array_equal(found[f"{prefix}prediction"], (one > 0.5).long())
        np.testing.assert_allclose(found[f"{prefix}confidence"], torch.maximum(one, 1 - one), rtol=1e-4)


def test_the_gradient_is_that_of_the_loss_but_for_a_factor() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    x, y = torch.rand(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    nn.functional.cross_entropy(logits, y, reduction="sum").backward()
    missing = 1 - logits.softmax(1).gather(1, y[:, None]).detach()
    assert leaf.grad is not None
    found = rl.explain.gallery(model, x, y, rl.ThreatModel("Linf", 0.1), steps=1)
    np.testing.assert_allclose(found["gradient"], leaf.grad / missing, rtol=1e-4)


def test_a_network_that_is_sure_of_itself_has_a_gradient_all_the_same() -> None:
    weight = torch.full((4,), -1000.0)
    x, y = torch.full((1, 4), 0.9), torch.tensor([0])
    model = two_classes(weight)
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), y).backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()  # float32 has no word for 1 - p
    found = rl.explain.gallery(model, x, y, rl.ThreatModel("Linf", 0.1))
    np.testing.assert_allclose(found["gradient"], [[-1000.0] * 4])


def network(channels: int = 1, classes: int = 5) -> nn.Module:
    torch.manual_seed(2)
    layers = nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, classes)
    return nn.Sequential(*layers).eval()


def subject(labels: Tensor | None = None, *, classes: tuple[str, ...] = (), **options: Any) -> Subject:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    y = torch.arange(60) % 5 if labels is None else labels
    splits = from_tensors(x, y, x, y, classes=tuple("abcde"), validation=0.0)
    threat = options.pop("threat", rl.ThreatModel("Linf", 0.05))
    model = options.pop("model", None) or network()
    return Subject(model, splits.train, splits.test, threat, classes=classes, **options)


@pytest.mark.parametrize("norm", NORMS)
def test_stored_images_are_feasible_and_are_those_of_the_data(norm: str) -> None:
    threat = rl.ThreatModel(norm, NORMS[norm])
    given = subject(threat=threat)
    arrays = measure_gallery(given).arrays
    x, x_adv = (torch.from_numpy(arrays[f"test_{name}"]).double() for name in ("x", "x_adv"))
    assert threat.distance(x_adv, x).max() <= threat.eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(given.test.x(torch.from_numpy(arrays["test_index"])).double(), x)
    assert np.abs(arrays["test_gradient"]).reshape(10, -1).max(1).tolist() == [1.0] * 10


def test_every_network_gets_the_same_images_whatever_the_batch_size() -> None:
    found = [measure_gallery(subject(batch_size=size)).arrays for size in (1, 256)]
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)
    torch.manual_seed(9)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    arrays = measure_gallery(subject(model=other)).arrays
    for name in ("test_x", "test_index", "test_label"):
        np.testing.assert_array_equal(arrays[name], found[0][name])
    assert not np.array_equal(arrays["test_x_adv"], found[0]["test_x_adv"])


def test_images_are_spread_over_the_classes() -> None:
    rare = torch.tensor([0] * 50 + [1] * 3 + [2])
    chosen = spread_over_classes(rare, 5, 0)
    assert rare[chosen].tolist() == [0, 0, 1, 1, 2]
    assert torch.equal(chosen, spread_over_classes(rare, 5, 0))
    assert any(not torch.equal(chosen, spread_over_classes(rare, 5, seed)) for seed in range(1, 5))
    many = spread_over_classes(torch.arange(100), 10, 0)
    assert len(many.unique()) == 10
    assert spread_over_classes(torch.zeros(3).long(), 10, 0).tolist() == [0, 1, 2]
    assert spread_over_classes(torch.tensor([4, 4, 0]), 2, 1).tolist()[0] == 2  # some classes have no image


def test_a_network_that_is_wrong_everywhere_and_one_class() -> None:
    given = subject()
    wrong = given.model(given.test.x()).argmin(1)
    value = measure_gallery(subject(wrong)).value
    assert (value["right"], value["right_under_attack"]) == (0, 0)
    found = measure_gallery(subject(torch.zeros(60).long(), classes=("only",)))
    assert found.value["labels"] == ["only"] * 10
    assert {"1", "2", "3", "4"} >= set(found.value["predictions"]) - {"only"}  # no name: the number


def test_without_test_images_there_is_one_line() -> None:
    given = subject()
    empty = Subject(given.model, given.train, given.test.at(slice(0)), given.threat)
    with pytest.raises(DataError, match="gallery: found 0 images, expected at least 1"):
        measure_gallery(empty)


PNG = np.arange(64, dtype=np.uint8).reshape(8, 8)


def folder_of_images(root: Path) -> str:
    for split in ("train", "test"):
        for name in ("left boot", "right boot"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(PNG + number).save(root / split / name / f"{number}.png")
    return f"folder:{root}"


def test_names_of_the_classes_come_from_the_data(tmp_path: Path) -> None:
    built_in = rl.data.load("fashion-mnist-10k", train_limit=40, test_limit=40)
    folder = rl.data.load(folder_of_images(tmp_path / "images"))
    x, y = np.stack([PNG] * 6), np.arange(6) % 3
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    numbers = rl.data.load(f"npz:{tmp_path / 'images.npz'}")
    rl.data.pack(f"folder:{tmp_path / 'images'}", tmp_path / "packed")
    packed = rl.data.load(f"packed:{tmp_path / 'packed'}")
    expected = {"Ankle boot", "Bag", "T-shirt/top"}, {"left boot", "right boot"}, {"0", "1", "2"}
    for splits, names in zip((built_in, folder, numbers, packed), (*expected, expected[1]), strict=True):
        plan = ExplanationPlan(measures=("gallery",), examples=len(splits.test))
        model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(splits.shape)), len(splits.classes)))
        value = rl.explain.explain(model, splits, plan)["gallery"].value
        assert names <= set(value["labels"])
        assert set(value["labels"]) <= set(splits.classes)
        assert set(value["adversarial_predictions"]) <= set(splits.classes)


@pytest.mark.skipif(not (OFFICIAL.parent / "cifar10").is_dir(), reason="CIFAR-10 is not beside this checkout")
def test_the_hub_names_its_classes() -> None:
    splits = rl.data.load("cifar10", data_dir=OFFICIAL.parent, train_limit=40, test_limit=40)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    plan = ExplanationPlan(measures=("gallery",), examples=40)
    found = rl.explain.explain(model, splits, plan)["gallery"].value
    words = "airplane automobile bird cat deer dog frog horse ship truck"
    assert found["labels"] == words.split()
