"""Quantities of Wen et al. on values worked by hand, plain, at matched temperature and under noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.claim_data import N, Net, write
from helpers.explained_networks import explained
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.wen2020 import quantities
from robustlens.results import StudyFolder
from robustlens.results.explanation import leaves_batch_norm_out, log_gain
from robustlens.stats.bootstrap import Bootstrap, Unusable


def measured(folder, arrays=None, **knobs) -> RunData:
    """A run with these knobs and arrays, as claims read it."""
    write(folder, [Net(knobs=knobs, arrays=arrays or {})])
    return StudyData.of(StudyFolder(folder), Bootstrap(10)).runs[0]


def test_the_ramp_gap_by_hand(tmp_path):
    test, train = np.zeros(N, dtype=np.float32), np.zeros(N, dtype=np.float32)
    test[:100], test[100:200], train[:100], train[100:200] = -0.7, 0.25, 0.5, 1.0
    run = measured(tmp_path, {"margins/test_probability": test, "margins/train_probability": train})
    # Test risk: 300 images of 1 and 100 of 0.75; training risk: 200 of 1, 100 of 0.5, 100 of 0.
    assert quantities.ramp_gap(run).value() == pytest.approx((300 + 75) / N - (200 + 50) / N)


def test_the_spread_of_margins_is_divided_by_the_product_of_the_gains(tmp_path):
    margin = np.where(np.arange(N) % 2, 3.0, -1.0).astype(np.float32)
    run = measured(tmp_path, {"margins/test_logit": margin})
    # Its std is 2; eight layers have a largest singular value of 2.
    assert quantities.normalised_spread(run).value() == pytest.approx(2 / 2**8)


def with_spectrum(folder, layers):
    """A run with these numbers of each layer's singular values."""
    run = measured(folder).run
    result = run.explanation()
    spectrum = replace(result.measures["spectrum"], value={"layers": layers})
    run.write("explanation", replace(result, measures={**result.measures, "spectrum": spectrum}))
    return StudyData.of(StudyFolder(folder)).runs[0]


def test_gains_below_one_enlarge_the_spread_and_one_of_zero_leaves_none(tmp_path):
    run = with_spectrum(tmp_path / "small", {"a": {"max": 0.5}, "b": {"max": 0.25}})
    plain = float(quantities.margin_spread(run).value())
    # Logit margins are four times the probability margins here.
    assert quantities.normalised_spread(run).value() == pytest.approx(4 * plain / (0.5 * 0.25))
    for name, layers in (("zero", {"a": {"max": 0.0}, "b": {"max": 2.0}}), ("none", {})):
        with pytest.raises(Unusable, match="without a largest singular value above zero"):
            quantities.normalised_spread(with_spectrum(tmp_path / name, layers))


def with_batch_norm(scale):
    """A network with a BatchNorm; the same function whatever the scale of the weights before it."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.Flatten()
    network = nn.Sequential(*layers, nn.Linear(64, 3)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
        network[1].running_var.fill_(4.0).mul_(scale**2)
        network[0].weight.mul_(scale)
    return network


def circular_matrix(weight):
    """The matrix of a 3x3 convolution on a map of 4x4 that is closed to a ring."""
    maps = nn.functional.pad(torch.eye(16).view(16, 1, 4, 4), (1, 1, 1, 1), mode="circular")
    return nn.functional.conv2d(maps, weight).flatten(1).T


def test_gains_are_those_of_layers_with_their_batch_norm(tmp_path):
    """The weights before a BatchNorm may have any scale: the function, and the number, stay the same."""
    with torch.no_grad():
        conv, norm, _, _, last = with_batch_norm(1.0)
        weight = conv.weight * (norm.weight / 2).view(-1, 1, 1, 1)
        gains = [float(torch.linalg.matrix_norm(each, 2)) for each in (circular_matrix(weight), last.weight)]
    for scale in (1.0, 10.0):
        measures = {"margins": {}, "spectrum": {"batch_norm": "fold"}}
        run = explained(with_batch_norm(scale), tmp_path / str(scale), measures)
        _, (margin,) = run.measured("margins", "test_index", "test_logit")
        expected = margin.std() / np.prod(gains)
        assert quantities.normalised_spread(run).value() == pytest.approx(expected, rel=1e-4)


def test_a_spectrum_without_the_batch_norms_gives_no_normalised_margin(tmp_path):
    run = explained(with_batch_norm(1.0), tmp_path, {"margins": {}, "spectrum": {}})
    with pytest.raises(Unusable, match=r"has BatchNorm, .* measure spectrum with batch_norm: fold"):
        quantities.normalised_spread(run)


class Repeated(nn.Module):
    """A layer that runs three times in a pass, and a BatchNorm, twice, behind which no layer can take it in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = nn.Linear(16, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.norm, self.last = nn.BatchNorm1d(8, eps=0.0), nn.Linear(8, 3)
        nn.init.uniform_(self.norm.weight, 1.0, 3.0)

    def forward(self, x):
        x = self.first(x.flatten(1)).relu()
        for _ in range(3):
            x = self.middle(x).relu()
        return self.last(nn.functional.gelu(self.norm(nn.functional.gelu(self.norm(x)))))


@pytest.mark.parametrize("batch_norm", ["apart", "fold"])
def test_a_layer_that_runs_again_and_a_batch_norm_that_is_in_none_have_their_gains(tmp_path, batch_norm):
    network = Repeated().eval()
    first, middle, last = (
        float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
        for layer in (network.first, network.middle, network.last)
    )
    factor = float(network.norm.weight.detach().max())
    run = explained(network, tmp_path, {"margins": {}, "spectrum": {"batch_norm": batch_norm}})
    _, (margin,) = run.measured("margins", "test_index", "test_logit")
    expected = margin.std() / (first * middle**3 * factor**2 * last)
    assert quantities.normalised_spread(run).value() == pytest.approx(expected, rel=1e-4)


def test_a_spectrum_of_an_older_version_is_read_as_it_was(tmp_path):
    """Which says neither how often a layer runs nor which BatchNorms are in none."""
    network = Repeated().eval()
    run = explained(network, tmp_path, {"margins": {}, "spectrum": {"batch_norm": "fold"}}).run
    result = run.explanation()
    spectrum = result.measures["spectrum"]
    older = {key: value for key, value in spectrum.value.items() if key not in ("calls", "unfolded")}
    assert leaves_batch_norm_out(replace(spectrum, value=older))
    largest = {name: spectrum.number("layers", name, "max") for name in ("first", "middle", "last")}
    some_folded = {**older, "folded": {"first": {"max": 2.0}}}
    expected = math.log(2.0 * largest["middle"] * largest["last"])
    assert log_gain(replace(spectrum, value=some_folded)) == pytest.approx(expected)


def test_a_spread_needs_a_layer_of_two_singular_values(tmp_path):
    run = with_spectrum(tmp_path, {"one": {"std": 0.0, "count": 1}})
    with pytest.raises(Unusable, match="has no layer with two singular values or more"):
        quantities.spectrum_spread(run)


def test_thirty_errors_are_enough(tmp_path):
    def of(errors):
        arrays = {
            "margins/test_correct": np.arange(N) >= errors,
            "margins/test_probability": np.full(N, -0.1),
        }
        return measured(tmp_path / str(errors), arrays)

    assert quantities.indecisive_share(of(30)).value() == pytest.approx(1.0)
    with pytest.raises(Unusable, match="makes 29 errors; at least 30 are needed"):
        quantities.indecisive_share(of(29))


def test_without_gains_there_is_no_normalised_margin(tmp_path):
    folder = measured(tmp_path).run
    result = folder.explanation()
    assert result is not None
    spectrum = result.measures["spectrum"]
    layers = {**spectrum.at("layers"), "layer0": {"max": None, "std": 1.0}}
    changed = replace(spectrum, value={"layers": layers})
    folder.write("explanation", replace(result, measures={**result.measures, "spectrum": changed}))
    run = StudyData.of(StudyFolder(tmp_path)).runs[0]
    with pytest.raises(Unusable, match="without a largest singular value"):
        quantities.normalised_spread(run)


def test_layers_with_one_singular_value_have_no_spread(tmp_path):
    folder = measured(tmp_path).run
    result = folder.explanation()
    assert result is not None
    layers = {"one": {"std": 0.0, "count": 1}, "two": {"std": 0.5, "count": 2}, "older": {"std": 0.25}}
    changed = replace(result.measures["spectrum"], value={"layers": layers})
    folder.write("explanation", replace(result, measures={"spectrum": changed}))
    spread = quantities.spectrum_spread(StudyData.of(StudyFolder(tmp_path)).runs[0])
    assert spread.layers == ("two", "older")
    assert spread.value().tolist() == [0.5, 0.25]


def test_features_change_under_noise_as_well(tmp_path):
    run = measured(tmp_path, feature=0.4)
    attack, noise = (quantities.feature_change(run, moved=moved) for moved in ("attack", "noise"))
    np.testing.assert_allclose(attack.value(), [0.4 * layer for layer in range(1, 9)], rtol=1e-5)
    np.testing.assert_allclose(noise.value(), [0.04 * layer for layer in range(1, 9)], rtol=1e-5)
    assert attack.conditions == "eps 0.1, 10 steps"


def test_indecisive_errors_by_hand(tmp_path):
    # Margins from -0.5 to 0.5 in 399 steps: the 200 below zero are errors, and of these the ones from number
    # 120 on (-0.5 + 120 / 399 = -0.199) lie within 0.2 of the boundary: 80 images.
    margin = np.linspace(-0.5, 0.5, N).astype(np.float32)
    arrays = {"margins/test_probability": margin, "margins/test_correct": margin > 0}
    run = measured(tmp_path, arrays)
    assert quantities.indecisive_rate(run).value() == pytest.approx(80 / 400)
    assert quantities.indecisive_share(run).value() == pytest.approx(80 / 200)
    # As many right images lie within 0.2 of the boundary.
    assert quantities.near_boundary(run).value() == pytest.approx(160 / 400)


def test_matched_quantities_read_what_was_measured_at_matched_temperature(tmp_path):
    far, near = np.full(N, 0.9, np.float32), np.full(N, 0.9, np.float32)
    near[:100] = 0.15
    arrays = {
        "margins/test_probability": far,
        "margins/test_matched_probability": near,
        "margins/train_matched_probability": far,
    }
    run = measured(tmp_path, arrays, confidence=0.9, cooled=0.1)
    assert quantities.confidence(run).value() == pytest.approx(0.9)
    assert quantities.confidence(run, matched=True).value() == pytest.approx(0.5 + 0.1)
    assert quantities.near_boundary(run).value() == 0
    assert quantities.near_boundary(run, matched=True).value() == pytest.approx(100 / 400)
    # A quarter of the images is 0.75 further from the boundary in training.
    assert quantities.margin_distance(run, matched=True).value() == pytest.approx(0.75 / 4)
    assert quantities.ramp_gap(run, matched=True).value() == pytest.approx(0.75 / 4)
    assert quantities.loss_gap(run, matched=True).value() == pytest.approx(0.1)


@pytest.mark.parametrize(("error", "taken"), [(0.004, True), (0.006, False), (None, False)])
def test_a_spread_that_is_estimated_is_taken_where_its_error_is_small(tmp_path, error, taken):
    folder = measured(tmp_path).run
    result = folder.explanation()
    assert result is not None
    layers = {"small": {"std": 0.25, "count": 9}, "large": {"std": 0.5, "count": 9, "error": {"std": error}}}
    changed = replace(result.measures["spectrum"], value={"layers": layers})
    folder.write("explanation", replace(result, measures={"spectrum": changed}))
    run = StudyData.of(StudyFolder(tmp_path)).runs[0]
    if taken:
        spread = quantities.spectrum_spread(run)
        assert spread.value().tolist() == [0.25, 0.5]
        assert spread.conditions == "feature map, circular borders, large by density"
        assert spread.caveat == "operator: feature map, circular borders"
    else:
        with pytest.raises(Unusable, match="large are known by their density"):
            quantities.spectrum_spread(run)
