"""What bench/optimality.py counts, judges and searches, on linear models whose distances are known."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.linear_models import linear_problem

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("optimality")


def along_the_slope(radius):
    """The best step of a linear model of two classes within an Linf radius."""

    def search(network, x, y):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(leaf).gather(1, 1 - y[:, None]).sum(), leaf)
        return x + radius * slope.sign()

    return search


def test_a_search_over_radii_ends_at_the_boundary(bench):
    """The distance to a plane is the height over the L1 norm of the slope; the box is far."""
    torch.manual_seed(0)
    x, plane = 0.4 + 0.2 * torch.rand(40, 20, dtype=torch.float64), nn.Linear(20, 2).double()
    with torch.no_grad():
        plane.weight[0] = -plane.weight[1]  # what raises one class lowers the other
        plane.bias[:] = torch.stack([-plane.weight[0].sum(), -plane.weight[1].sum()]) / 2
        heights = plane(x)[:, 1]
    y, exact = (heights > 0).long(), heights.abs() / plane.weight[1].detach().abs().sum()
    radii = [float(exact.quantile(share)) for share in (0.2, 0.5, 0.81)]
    x_adv = bench.by_radius(along_the_slope, radii, plane, x, y)
    distance = bench.judged(plane, "Linf", x, y, x_adv)
    within = exact < radii[-1]
    assert within.sum() == 32
    torch.testing.assert_close(distance[within], exact[within], rtol=2e-3, atol=0)
    assert distance[~within].isinf().all()
    assert torch.equal(x_adv[~within], x[~within])


def test_what_counts_is_misclassified_and_in_the_box(bench):
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight[:] = torch.tensor([[0.0], [1.0]])
    network = nn.Sequential(nn.Flatten(), model)  # class 1 above zero, class 0 at zero
    x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [0.5]], dtype=torch.float64)
    x_adv = torch.tensor([[0.25], [1.5], [0.0], [torch.nan], [0.75]], dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 0, 0])
    assert bench.judged(network, "L2", x, y, x_adv).tolist() == [0.25, math.inf, math.inf, math.inf, 0.0]


def test_images_of_both_passes_are_counted(bench):
    problem = linear_problem(6, 3, n=10, seed=0)
    network = bench.Counted(problem.model)
    network(problem.x)
    assert (network.forwards, network.backwards) == (10, 0)
    leaf = problem.x.clone().requires_grad_()
    logits = network(leaf)
    for number in range(3):
        torch.autograd.grad(logits[:, number].sum(), leaf, retain_graph=True)
    assert (network.forwards, network.backwards) == (20, 30)


def test_the_nearest_point_of_several_attacks_counts_and_costs_their_sum(bench):
    cost = {"num_forwards": 1.0, "num_backwards": 2.0, "seconds": 3.0}
    rows = {name: {"distances": [0.0, 4.0, math.inf], **cost} for name in bench.TOGETHER[bench.CLAIMED]}
    rows["min-norm"] = {"distances": [0.0, 5.0, 2.0], **cost}
    joined = bench.together(rows)[bench.CLAIMED]
    assert joined["distances"] == [0.0, 4.0, 2.0]
    assert (joined["num_forwards"], joined["num_backwards"], joined["seconds"]) == (3.0, 6.0, 9.0)
    assert bench.CLAIMED not in bench.together({"min-norm": rows["min-norm"]})


def test_a_notebook_replaces_what_has_the_same_conditions(bench, tmp_path):
    notebook = bench.Notebook(tmp_path / "rows.json")
    row = {"model": "standard", "threat_model": "L2", "attack": "fab-30", "distances": [1.0, math.inf]}
    conditions = {"attack": "fab-30", "threat_model": "L2"}
    assert notebook.find(conditions) is None
    notebook.add(row | {"distances": [9.0]}, conditions)
    notebook.add(row, conditions)
    notebook.add(row | {"threat_model": "Linf"}, conditions | {"threat_model": "Linf"})
    assert bench.Notebook(tmp_path / "rows.json").rows() == [row, row | {"threat_model": "Linf"}]
