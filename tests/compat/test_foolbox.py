"""Foolbox-like calls on a linear model: the mask of successes is that of the exact distances."""

import numpy as np
import pytest
import torch

from helpers.linear_models import linear_problem
from robustlens import compat
from robustlens.errors import ConfigError

EPSILONS = [0.0, 0.05, 0.1, 0.3]


@pytest.fixture(scope="module")
def problem():
    return linear_problem(12, 2, n=12, seed=2, dtype=torch.float32, bounds=(-1.0, 1.0))


@pytest.fixture(scope="module")
def model(problem):
    return compat.foolbox.PyTorchModel(problem.model, bounds=(-1, 1))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("kind", ["PGD", "FMN"])
def test_success_at_each_radius_is_that_of_the_exact_distance(norm, kind, problem, model):
    scale = 1 if norm == "Linf" else 3
    epsilons = [scale * eps for eps in EPSILONS]
    name = f"{norm}PGD" if kind == "PGD" else {"Linf": "LInfFMNAttack", "L2": "L2FMNAttack"}[norm]
    options = {"random_start": False} if kind == "PGD" else {}
    attack = getattr(compat.foolbox, name)(**options)
    raw, clipped, success = attack(model, problem.x, problem.y, epsilons=epsilons)
    assert (len(raw), len(clipped), success.shape) == (4, 4, (4, 12))
    exact = problem.distances(norm)
    for eps, x_adv, mask in zip(epsilons, clipped, success, strict=True):
        near = (exact / eps - 1).abs() < 0.05 if eps else torch.zeros(12, dtype=torch.bool)
        assert (mask == (exact < eps))[~near].all()
        change = (x_adv - problem.x).double()
        assert (change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)).max() <= eps + 1e-5
        assert x_adv.abs().max() <= 1
        assert torch.equal(mask, problem.model(x_adv).argmax(1) != problem.y)
    assert success.any()
    assert not success.all()


def test_one_radius_gives_tensors_and_none_the_nearest_image(problem, model):
    raw, clipped, success = compat.foolbox.LinfFastGradientAttack()(model, problem.x, problem.y, epsilons=0.1)
    assert (raw.shape, clipped.shape, success.shape) == ((12, 12), (12, 12), (12,))
    signs = (problem.model.weight[1] - problem.model.weight[0]).sign() * torch.where(problem.y == 0, 1, -1)[
        :, None
    ]
    torch.testing.assert_close(clipped, (problem.x + 0.1 * signs).clamp(-1, 1))
    raw, clipped, success = compat.foolbox.L2FMNAttack()(model, problem.x, problem.y, epsilons=None)
    assert success.all()
    assert raw is clipped
    distance, exact = (clipped - problem.x).double().norm(dim=1), problem.distances("L2")
    assert (distance >= exact * (1 - 1e-5)).all()
    assert (distance <= exact * 1.02).all()


@pytest.mark.parametrize(
    "made",
    [
        list,
        tuple,
        iter,
        np.array,
        torch.tensor,
        lambda radii: [*map(torch.tensor, radii)],
        lambda radii: [*map(np.array, radii)],
    ],
)
def test_radii_come_in_any_container(made, problem, model):
    one, other = (
        compat.foolbox.LinfPGD(steps=2, random_start=False)(model, problem.x, problem.y, epsilons=epsilons)
        for epsilons in ([0.25, 0.5], made([0.25, 0.5]))
    )
    assert torch.equal(one[2], other[2])


@pytest.mark.parametrize(
    ("epsilons", "said"),
    [
        ([], "expected one radius"),
        ([0.1, None], "found None"),
        ([-1.0], "found -1"),
        ([torch.tensor([0.1, 0.2])], r"found one of shape \(2,\), expected a number each"),
    ],
)
def test_wrong_radii_are_one_line(epsilons, said, problem, model):
    with pytest.raises(ConfigError, match=said):
        compat.foolbox.LinfPGD()(model, problem.x, problem.y, epsilons=epsilons)


def test_a_criterion_with_labels_is_taken_and_one_with_targets_refused(problem, model):
    class Labels:
        labels = problem.y

    class Targets:
        target_classes = problem.y

    class Wrapped:  # as eagerpy does, and so foolbox's Misclassification
        labels = type("PyTorchTensor", (), {"raw": problem.y})()

    attack = compat.foolbox.LinfPGD(steps=3, random_start=False)
    criteria = (problem.y, Labels(), Wrapped())
    first, *others = (attack(model, problem.x, labels, epsilons=[0.1])[2] for labels in criteria)
    assert all(torch.equal(first, mask) for mask in others)
    with pytest.raises(ConfigError, match="found target classes"):
        attack(model, problem.x, Targets(), epsilons=[0.1])


@pytest.mark.parametrize("name", ["LinfPGD", "L2PGD", "LinfFastGradientAttack"])
def test_starts_come_from_torchs_own_state(name, problem, model):
    options = {"random_start": True} | ({"steps": 1} if name.endswith("PGD") else {})
    attack = getattr(compat.foolbox, name)(**options)
    torch.manual_seed(0)
    first, second = (attack(model, problem.x, problem.y, epsilons=[0.2, 0.2]) for _ in range(2))
    torch.manual_seed(0)
    again = attack(model, problem.x, problem.y, epsilons=[0.2, 0.2])
    assert torch.equal(again[0][0], first[0][0])
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], first[0][1])
