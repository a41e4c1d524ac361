"""The minimum-norm attack against boundaries whose distance is known, and against a long search where it is not."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from linear_models import linear_problem
from robustlens import losses
from robustlens.attacks import MinimumNorm
from robustlens.errors import ConfigError, ModelError

norms = pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])


def endless(norm, bounds=(0.0, 1.0)):
    return rl.ThreatModel(norm, math.inf, bounds)


class Sphere(nn.Module):
    """Class 1 outside a ball around `centre`, whose exact distance everybody knows."""

    def __init__(self, centre, radius):
        super().__init__()
        self.centre, self.radius = centre, radius

    def forward(self, x):
        outside = (x - self.centre).square().flatten(1).sum(1) - self.radius**2
        return torch.stack([-outside, outside], 1)


class Counted(nn.Module):
    """A model that counts the images it sees, with and without a gradient, and remembers those without."""

    def __init__(self, model):
        super().__init__()
        self.model, self.tracked, self.judged, self.batches = model, 0, 0, []

    def forward(self, x):
        if x.requires_grad:
            self.tracked += len(x)
        else:
            self.judged += len(x)
        self.batches.append(x.detach().clone())
        return self.model(x)


def trained_network(seed=0, steps=300):
    """A small network on two interleaved classes out of four, in ten dimensions; images and labels."""
    torch.manual_seed(seed)
    x = torch.rand(400, 10, dtype=torch.float64)
    y = (x[:, :2].sum(1) * 3 + torch.sin(6 * x[:, 2:4].sum(1))).long().clamp(0, 3)
    model = nn.Sequential(nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 4)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, x[:80], y[:80]


@norms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("classes", "dim", "n"), [(2, 20, 60), (2, 3000, 6), (10, 20, 60), (10, 300, 20), (10, 3000, 4)])
def test_linear_models_exactly_pixel_box_included(norm, dtype, classes, dim, n):
    for seed in range(3):
        problem = linear_problem(dim, classes, n=n, seed=seed, dtype=dtype)
        found = MinimumNorm(endless(norm), steps=24).distance(problem.model, problem.x, problem.y).double()
        exact, lower = problem.distances(norm), problem.distances(norm, slack=float(dtype == torch.float32))
        reachable = exact.isfinite()
        assert reachable.any()
        assert torch.equal(found.isfinite(), reachable)
        assert (found <= 1.02 * exact)[reachable].all()
        assert (found >= lower * (1 - 1e-6))[reachable].all()


@norms
def test_linear_models_with_other_bounds_and_boundaries_out_of_reach(norm):
    bounds = (-1.0, 3.0)
    problem = linear_problem(15, 3, n=40, seed=4, bounds=bounds)
    with torch.no_grad():
        problem.model.bias[0] += 12  # so much that from some images no other class can be reached
    y = problem.model(problem.x).argmax(1)
    problem = type(problem)(problem.model, problem.x, y, bounds)
    exact = problem.distances(norm)
    assert 0 < exact.isfinite().sum() < len(exact)
    attack = MinimumNorm(endless(norm, bounds), steps=40)
    found, x_adv = attack.distance(problem.model, problem.x, y), attack(problem.model, problem.x, y)
    assert torch.equal(found.isfinite(), exact.isfinite())
    reachable = exact.isfinite()
    assert (found <= 1.02 * exact)[reachable].all()
    assert (found >= exact * (1 - 1e-6))[reachable].all()
    assert torch.equal(x_adv[~reachable], problem.x[~reachable])


@norms
def test_it_searches_up_to_eps_and_no_further(norm):
    problem = linear_problem(30, 5, n=60, seed=2)
    exact = problem.distances(norm)
    eps = float(exact.median())
    attack = MinimumNorm(rl.ThreatModel(norm, eps), steps=30)
    found, x_adv = attack.distance(problem.model, problem.x, problem.y), attack(problem.model, problem.x, problem.y)
    wrong = losses.is_wrong(problem.model(x_adv), problem.y)
    assert torch.equal(wrong, found.isfinite())
    assert not wrong[exact > eps].any()
    assert wrong[exact < 0.999 * eps].all()
    assert attack.threat.distance(x_adv, problem.x).max() <= eps * (1 + 1e-9)
    torch.testing.assert_close(attack.threat.distance(x_adv, problem.x)[wrong], found[wrong])
    assert torch.equal(x_adv[~wrong], problem.x[~wrong])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sphere_from_inside_and_from_outside(dtype):
    """From inside: Linf r with sum (|d_i| + r)^2 = R^2, L2 R - |d|, L1 along the longest coordinate."""
    torch.manual_seed(1)
    dim, radius = 8, 0.35
    centre = torch.full((dim,), 0.5, dtype=dtype)
    direction = nn.functional.normalize(torch.randn(50, dim, dtype=dtype))
    d = direction * torch.linspace(0.05, 0.33, 50, dtype=dtype)[:, None]
    size = d.norm(dim=1)
    s, longest = d.abs().sum(1), d.abs().amax(1)
    exact = {
        "L2": radius - size,
        "Linf": (-2 * s + (4 * s.square() + 4 * dim * (radius**2 - size.square())).sqrt()) / (2 * dim),
        "L1": (radius**2 - size.square() + longest.square()).sqrt() - longest,
    }
    y = torch.zeros(50, dtype=torch.int64)
    for norm, expected in exact.items():
        found = MinimumNorm(endless(norm)).distance(Sphere(centre, radius), centre + d, y)
        assert (found >= expected * (1 - 1e-5)).all(), norm
        assert (found / expected).median() <= 1.001, norm
        assert (found <= 1.02 * expected).float().mean() >= (0.9 if norm == "L1" else 1), norm
    outside = centre + direction * torch.linspace(0.36, 0.45, 50, dtype=dtype)[:, None]
    found = MinimumNorm(endless("L2")).distance(Sphere(centre, radius), outside, y + 1)
    torch.testing.assert_close(found, (outside - centre).norm(dim=1) - radius, rtol=2e-3, atol=1e-6)


@norms
def test_a_trained_network_is_searched_better_than_by_long_pgd_bisection(norm):
    model, x, y = trained_network()
    clean = model(x).argmax(1) == y
    low, high = torch.zeros(len(x)), torch.full((len(x),), {"Linf": 1.0, "L2": 3.0, "L1": 10.0}[norm])
    for _ in range(9):  # where PGD on the margin finds something: an upper bound of the distance
        middle = (low + high) / 2
        won = torch.stack(
            [
                losses.is_wrong(
                    model(rl.attacks.PGD(rl.ThreatModel(norm, float(eps)), 30, loss="margin")(model, *pair)), pair[1]
                )[0]
                for eps, *pair in zip(middle, x.split(1), y.split(1), strict=True)
            ][:20]
        )
        low[:20], high[:20] = torch.where(won, low[:20], middle[:20]), torch.where(won, middle[:20], high[:20])
    found = MinimumNorm(endless(norm)).distance(model, x[:20], y[:20])
    known = clean[:20] & (high[:20] < 1)
    assert known.sum() >= 5
    assert (found <= 1.02 * high[:20])[known].float().mean() >= 0.95
    assert (found / high[:20])[known].median() <= 1.0
