"""The oracle of the attacks' tests, itself against scipy."""

import numpy as np
import pytest
import scipy.optimize
import torch

from helpers.linear_models import linear_problem


def by_scipy(norm, slope, gap, low, high):
    """Smallest norm of delta in [low, high] with <slope, delta> = gap, by a general solver; inf if infeasible."""
    dim = len(slope)
    if norm == "L2":
        if np.maximum(slope * low, slope * high).sum() < gap:
            return np.inf
        found = scipy.optimize.minimize(
            lambda delta: delta @ delta,
            np.zeros(dim),
            jac=lambda delta: 2 * delta,
            method="SLSQP",
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda d: slope @ d - gap, "jac": lambda d: slope},
            options={"maxiter": 1000, "ftol": 1e-14},
        )
        assert found.success
        return np.sqrt(found.fun)
    sizes = 1 if norm == "Linf" else dim  # one bound on all coordinates, or one for each
    over = np.hstack([np.eye(dim), -np.ones((dim, 1)) if norm == "Linf" else -np.eye(dim)])
    under = np.hstack([-np.eye(dim), over[:, dim:]])
    found = scipy.optimize.linprog(
        np.r_[np.zeros(dim), np.ones(sizes)],
        A_ub=np.vstack([over, under]),
        b_ub=np.zeros(2 * dim),
        A_eq=np.r_[slope, np.zeros(sizes)][None],
        b_eq=[gap],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * sizes],
    )
    return found.fun if found.status == 0 else np.inf


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(("classes", "bounds"), [(2, (0.0, 1.0)), (4, (-1.0, 0.5))])
def test_exact_distances_are_those_of_a_general_solver(norm, classes, bounds):
    problem = linear_problem(6, classes, n=12, seed=5, bounds=bounds)
    with torch.no_grad():  # so much for the last class that some images cannot reach it
        problem.model.bias[-1] -= 5
    found = problem.class_distances(norm)
    gap, gradient = problem.gaps()
    unreachable = 0
    for i, x in enumerate(problem.x.numpy()):
        for t in range(classes):
            if t == problem.y[i]:
                assert found[i, t] == torch.inf
                continue
            if gap[i, t] <= 0:
                assert found[i, t] == 0
                continue
            exact = by_scipy(norm, gradient[i, t].numpy(), gap[i, t].item(), bounds[0] - x, bounds[1] - x)
            unreachable += exact == np.inf
            np.testing.assert_allclose(found[i, t].item(), exact, rtol=1e-5)
    assert unreachable
    torch.testing.assert_close(problem.distances(norm), found.amin(1))


def test_a_smallest_change_worked_out_by_hand():
    """At (0.5, 0.9) of f = (3 a + b, 0): both may fall, a by 0.5 and b by 0.9; the gap is 2.4."""
    problem = linear_problem(2, 2, n=1)
    with torch.no_grad():
        problem.model.weight.copy_(torch.tensor([[3.0, 1.0], [0.0, 0.0]]))
        problem.model.bias.zero_()
    problem.x.copy_(torch.tensor([[0.5, 0.9]]))
    problem.y.zero_()
    # a goes to the box and gives 1.5; b has to give 0.9: all its room.
    for norm, exact in (("Linf", 0.9), ("L2", (0.25 + 0.81) ** 0.5), ("L1", 1.4)):
        torch.testing.assert_close(problem.distances(norm), torch.tensor([exact], dtype=torch.float64))
    problem.model.bias.data[0] = -0.6  # gap 1.8
    for norm, exact in (("Linf", 0.45), ("L2", (0.25 + 0.09) ** 0.5), ("L1", 0.8)):
        torch.testing.assert_close(problem.distances(norm), torch.tensor([exact], dtype=torch.float64))


def test_slack_moves_the_boundary():
    problem = linear_problem(50, 10, dtype=torch.float32, seed=1)
    for norm in ("Linf", "L2", "L1"):
        nearer, exact, further = (problem.distances(norm, slack) for slack in (1.0, 0.0, -1.0))
        assert (nearer < exact).all()
        assert (exact < further).all()
        assert (further / nearer).median() < 1.001
