"""Threat models: projections against an independent solver, starts, steps, errors."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog, minimize

import robustlens as rl
from robustlens import noise
from robustlens.errors import ConfigError
from robustlens.threat import NORMS

RADII = {"Linf": 0.2, "L2": 0.7, "L1": 1.5}


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("seed", range(6))
def test_projection_is_the_nearest_feasible_point(norm, seed):
    """Against SLSQP on the same problem, written down independently."""
    rng = np.random.default_rng(seed)
    x = (rng.random(8) * 1.4 - 0.2).clip(0, 1)
    z = x + rng.normal(size=8) * rng.choice([0.1, 0.5, 2.0])
    eps = RADII[norm]
    if norm == "L1":  # split into positive and negative parts to make the constraint smooth
        start = np.zeros(16)
        found = minimize(
            lambda p: ((x + p[:8] - p[8:] - z) ** 2).sum(),
            start,
            bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
            constraints={"type": "ineq", "fun": lambda p: eps - p.sum()},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        delta = found.x[:8] - found.x[8:]  # the solver may end a hair outside the ball
        exact = x + delta * min(1.0, eps / np.abs(delta).sum())
    else:
        box = [(max(-v, -eps), min(1 - v, eps)) if norm == "Linf" else (-v, 1 - v) for v in x]
        ball = {"type": "ineq", "fun": lambda d: eps**2 - (d**2).sum()}
        found = minimize(
            lambda d: ((x + d - z) ** 2).sum(),
            np.zeros(8),
            bounds=box,
            constraints=[ball] if norm == "L2" else [],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        exact = x + found.x
    ours = rl.ThreatModel(norm, eps).project(torch.from_numpy(z)[None], torch.from_numpy(x)[None])[0].numpy()
    assert ((ours - z) ** 2).sum() <= ((exact - z) ** 2).sum() + 1e-7
    np.testing.assert_allclose(ours, exact, atol=2e-4)


@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(sorted(RADII)),
    scale=st.floats(1e-3, 30),
    eps=st.floats(0, 1),
)
@settings(max_examples=120, deadline=None)
def test_projection_is_feasible_idempotent_and_leaves_feasible_points(seed, norm, scale, eps):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(5, 3, 4, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    threat = rl.ThreatModel(norm, eps)
    once = threat.project(x + scale * torch.randn(5, 3, 4, generator=generator), x)
    assert threat.distance(once.double(), x.double()).max() <= eps + 1e-6
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(threat.project(once, x), once, rtol=0, atol=2e-6)
    assert torch.equal(threat.project(x, x), x)


@pytest.mark.parametrize("norm", RADII)
def test_steepest_ascent_has_unit_length_and_the_best_slope(norm):
    threat = rl.ThreatModel(norm, RADII[norm])
    x, g = torch.full((4, 50), 0.5), torch.randn(4, 50)
    step = threat.ascend(x, g, 0.3) - x
    torch.testing.assert_close(threat.distance(x + step, x), torch.full((4,), 0.3), rtol=1e-4, atol=1e-6)
    dual = {"Linf": g.abs().sum(1), "L2": g.norm(dim=1)}
    if norm in dual:
        torch.testing.assert_close((g * step).sum(1), 0.3 * dual[norm], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e20])
def test_a_step_has_full_length_however_small_the_gradient(norm, size):
    x, g = torch.full((4, 50), 0.5), torch.randn(4, 50)
    threat = rl.ThreatModel(norm, 1.0)
    torch.testing.assert_close(threat.ascend(x, g * size, 0.2), threat.ascend(x, g, 0.2))


def test_no_gradient_is_no_step():
    x = torch.full((2, 5), 0.5)
    for norm in RADII:
        assert torch.equal(rl.ThreatModel(norm, 0.5).ascend(x, torch.zeros(2, 5), 0.2), x)


def test_the_l1_step_does_not_push_against_the_box():
    x = torch.tensor([[1.0, 0.5, 0.5]])
    step = rl.ThreatModel("L1", 1.0).ascend(x, torch.tensor([[9.0, 1.0, 0.1]]), 0.2) - x
    torch.testing.assert_close(step, torch.tensor([[0.0, 0.2, 0.0]]))


@pytest.mark.parametrize("norm", RADII)
def test_random_starts_fill_the_ball(norm):
    threat = rl.ThreatModel(norm, RADII[norm] * 0.2)
    x = (
        torch.full((4000, 6), 0.5) + 1e-4 * torch.arange(4000)[:, None] / 4000
    )  # distinct images, far from the box
    distance = threat.distance(threat.random_start(x), x) / threat.eps
    assert distance.max() <= 1 + 1e-5
    # Uniform in a d-dimensional ball: P(size <= r) = r^d.
    for r in (0.7, 0.9):
        assert abs((distance <= r).float().mean() - r**6) < 0.03


def test_random_starts_differ_between_restarts_and_generators():
    threat, x = rl.ThreatModel("Linf", 0.1), torch.rand(3, 8)
    starts = [threat.random_start(x), threat.random_start(x, restart=1)]
    starts.append(threat.random_start(x, torch.Generator().manual_seed(1)))
    assert not any(torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])
    assert torch.equal(starts[0], threat.random_start(x))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Linf", 8), r"did you mean 8/255 = 0.03137\?"),
        (("Linf", -0.1), "expected a finite number >= 0"),
        (("Linf", float("nan")), "expected a finite number >= 0"),
        (("L3", 0.1), "expected Linf, L2 or L1"),
        (("L2", 0.1, (1.0, 0.0)), "low < high"),
    ],
)
def test_wrong_threats_are_refused_in_one_line(arguments, said):
    with pytest.raises(ConfigError, match=said) as caught:
        rl.ThreatModel(*arguments)
    assert "\n" not in str(caught.value)


def test_aliases_and_defaults():
    assert rl.ThreatModel("l_inf", 8 / 255).default_step_size == pytest.approx(2 / 255)
    assert rl.ThreatModel("l2", 128 / 255).default_step_size == pytest.approx(15 / 255)
    assert rl.ThreatModel("Linf", 200, bounds=(0, 255)).eps == 200


def hyperplane_task(seed):
    """A gradient with zeros and ties, a box of which some sides touch 0, and a gap that may be too wide."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 9))
    gradient = rng.normal(size=d) * 10.0 ** rng.integers(-3, 3)
    if seed % 3 == 0:
        gradient = gradient.round(0)
    if seed % 5 == 0:
        gradient = gradient[rng.integers(0, d, size=d)]
    gradient = gradient * (rng.random(d) > 0.2)
    low, high = -rng.random(d) * (rng.random(d) > 0.2), rng.random(d) * (rng.random(d) > 0.2)
    if seed % 4 == 0:
        low, high = low.round(1), high.round(1)
    sign = rng.choice([-1.0, 1.0])
    most = np.maximum(sign * gradient * low, sign * gradient * high).sum()
    share = rng.choice([0.0, 1e-3, rng.random(), 0.999, 1.5])
    return gradient, sign * (share * most + (share > 1)), low, high


def nearest_by_brute_force(norm, gradient, gap, low, high):
    """The smallest norm of a point of the box that closes the gap; None where no point does."""
    d = len(gradient)
    if np.maximum(np.sign(gap) * gradient * low, np.sign(gap) * gradient * high).sum() < abs(gap):
        return None
    if norm == "L2":  # optimality: clamp(multiplier * gradient); what it closes grows with the multiplier
        below, above = -1e12, 1e12
        for _ in range(300):
            middle = (below + above) / 2
            short = gradient @ (middle * gradient).clip(low, high) < gap
            below, above = (middle, above) if short else (below, middle)
        return np.linalg.norm((above * gradient).clip(low, high))
    # Linear programmes. Linf: delta and its bound t; L1: the positive and the negative part of delta.
    if norm == "Linf":
        cost, equal = np.r_[np.zeros(d), 1.0], np.r_[gradient, 0.0]
        sides = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        box = [*zip(low, high, strict=True), (0, None)]
    else:
        cost, equal = np.ones(2 * d), np.r_[gradient, -gradient]
        sides, box = np.zeros((1, 2 * d)), [(0, v) for v in high] + [(0, -v) for v in low]
    found = linprog(
        cost, A_ub=sides, b_ub=np.zeros(len(sides)), A_eq=equal[None], b_eq=[gap], bounds=box, method="highs"
    )
    assert found.status == 0, found.message
    return found.fun


@pytest.mark.parametrize("norm", RADII)
def test_the_projection_on_a_hyperplane_is_the_smallest_change_that_closes_the_gap(norm):
    closed = 0
    for seed in range(300):
        gradient, gap, low, high = hyperplane_task(seed)
        rows = [torch.from_numpy(v)[None] for v in (gradient, np.array(gap), low, high)]
        delta = NORMS[norm].project_on_hyperplane(*rows)[0].numpy()
        assert (low <= delta).all()
        assert (delta <= high).all()
        assert (delta[gradient == 0] == 0).all()
        least = nearest_by_brute_force(norm, gradient, gap, low, high)
        if least is None:
            steep = np.sign(gap) * gradient
            corner = np.where(steep > 0, high, np.where(steep < 0, low, 0.0))
            np.testing.assert_array_equal(delta, corner)
        else:
            closed += 1
            size = np.abs(gradient).max() or 1.0
            np.testing.assert_allclose(gradient @ delta / size, gap / size, rtol=1e-9, atol=1e-12)
            ours = float(NORMS[norm].size(torch.from_numpy(delta)[None]))
            np.testing.assert_allclose(ours, least, rtol=1e-6, atol=1e-8)
    assert 150 < closed < 290


@pytest.mark.parametrize("norm", RADII)
def test_the_projection_on_a_hyperplane_takes_rows_together_and_apart_in_both_precisions(norm):
    generator = torch.Generator().manual_seed(0)
    shape = (40, 500)
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64).exp()
    gradient *= torch.rand(shape, generator=generator, dtype=torch.float64).sub(0.5).sign()
    x = (torch.rand(shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    gap = torch.linspace(-1.5, 1.5, len(x), dtype=torch.float64) * (gradient.abs() * (1 - x)).sum(1)
    threat = rl.ThreatModel(norm, 0.0)  # whose radius plays no part
    whole = threat.project_on_hyperplane(x, gradient, gap)
    apart = [
        threat.project_on_hyperplane(*row)
        for row in zip(x.split(1), gradient.split(1), gap.split(1), strict=True)
    ]
    assert torch.equal(whole, torch.cat(apart))
    single = threat.project_on_hyperplane(x.float(), gradient.float(), gap.float())
    assert single.dtype == torch.float32
    assert single.min() >= 0
    assert single.max() <= 1
    torch.testing.assert_close(single.double(), whole, rtol=0, atol=1e-4 if norm == "L1" else 2e-6)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e25])
def test_the_projection_on_a_hyperplane_does_not_depend_on_the_scale_of_the_function(norm, size):
    x, gradient = torch.full((3, 50), 0.5), torch.randn(3, 50)
    threat, gap = rl.ThreatModel(norm, 0.0), torch.tensor([-2.0, 0.0, 3.0])
    expected = threat.project_on_hyperplane(x, gradient, gap)
    torch.testing.assert_close(
        threat.project_on_hyperplane(x, gradient * size, gap * size), expected, rtol=1e-3, atol=1e-4
    )
    assert torch.equal(expected[1], x[1])


@pytest.mark.parametrize("norm", RADII)
def test_the_projection_on_a_hyperplane_at_the_edges(norm):
    wide = rl.ThreatModel(norm, 0.0, bounds=(-np.inf, np.inf))
    x, gradient = torch.zeros(2, 1, 3), torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 0.0, 0.0]]])
    found = wide.project_on_hyperplane(x, gradient, torch.tensor([3.0, 3.0]))
    by_hand = {"Linf": [1.0, 0.0, -1.0], "L2": [1.2, 0.0, -0.6], "L1": [1.5, 0.0, 0.0]}
    torch.testing.assert_close(found[0, 0], torch.tensor(by_hand[norm]))
    assert torch.equal(found[1], x[1])
    empty = wide.project_on_hyperplane(x[:0], gradient[:0], torch.zeros(0))
    assert empty.shape == (0, 1, 3)
    corner = rl.ThreatModel(norm, 0.0, bounds=(-1.0, 1.0)).project_on_hyperplane(
        x, gradient, torch.full((2,), -torch.inf)
    )
    assert corner[0].tolist() == [[-1.0, 0.0, 1.0]]


def projected_by_bisection(delta, eps, low, high):
    """The L2 projection: `clamp(t * delta, low, high)` for the largest t up to 1 that leaves it in the ball."""
    below, above = torch.zeros_like(delta[:, :1]), torch.ones_like(delta[:, :1])
    whole = delta.clamp(low, high)
    for _ in range(200):
        middle = (below + above) / 2
        outside = (middle * delta).clamp(low, high).norm(dim=1, keepdim=True) > eps
        below, above = torch.where(outside, below, middle), torch.where(outside, middle, above)
    return torch.where(whole.norm(dim=1, keepdim=True) <= eps, whole, (below * delta).clamp(low, high))


@pytest.mark.parametrize("tail", [1, 10, 1000])
@pytest.mark.parametrize("dim", [4, 16])
def test_the_l2_projection_of_heavy_tailed_changes_is_exact(dim, tail):
    # In few dimensions the coordinates meet the box one after another; each leaves the others more of eps.
    generator = torch.Generator().manual_seed(dim)
    shape = (400, dim)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(shape, generator=generator) < 0.3, x.round(), x)
    cauchy, normal = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    for delta in (tail * cauchy / normal, tail * (6 * normal).exp() * cauchy.sign()):
        for eps in (0.5, 1.0, 2.0):
            ours = NORMS["L2"].project(delta, eps, -x, 1 - x)
            exact = projected_by_bisection(delta, eps, -x, 1 - x)
            torch.testing.assert_close(ours, exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("dim", "eps", "growth"), [(32, 2.0, 4.0), (64, 4.0, 2.0), (100, 5.0, 1.5)])
def test_the_l2_projection_is_exact_however_many_coordinates_meet_the_box_in_turn(dim, eps, growth):
    # Every coordinate is `growth` times the one before and has room for 0.5: (eps / 0.5)^2 of them fill up.
    delta = (growth ** torch.arange(dim, dtype=torch.float64))[None] * 1e-3
    x = torch.full((1, dim), 0.5, dtype=torch.float64)
    ours = NORMS["L2"].project(delta, eps, -x, 1 - x)
    torch.testing.assert_close(ours, projected_by_bisection(delta, eps, -x, 1 - x), rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", RADII)
def test_random_starts_go_in_all_directions_alike_and_as_far_in_each(norm):
    """Shares of one coordinate in the size of a uniform direction are Beta; of a cube, coordinates are uniform."""
    n, d = 4000, 6
    keys = noise.keys(torch.arange(n, dtype=torch.float32)[:, None], seed=0)
    drawn = NORMS[norm].sample(keys, torch.zeros(n, d, dtype=torch.float64)).numpy()
    power = {"L1": 1, "L2": 2}.get(norm)
    for place in range(d):
        own = drawn[:, place]
        assert abs(np.sign(own).mean()) < 0.06
        if power is None:
            assert stats.kstest((own + 1) / 2, "uniform").pvalue > 1e-3
            continue
        size = (np.abs(drawn) ** power).sum(1)
        share = np.abs(own) ** power / size
        assert stats.kstest(share, stats.beta(1 / power, (d - 1) / power).cdf).pvalue > 1e-3
        # How far a start lies says nothing about where.
        for side in (share, np.sign(own)):
            assert abs(stats.spearmanr(size, side).statistic) < 0.06


@pytest.mark.parametrize("norm", RADII)
def test_in_one_dimension_every_ball_is_an_interval(norm):
    keys = noise.keys(torch.arange(4000, dtype=torch.float32)[:, None], seed=0)
    drawn = NORMS[norm].sample(keys, torch.zeros(4000, 1, dtype=torch.float64))[:, 0].numpy()
    assert stats.kstest((drawn + 1) / 2, "uniform").pvalue > 1e-3


def test_coordinates_at_the_box_that_spend_the_whole_radius_leave_nothing_to_the_others():
    # In float32 the squares of the clamped coordinates can sum to a hair more than that of eps.
    for count in range(2, 30):
        for seed in range(5):
            room = 0.01 + 0.5 * float(
                torch.rand(1, generator=torch.Generator().manual_seed(40 * count + seed))
            )
            delta, high = torch.full((1, count + 1), 3 * room), torch.full((1, count + 1), room)
            delta[0, -1] = 1e-5
            projected = NORMS["L2"].project(delta, room * count**0.5, -high, high)
            torch.testing.assert_close(projected[:, :-1], high[:, :-1], rtol=1e-6, atol=0)
            assert 0 <= projected[0, -1] <= delta[0, -1]


def test_an_l1_step_moves_a_twentieth_of_the_coordinates_those_with_the_steepest_gradient():
    threat, x = rl.ThreatModel("L1", 2.0), torch.full((3, 100), 0.5)
    gradient = torch.linspace(-1.0, 0.9, 100).expand(3, 100)
    step = threat.ascend(x, gradient, 1.0) - x
    by_hand = torch.zeros(3, 100)
    by_hand[:, :5] = -0.2  # gradients from -1.0 to -0.92, beyond the 0.9 of the other end
    torch.testing.assert_close(step, by_hand)
    assert threat.default_step_size == 0.5


def test_the_box_blocks_steps_out_of_it_however_flat_the_gradient():
    x = torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    gradient = torch.tensor([[0.02, 0.01], [-0.02, -0.01]])
    step = rl.ThreatModel("L1", 1.0).ascend(x, gradient, 0.2) - x
    torch.testing.assert_close(step, torch.tensor([[0.0, 0.2], [0.0, -0.2]]))
    inwards = rl.ThreatModel("L1", 1.0).ascend(x, -gradient, 0.2) - x
    torch.testing.assert_close(inwards, torch.tensor([[-0.2, 0.0], [0.2, 0.0]]))


def test_a_box_without_an_inside_is_refused():
    with pytest.raises(ConfigError, match="low < high"):
        rl.ThreatModel("L2", 0.1, (0.5, 0.5))


def test_threats_and_norms_are_values_that_nothing_changes():
    threat = rl.ThreatModel("Linf", 0.1)
    assert {threat: 1}[rl.ThreatModel("linf", 0.1)] == 1
    for value, field in ((threat, "eps"), *((norm, "step_ratio") for norm in NORMS.values())):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field, 0.5)
