"""All figures at once: studies that lack some of what is measured today."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.made_networks import Member
from helpers.measured_more import measure_more
from helpers.report_figures import figure
from helpers.study_files import QUICKSTART, write_study
from robustlens.config import LAST, Checkpoint
from robustlens.report.data import ReportData
from robustlens.report.figures import FIGURES, figures
from robustlens.report.reading import read_study
from robustlens.results import StudyFolder
from robustlens.stats.intervals import wilson

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


def test_no_figure_gives_a_share_below_0_or_above_100_percent(tmp_path: Path) -> None:
    """Three seeds at 0, 2 and 12 %, and at 88, 98 and 100 %: Student's interval would reach beyond."""
    members = (Member("Standard", "standard", 0.0), Member("AT", "at", 0.1))
    folder = measure_more(write_study(tmp_path, members=members, n=60, seeds=3))
    for place, run in enumerate(StudyFolder(folder).runs()):
        share = wilson((880, 980, 1000, 0, 20, 120)[place], 1000)
        for other in (None, Checkpoint("epoch", 1), LAST):
            result = run.evaluation(other)
            assert result is not None
            splits = {
                name: replace(
                    split, clean=share, robust=share, by_attack=dict.fromkeys(split.by_attack, share),
                    certified={"crown": share}, arrays=dict(split.arrays),
                )
                for name, split in result.splits.items()
            }  # fmt: skip
            run.write("evaluation", replace(result, splits=splits), other)
        epochs = [one for one in run.metrics() if one.train and one.validation]
        (run.folder / "metrics.jsonl").unlink()
        for one in epochs:
            assert one.train is not None
            assert one.validation is not None
            monitored = [
                replace(part, clean=share.value, robust=share.value) for part in (one.train, one.validation)
            ]
            run.append_metrics(replace(one, train=monitored[0], validation=monitored[1]))
    beyond = {
        (drawn.name, panel.title, series.label)
        for drawn in figures(read_study(folder))
        for shown in drawn.views
        for panel in shown.panels
        for series in panel.series
        if panel.y.percent
        and not re.search("gap|rise|train - test", f"{panel.title} {panel.y.title}", re.IGNORECASE)
        if min((*series.y, *series.low)) < 0 or max((*series.y, *series.high)) > 1
    }
    assert beyond == set()
    (table, *_) = figure(read_study(folder), "certified").tables
    assert table.rows[1][1][:2] == ("4.7 (0.0 to 20.6)",) * 2
