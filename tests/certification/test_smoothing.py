"""Randomized smoothing against its closed form."""

import pytest
import torch
from scipy import stats
from torch import nn

import robustlens as rl
from robustlens.certification import certify
from robustlens.certification.smoothing import lower_confidence
from robustlens.errors import ConfigError


def halves(distance):
    """Class 1 where the first pixel is above 0.5; images at signed distances from there."""
    model = nn.Linear(4, 2).double()
    model.weight.data = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 0]]).double()
    model.bias.data = torch.tensor([0.5, 0.0]).double()
    x = torch.full((len(distance), 4), 0.3, dtype=torch.float64)
    x[:, 0] = 0.5 + torch.tensor(distance).double()
    return model, x


def test_the_radius_of_a_linear_classifier_is_its_distance():
    """The vote p is Phi(distance / sigma), so sigma Phi^-1(p) is the distance; the lower bound is just below it."""
    distances = (0.05, 0.2, 0.4, -0.3)
    model, x = halves(distances)
    threat = rl.ThreatModel("L2", 0.1)
    y = torch.tensor([1, 1, 1, 0])
    found = certify(model, x, y, threat, "smoothing", sigma=0.25, n0=50, n=4000, alpha=0.001)
    exact = torch.tensor(distances).abs().double()
    assert (found.radius <= exact).all()
    for radius, distance in zip(found.radius.tolist(), exact.tolist(), strict=True):
        p = stats.norm.cdf(distance / 0.25)
        lost = 6 * (p * (1 - p) / 4000) ** 0.5 / stats.norm.pdf(distance / 0.25) * 0.25
        assert radius >= distance - lost
    assert found.certified.tolist() == [False, True, True, True]
    assert found.right.tolist() == [True] * 4
    assert found.of_smoothed
    assert found.margins is None
    assert found.lower.isnan().all()


def test_where_votes_are_even_smoothing_abstains():
    model, x = halves((0.0, 0.0))
    found = certify(model, x, torch.tensor([0, 1]), rl.ThreatModel("L2", 0.0), "smoothing", n=500)
    assert not found.right.any()
    assert not found.certified.any()
    assert found.radius.tolist() == [0.0, 0.0]


def test_a_wrong_prediction_has_no_radius():
    model, x = halves((0.4,))
    found = certify(model, x, torch.tensor([0]), rl.ThreatModel("L2", 0.1), "smoothing", n=500)
    assert found.radius.tolist() == [0.0]
    assert not found.certified.any()


def test_draws_belong_to_the_image():
    model, x = halves((0.1, 0.15, 0.2))
    y, threat = torch.tensor([1, 1, 1]), rl.ThreatModel("L2", 0.1)
    together = certify(model, x, y, threat, "smoothing", n=700)
    alone = certify(model, x[1:2], y[1:2], threat, "smoothing", n=700, batch_size=512)
    other = certify(model, x, y, threat, "smoothing", n=700, seed=1)
    assert together.radius[1] == alone.radius[0]
    assert not torch.equal(together.radius, other.radius)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (9, 10), (10, 10), (990, 1000)])
def test_the_lower_bound_is_that_of_clopper_and_pearson(successes, trials):
    alpha = 0.01
    bound = lower_confidence(successes, trials, alpha)
    interval = stats.binomtest(successes, trials, alternative="greater").proportion_ci(1 - alpha, "exact")
    assert bound == pytest.approx(interval.low, abs=1e-12)
    if successes:
        assert stats.binom.sf(successes - 1, trials, bound) == pytest.approx(alpha)


def test_smoothing_takes_networks_that_no_rule_covers_and_refuses_other_norms():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 2))
    x, y = torch.rand(2, 4), torch.tensor([0, 1])
    certify(model, x, y, rl.ThreatModel("L2", 0.1), "smoothing", n=20)
    with pytest.raises(ConfigError, match="found norm Linf, expected L2"):
        certify(model, x, y, rl.ThreatModel("Linf", 0.1), "smoothing", n=20)
    with pytest.raises(ConfigError, match=r"certify\.sigma: found 0"):
        certify(model, x, y, rl.ThreatModel("L2", 0.1), "smoothing", sigma=0)
