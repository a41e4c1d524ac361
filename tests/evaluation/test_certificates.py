"""Certified images beside attacked ones: kept, resumed, and never both certified and broken."""

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.relu_networks import data, network
from robustlens.certification import CERTIFIERS, METHODS, BoundedNetwork
from robustlens.config import EvaluationPlan, checked
from robustlens.errors import ConfigError, ModelError, NumericsError, StateError, StoppedError

THREAT = rl.ThreatModel("Linf", 0.02)


def images(n=40):
    x, _ = data(n)
    with torch.no_grad():
        y = network()(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3  # clean mistakes
    return x, y


def evaluated(**settings):
    x, y = images()
    return rl.evaluate(network(), x, y, THREAT, ["pgd-20"], flags=False, **settings)


def test_certified_images_are_robust_under_attack():
    found = evaluated(certify="crown")
    assert 0 < int(found.certified.sum()) < 40
    assert not (found.certified & ~found.robust).any()
    assert found.lower[:3].isnan().all()
    assert (found.certified == (found.lower > 0)).all()
    alone = rl.certify(network(), *images(), THREAT, "crown").lower
    torch.testing.assert_close(found.lower[3:], alone[3:], atol=1e-3, rtol=0)
    assert (found.lower[3:] <= alone[3:]).all(), "the radius has the attacks' tolerance added"
    result = found.result()
    assert list(result.certified) == ["crown"]
    assert (
        result.certified["crown"].value
        == found.interval("certified").value
        == found.certified.double().mean()
    )
    assert result.certified["crown"].value <= result.robust.value
    assert result.arrays["certified"].tolist() == found.certified.tolist()
    assert result.arrays["certified_margin"].shape == (40,)


def test_nothing_is_certified_unless_asked_for():
    found = evaluated()
    assert found.certified is None
    assert found.result().certified == {}
    assert "certified" not in found.result().arrays


def test_certificates_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    whole = evaluated(certify="crown").lower

    def stop(event):
        if event.phase == "certify crown":
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        evaluated(certify="crown", state=tmp_path, progress=stop)
    bounded, margins = [], BoundedNetwork.margins

    def counted(self, x, y, eps):
        bounded.append(len(x))
        return margins(self, x, y, eps)

    monkeypatch.setattr(BoundedNetwork, "margins", counted)
    again = evaluated(certify="crown", state=tmp_path).lower
    assert sum(bounded) == 37 - 16
    assert torch.equal(again.nan_to_num(7.0), whole.nan_to_num(7.0))
    with pytest.raises(StateError, match="belong to another method"):
        evaluated(certify="ibp", state=tmp_path)


def test_an_image_that_is_certified_and_broken_is_reported(monkeypatch):
    def claims_all(self, x, y, eps):
        return torch.ones(len(x), 3, dtype=torch.float64)

    monkeypatch.setattr(BoundedNetwork, "margins", claims_all)
    x, y = images()
    with pytest.raises(
        NumericsError, match=r"certified by 'ibp' and broken by an attack, image \d+ by 'pgd-20'"
    ):
        rl.evaluate(network(), x, y, rl.ThreatModel("Linf", 0.3), ["pgd-20"], flags=False, certify="ibp")


def test_what_cannot_be_certified_is_refused_before_the_first_attack():
    heard = []
    x, y = images()
    model = nn.Sequential(nn.Linear(6, 3), nn.SiLU())
    with pytest.raises(ModelError, match="SiLU"):
        rl.evaluate(model, x, y, THREAT, ["pgd-20"], certify="crown", progress=heard.append)
    with pytest.raises(
        ConfigError, match="found 'smoothing', expected one of ibp, crown-ibp, crown; it certifies"
    ):
        rl.evaluate(model, x, y, THREAT, ["pgd-20"], certify="smoothing", progress=heard.append)
    assert heard == []


def test_a_plan_takes_the_methods_that_bound_the_network_itself():
    for method in METHODS:
        assert method in CERTIFIERS
        assert checked(EvaluationPlan, {"certify": method}, "evaluation").certify == method
    assert EvaluationPlan().certify is None
    with pytest.raises(ConfigError, match="certify"):
        checked(EvaluationPlan, {"certify": "smoothing"}, "evaluation")
