"""All figures at once: studies that lack some of what is measured today."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.report_figures import figure
from helpers.study_files import QUICKSTART, write_study
from robustlens.report.data import ReportData
from robustlens.report.figures import FIGURES, figures
from robustlens.report.reading import read_study

LATER = ("matched", "label", "attack/", "noise/", "attack_input", "noise_input", "loss")
"""Parts of the names of arrays that the first studies had not."""


def of_before(folder: Path) -> ReportData:
    """The study without arrays and layers that came later."""
    for run in read_study(folder).runs:
        assert run.explanation is not None
        measures = dict(run.explanation.measures)
        for name, measurement in measures.items():
            arrays = {
                key: measurement.arrays[key]
                for key in measurement.arrays
                if not any(part in key for part in LATER)
            }
            measures[name] = replace(measurement, arrays=arrays)
        value: Mapping[str, Any] = measures["smoothness"].value
        without = {key: numbers for key, numbers in value.items() if key != "layers"}
        measures["smoothness"] = replace(measures["smoothness"], value=without)
        run.source.write("explanation", replace(run.explanation, measures=measures))
    return read_study(folder)


def test_studies_of_before_have_the_figures_that_they_had(tmp_path: Path) -> None:
    data = of_before(write_study(tmp_path, members=QUICKSTART[:3], n=60))
    assert figure(data, "by-class").views == ()
    assert figure(data, "feature-change").views == ()
    for name in ("margins", "confidence", "indecisive", "smoothness", "concentration", "became"):
        titles = [view.name for view in figure(data, name).views]
        assert titles
        assert not any("matched" in title for title in titles)


def test_every_figure_has_a_name_of_its_own(study: ReportData) -> None:
    assert len({drawn.name for drawn in figures(study)}) == len(FIGURES)
