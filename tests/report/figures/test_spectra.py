"""Figures of singular values, against the arrays that they are drawn from."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.made_networks import LAYERS
from helpers.report_figures import figure, series
from robustlens.report.data import ReportData


def test_spectra_are_sorted_keep_both_ends_and_divide_by_the_mean_of_all_values(study: ReportData) -> None:
    network = study.networks[0]
    (values,) = network.arrays("spectrum", "conv3")
    drawn = figure(study, "spectrum")
    raw = series(drawn, "Singular values", network.label, "conv3")
    scaled = series(drawn, "Divided by their mean", network.label, "conv3")
    assert raw.y[0] == values.max()
    assert raw.y[-1] == max(values.min(), 1e-6 * values.max())
    assert list(raw.y) == sorted(raw.y, reverse=True)
    assert np.array(scaled.y) * values.mean() == pytest.approx(np.array(raw.y))
    assert [view.name for view in drawn.views] == list(LAYERS)


@pytest.mark.parametrize(
    ("name", "measure"), [("spectrum-spread", "spectrum"), ("activation-spread", "activations")]
)
def test_spreads_are_drawn_through_the_layers_and_against_strength(
    study: ReportData, name: str, measure: str
) -> None:
    drawn, network = figure(study, name), study.networks[3]
    assert [view.name for view in drawn.views] == ["Every layer", *LAYERS]
    panels = [panel.title for panel in drawn.views[0].panels]
    through = series(drawn, panels[0], network.label)
    (layers,) = network.measured(measure, "layers")
    assert through.x == tuple(LAYERS)
    assert through.y == pytest.approx([layers[layer]["std"] for layer in LAYERS])
    at_strength = series(drawn, panels[0], network.label, "conv2")
    assert (at_strength.x, at_strength.y) == ((0.2,), (layers["conv2"]["std"],))


def test_layers_known_by_their_density_are_named_with_their_error(study: ReportData) -> None:
    network = study.networks[0]
    run = network.runs[0]
    assert run.explanation is not None
    spectrum = run.explanation.measures["spectrum"]
    layers = {**spectrum.at("layers")}
    layers["conv1"] = {**layers["conv1"], "error": {"std": 0.002 * layers["conv1"]["std"]}}
    measures = {**run.explanation.measures, "spectrum": replace(spectrum, value={"layers": layers})}
    changed = replace(run, explanation=replace(run.explanation, measures=measures))
    data = replace(study, networks=(replace(network, runs=(changed,)), *study.networks[1:]))
    for name in ("spectrum", "spectrum-spread"):
        assert "conv1 (std to 0.2 %)" in figure(data, name).note
        assert "all their values" not in figure(study, name).note


def test_a_layer_of_zeros_has_no_curve_and_is_named(study: ReportData) -> None:
    """Pruned networks have such layers, and branches that begin at zero."""
    network = study.networks[0]
    run = network.runs[0]
    assert run.explanation is not None
    spectrum = run.explanation.measures["spectrum"]
    arrays = {**spectrum.arrays, "conv2": np.zeros_like(spectrum.arrays["conv2"])}
    measures = {**run.explanation.measures, "spectrum": replace(spectrum, arrays=arrays)}
    changed = replace(run, explanation=replace(run.explanation, measures=measures))
    alone = replace(study, networks=(replace(network, runs=(changed,)),))
    among = replace(study, networks=(*alone.networks, *study.networks[1:]))
    note = f"All values are zero, and not drawn: conv2 of {network.label}."
    assert "conv2" not in [view.name for view in figure(alone, "spectrum").views]
    drawn = figure(among, "spectrum")
    (panel, _) = next(view.panels for view in drawn.views if view.name == "conv2")
    assert [line.label for line in panel.series] == [other.label for other in study.networks[1:]]
    assert note in drawn.note
    assert note in figure(alone, "spectrum").note
