"""Norms of activations in every reading, on values worked by hand, and the readings as second looks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import explained_networks
from helpers.claim_data import LAYERS, N, Net, sweep, write
from helpers.claim_stories import check_one, story
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.wen2020 import activations
from robustlens.results import StudyFolder
from robustlens.stats.bootstrap import Bootstrap, Unusable

NAME = "activation-spread-falls"


def measured(folder, arrays, **knobs) -> RunData:
    """A run with these arrays, as claims read it."""
    write(folder, [Net(knobs=knobs, arrays=arrays)])
    return StudyData.of(StudyFolder(folder), Bootstrap(10)).runs[0]


def two_levels(low: float, high: float, every: int = 2) -> np.ndarray:
    """`low` for one image of so many, `high` for the others; labels are the place modulo 4."""
    return np.where(np.arange(N) % every, high, low).astype(np.float32)


def test_the_readings_by_hand(tmp_path):
    first = two_levels(1.0, 3.0)  # of classes 0 and 2, and of 1 and 3: all of the variance is between classes
    arrays = {
        "activations/post-activation/layer0": first,
        "activations/pre-activation/layer0": two_levels(2.0, 10.0),
        "activations/train/post-activation/layer0": two_levels(0.0, 4.0),
        "activations/layer0.input": two_levels(1.0, 1.5),
        "activations/logits": two_levels(4.0, 5.0),
    }
    run = measured(tmp_path, arrays)

    def of_first(**how) -> float:
        quantity = activations.spread(run, **how)
        assert len(quantity.layers) == len(LAYERS)
        return float(quantity.value()[0])

    assert of_first() == pytest.approx(1.0)
    assert of_first(relative=True) == pytest.approx(0.5)
    assert of_first(within=True) == pytest.approx(0.0, abs=1e-6)
    assert of_first(of=activations.PRE) == pytest.approx(4.0)
    assert of_first(split="train") == pytest.approx(2.0)
    assert of_first(of=activations.READ) == pytest.approx(0.25)
    assert activations.spread_of_logits(run).value() == pytest.approx(0.5)


def test_variance_within_classes_is_what_the_classes_leave(tmp_path):
    halves = np.where(np.arange(N) < N // 2, 1.0, 3.0).astype(np.float32)  # half of each class
    run = measured(tmp_path, {"activations/post-activation/layer0": halves})
    within = activations.spread(run, within=True)
    assert within.value()[0] == pytest.approx(1.0)
    relative = activations.spread(run, within=True, relative=True)
    assert relative.value()[0] == pytest.approx(0.5)


def test_gains_are_multiplied_up_to_the_layer(tmp_path):
    run = measured(tmp_path, {}, gain=2.0)
    plain, scaled = activations.spread(run).value(), activations.spread_at_unit_gains(run).value()
    np.testing.assert_allclose(scaled, plain / 2.0 ** np.arange(1, 9), rtol=1e-6)
    zero = measured(tmp_path / "zero", {}, gain=0.0)
    with pytest.raises(Unusable, match="no largest singular value above zero of layer layer0"):
        activations.spread_at_unit_gains(zero)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"calls": {"layer3": 2}}, "runs layer3 2 times in a pass"),
        ({"unfolded": ["norm"]}, "has BatchNorm norm"),
    ],
)
def test_no_gains_lead_up_to_a_layer_where_their_order_is_not_known(tmp_path, made, why):
    run = measured(tmp_path, {}, gain=2.0)
    result = run.run.explanation()
    spectrum = result.measures["spectrum"]
    spectrum = replace(spectrum, value={**spectrum.value, **made}, arrays=dict(spectrum.arrays))
    run.run.write("explanation", replace(result, measures={**result.measures, "spectrum": spectrum}))
    again = StudyData.of(StudyFolder(tmp_path), Bootstrap(10)).runs[0]
    with pytest.raises(Unusable, match=why):
        activations.spread_at_unit_gains(again)


class Backwards(nn.Module):
    """Twelve layers without biases; those that are called last have the first names."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(16, 16 if place else 3, bias=False) for place in range(12)]
        for place, layer in enumerate(layers):
            nn.init.orthogonal_(layer.weight, gain=1 + 0.3 * place)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        x = x.flatten(1)
        for layer in reversed(self.layers[1:]):
            x = torch.relu(layer(x))
        return self.layers[0](x)


def test_layers_come_in_the_order_of_their_calls_whatever_their_names(tmp_path):
    torch.manual_seed(0)
    network = Backwards().eval()
    run = explained_networks.explained(network, tmp_path, {"activations": {}, "spectrum": {}})
    called = [f"layers.{place}" for place in range(11, -1, -1)]
    assert run.layers("activations", activations.PRE) == called
    assert run.layers("activations", f"train/{activations.PRE}") == called
    assert run.layers("activations", activations.POST) == called[:-1]
    assert run.layers("activations") == [*(f"{name}.input" for name in called[1:]), "logits"]
    with torch.no_grad():
        for layer in network.layers:
            layer.weight /= torch.linalg.matrix_norm(layer.weight, 2)
        x = explained_networks.pixels().flatten(1) / 255
        spreads = []
        for layer in reversed(network.layers[1:]):
            x = torch.relu(layer(x))
            spreads.append(float(x.norm(dim=1).std(unbiased=False)))
    scaled = activations.spread_at_unit_gains(run)
    assert scaled.layers == tuple(called[:-1])
    np.testing.assert_allclose(scaled.value(), spreads, rtol=1e-4)


def test_logits_are_no_activation_of_a_layer(tmp_path):
    same = {
        "activations/post-activation/layer7": two_levels(4.0, 5.0),
        "activations/logits": two_levels(4.0, 5.0),
    }
    run = measured(tmp_path, same)
    assert activations.spread(run).layers == LAYERS[:7]
    assert "logits" not in activations.spread(run, of=activations.READ).layers
    every = {f"activations/post-activation/{name}": two_levels(4.0, 5.0) for name in LAYERS}
    with pytest.raises(Unusable, match="no layer before the logits"):
        activations.spread(measured(tmp_path / "all", same | every))


def test_a_raw_spread_that_grows_with_the_scale_alone_is_told_from_one_that_varies_more(tmp_path):
    nets = sweep({0.0: {"variation": 0.5}, 0.1: {"variation": 0.4, "norm": 30.0, "gain": 1.5}})
    claim = check_one(tmp_path, NAME, nets)
    assert claim.verdict == "opposite"
    # 0.4 * 30 against 0.5 * 10 is 2.4 times as much.
    assert claim.effect.value == pytest.approx(140.0, rel=1e-4)
    goes = "goes the other way, -20 % in the median layer"
    assert f"second look: std over mean {goes} (it is the scale" in claim.note
    assert f"second look: std over mean of W x + b {goes}" in claim.note
    assert "second look: std of W x + b (pre-activation): +140 %" in claim.note
    # By 1.5 in each layer up to it: 2.4 / 1.5^4.5 in the middle of eight layers, the mean of 1.5^4 and 1.5^5.
    middle = 2.4 * (1.5**-4 + 1.5**-5) / 2 - 1
    assert f"kernels up to the layer goes the other way, {100 * middle:+.3g} %" in claim.note


def test_readings_that_were_not_measured_say_so(tmp_path):
    drop = tuple(f"activations/train/post-activation/{name}" for name in LAYERS)
    claim = check_one(tmp_path, NAME, [replace(net, drop=drop) for net in story(NAME, "holds")])
    assert claim.verdict == "as claimed"
    assert "std on training images: not measured" in claim.note


def test_networks_without_activation_outputs_leave_it_untested(tmp_path):
    drop = tuple(f"activations/post-activation/{name}" for name in LAYERS)
    claim = check_one(tmp_path, NAME, [replace(net, drop=drop) for net in story(NAME, "holds")])
    assert claim.verdict == "untested"
    assert "has no activations/post-activation" in claim.why
