"""Figures of margins, against the arrays that they are drawn from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.made_networks import LAYERS, Member
from helpers.report_figures import figure, series
from helpers.study_files import write_study
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.results import Run

MEMBERS = (Member("Standard", "standard", 0.0), Member("AT", "at", 0.1), Member("AT", "at", 0.2))


def test_margin_curves_are_empirical_distributions_of_the_margins(study: ReportData) -> None:
    (margins,) = study.networks[3].arrays("margins", "test_logit")
    line = series(figure(study, "margins"), "Test images", study.networks[3].label)
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(margins <= x))


def test_the_third_plot_is_the_difference_of_quantiles(study: ReportData) -> None:
    network = study.networks[1]
    train, test = (network.arrays("margins", f"{split}_logit")[0] for split in ("train", "test"))
    line = series(figure(study, "margins"), "Training minus test", network.label)
    middle = line.x.index(0.5)
    assert line.y[middle] == pytest.approx(np.median(train) - np.median(test), rel=1e-5)


def test_normalised_margins_are_divided_by_the_product_of_the_largest_singular_values(tmp_path: Path) -> None:
    data = read_study(write_study(tmp_path, members=MEMBERS, seeds=2, n=80))
    network = data.networks[2]
    normalised = []
    for run in network.runs:
        assert run.explanation is not None
        measures = run.explanation.measures
        largest = [measures["spectrum"].arrays[layer].max() for layer in LAYERS]
        normalised.append(measures["margins"].arrays["test_logit"] / np.prod(largest))
    every = np.concatenate(normalised)
    line = series(figure(data, "margins"), "Test images", network.label, "Normalised margin, cumulative")
    assert min(map(float, line.x)) > 0
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(every <= float(x) * (1 + 1e-9)), abs=1e-6)


def add_to_spectrum(run: Run, **values: object) -> None:
    """Write more numbers into a run's measure `spectrum`."""
    result = run.explanation()
    assert result is not None
    spectrum = result.measures["spectrum"]
    changed = replace(spectrum, value={**spectrum.value, **values}, arrays=dict(spectrum.arrays))
    run.write("explanation", replace(result, measures={**result.measures, "spectrum": changed}))


def test_normalised_margins_take_layers_with_their_batch_norm_or_say_that_they_are_not_known(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path, members=MEMBERS, seeds=1, n=80)
    first = next(iter(LAYERS))
    plain, folded, apart = read_study(folder).networks
    view, panel = "Normalised margin, cumulative", "Test images"
    before = series(figure(read_study(folder), "margins"), panel, folded.label, view)
    largest = folded.runs[0].number("spectrum", "layers", first, "max")
    assert largest is not None
    add_to_spectrum(folded.runs[0].source, scales={"norm": {"max": 3.0}}, folded={first: {"max": 0.5}})
    add_to_spectrum(apart.runs[0].source, scales={"norm": {"max": 3.0}}, folded={})
    drawn = figure(read_study(folder), "margins")
    after = series(drawn, panel, folded.label, view)
    assert np.array(after.x) == pytest.approx(np.array(before.x) * largest.value / 0.5)
    shown = next(one for one in drawn.views if one.name == view).panels[0].series
    assert [line.label for line in shown] == [plain.label, folded.label]
    assert f"batch_norm: fold}}`, which was not measured of {apart.label}." in drawn.note
