"""The report's numbers, words and colours, against the run files."""

import json
import math
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.study_files import LAYERS, QUICKSTART, example_claims, write_study
from robustlens.report import data as collect
from robustlens.report import figures
from robustlens.report.data import Interval, ReportData, combined
from robustlens.report.drawing import matplotlib as files
from robustlens.report.drawing import palette
from robustlens.report.drawing import plotly as plotly_json
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, View, aligned, thinned
from robustlens.report.text import headline
from robustlens.report.text import summary as prose


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), claims=example_claims())


@pytest.fixture(scope="module")
def study(study_folder: Path) -> ReportData:
    return collect.study(study_folder)


def evaluation_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "evaluation.json").read_text())


def figure(study: ReportData, name: str) -> Figure:
    return next(found for found in figures.figures(study) if found.name == name)


def series(figure: Figure, panel: str, label: str, view: int = 0) -> Series:
    panels = {found.title: found for found in figure.views[view].panels}
    return next(s for s in panels[panel].series if s.label == label and s.mark != "thread")


# -- one look per network --------------------------------------------------------------------------


def test_every_colour_stands_out_from_its_page() -> None:
    networks = [(method, eps) for method in palette.HUES for eps in (0.05, 0.1, 0.2, 0.4)]
    for style in palette.styles(networks):
        assert palette.contrast(style.light, "#ffffff") >= 3
        assert palette.contrast(style.dark, "#1b1f25") >= 3


def test_methods_differ_in_colour_and_marker_and_strengths_in_lightness_and_dash() -> None:
    single = palette.styles([(method, 0.1) for method in palette.HUES])
    for one, other in combinations(single, 2):
        assert math.dist(palette.oklab(one.light), palette.oklab(other.light)) > 0.04
        assert one.symbol != other.symbol
    strengths = palette.styles([("AT", eps) for eps in (0.05, 0.1, 0.2)])
    assert [style.dash for style in strengths] == ["dot", "dash", "solid"]
    assert len({style.symbol for style in strengths}) == 1
    for weak, strong in pairwise(strengths):
        assert palette.oklab(weak.light)[0] > palette.oklab(strong.light)[0] + 0.05
        assert palette.oklab(weak.dark)[0] < palette.oklab(strong.dark)[0] - 0.05


def test_a_known_method_keeps_its_colour_in_another_study_and_a_new_one_gets_a_free_colour() -> None:
    (alone,) = palette.styles([("TRADES", 0.1)])
    mine, trades, other = palette.styles([("Mine", 0.1), ("TRADES", 0.1), ("Other", 0.1)])
    assert trades == alone
    assert len({mine.light, trades.light, other.light}) == 3


def test_the_same_style_reaches_the_table_the_plots_and_the_drawings(study: ReportData) -> None:
    group = study.groups[1]
    panel = figure(study, "robust-accuracy").views[0].panels[0]
    trace = next(t for t in plotly_json.panel_json(panel, study.groups)["data"] if t["name"] == group.label)
    assert headline.headline(study).rows[1].group.style is group.style
    drawing = files.drawings(figure(study, "robust-accuracy"), View("", (panel,)), study.groups)
    assert trace["meta"]["of"] == [1]
    assert group.style.light in drawing["svg"].decode()


# -- numbers ---------------------------------------------------------------------------------------


def test_seeds_are_combined_as_the_page_says() -> None:
    assert combined([Interval(0.5, 0.4, 0.6), None]) == Interval(0.5, 0.4, 0.6)
    assert combined([Interval(0.25), Interval(0.75)]) == Interval(0.5, 0.25, 0.75)
    three = combined([Interval(0.1), Interval(0.2), Interval(0.3)])
    assert three is not None
    assert three.low is not None
    assert three.value == pytest.approx(0.2)
    # Student's quantile with two degrees of freedom is 4.302653; the standard error is 0.1 / sqrt(3).
    assert three.low == pytest.approx(0.2 - 4.302652730 * 0.1 / math.sqrt(3), abs=1e-9)
    assert combined([None]) is None


def test_three_seeds_make_one_row_with_their_mean(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=3, members=QUICKSTART[:2], n=60)
    study = collect.study(folder)
    table = headline.headline(study)
    assert [row.group.label for row in table.rows] == ["Standard", "AT 0.05"]
    values = [evaluation_of(folder, f"at-0.05-s{seed}")["gaps"]["robust"]["value"] for seed in range(3)]
    cell = table.rows[1].cells["gap:robust"]
    assert cell.value == pytest.approx(np.mean(values))
    assert table.rows[1].cells["seeds"].text == "0, 1, 2"
    assert "3 seeds each" in prose.summary(study)[0]
    band = series(figure(study, "training"), "Validation images", "AT 0.05")
    logged = [[e["validation"]["robust"] for e in record.metrics] for record in study.groups[1].records]
    assert band.y == pytest.approx(np.mean(logged, axis=0))
    assert band.low == pytest.approx(np.min(logged, axis=0))


def test_the_accuracy_curve_is_that_of_the_evaluation(study: ReportData, study_folder: Path) -> None:
    curve = evaluation_of(study_folder, "trades-0.1-s0")["splits"]["test"]["curve"]
    line = series(figure(study, "robust-accuracy"), "Test images", "TRADES 0.1")
    for name, drawn in (("eps", line.x), ("value", line.y), ("low", line.low), ("high", line.high)):
        assert list(drawn) == [point[name] for point in curve]


def test_indecisive_errors_equal_those_of_the_explanation(study: ReportData) -> None:
    found = figure(study, "indecisive")
    for group in study.groups:
        (wanted,) = group.measured("margins", "test", "indecisive_errors")
        (share,) = group.measured("margins", "test", "indecisive_share")
        everything = series(found, "Among all images", group.label)
        of_errors = series(found, "Among the errors", group.label)
        for tau, value in wanted.items():
            place = int(np.argmin(np.abs(np.array(everything.x, dtype=float) - float(tau))))
            assert everything.x[place] == pytest.approx(float(tau))
            assert everything.y[place] == pytest.approx(value)
            assert of_errors.y[place] == pytest.approx(share[tau])


def test_the_landscape_is_the_mean_over_images_with_the_range_over_directions(study: ReportData) -> None:
    group = study.groups[2]
    (loss,) = group.arrays("landscape/test_loss")
    by_draw = loss.astype(np.float64).mean(2)
    line = series(figure(study, "landscape"), "Adversarial loss", group.label)
    assert line.y == pytest.approx(by_draw.mean(1))
    assert line.high == pytest.approx(by_draw.max(1))
    rise = series(figure(study, "landscape"), "Adversarial loss", group.label, view=1)
    assert rise.y == pytest.approx((by_draw - by_draw[len(by_draw) // 2]).mean(1))


def test_spectra_are_sorted_keep_both_ends_and_divide_by_the_mean_of_all_values(study: ReportData) -> None:
    group = study.groups[0]
    (values,) = group.arrays("spectrum/conv3")
    found = figure(study, "spectrum")
    view = [view.name for view in found.views].index("conv3")
    raw = series(found, "Singular values", group.label, view)
    scaled = series(found, "Divided by their mean", group.label, view)
    assert raw.y[0] == values.max()
    assert raw.y[-1] == max(values.min(), 1e-6 * values.max())
    assert list(raw.y) == sorted(raw.y, reverse=True)
    assert np.array(scaled.y) * values.mean() == pytest.approx(np.array(raw.y))
    assert [view.name for view in found.views] == list(LAYERS)


def test_margin_curves_are_empirical_distributions_of_the_margins(study: ReportData) -> None:
    (margins,) = study.groups[3].arrays("margins/test_logit")
    line = series(figure(study, "margins"), "Test images", study.groups[3].label)
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(margins <= x))


def test_confidence_histograms_count_wrong_images_only_where_they_say_so(study: ReportData) -> None:
    group = study.groups[3]
    (confidence,), (correct,) = group.arrays("margins/test_confidence"), group.arrays("margins/test_correct")
    bars = series(figure(study, "confidence"), "Test images", group.label, view=1)
    lower = np.array(bars.x, dtype=float)
    wanted = [np.mean((confidence[~correct] >= a) & (confidence[~correct] < b)) for a, b in pairwise(lower)]
    assert bars.y[:-1] == pytest.approx(wanted)
    assert bars.y[-1] == 0


def test_the_line_of_a_method_starts_at_the_standard_network(study: ReportData) -> None:
    panel = next(p for p in figure(study, "strength").views[0].panels if p.title.startswith("Robust acc"))
    threads = [s for s in panel.series if s.mark == "thread"]
    assert [s.label for s in threads] == ["AT"]
    assert threads[0].x == (0.0, 0.05, 0.1, 0.2)
    standard = next(s for s in panel.series if s.label == "Standard")
    assert threads[0].y[0] == standard.y[0]


def test_networks_of_one_strength_are_drawn_beside_one_another_but_keep_their_strength(
    study: ReportData,
) -> None:
    panel = figure(study, "strength").views[0].panels[0]
    at_one_tenth = [s for s in panel.series if s.mark == "points" and s.x == (0.1,)]
    assert len({s.drawn_x() for s in at_one_tenth}) == 3
    assert {row["x"] for row in figure(study, "strength").rows() if row["label"] == "AT+AWP 0.1"} == {0.1}


def test_the_dot_of_a_training_curve_is_the_last_best_epoch(study: ReportData) -> None:
    panel = figure(study, "training").views[0].panels[0]
    dots = {s.label: s for s in panel.series if s.mark == "points"}
    for group in study.groups[1:]:
        best = [e for e in group.records[0].metrics if e["best"]][-1]
        assert dots[group.label].x == (best["epoch"],)
        assert dots[group.label].y == (best["validation"]["robust"],)


def test_best_and_last_stand_side_by_side_where_both_were_evaluated(tmp_path: Path) -> None:
    folder = write_study(tmp_path, n=60)
    (logged,) = figure(collect.study(folder), "checkpoints").views
    group = next(group for group in collect.study(folder).groups if group.eps > 0)
    for record in group.records:
        last = json.loads(json.dumps(record.evaluation))
        last["gaps"]["robust"] = {"value": 0.3, "low": 0.2, "high": 0.4}
        record.run.write_json("evaluation-last", last)
    found = figure(collect.study(folder), "checkpoints")
    assert found.views[1] == logged
    assert {line.label for panel in found.views[0].panels for line in panel.series} == {group.label}
    gap = series(found, "Robust gap", group.label)
    best = group.interval("gaps", "robust")
    assert best is not None
    assert gap.x == ("best", "last")
    assert gap.y == pytest.approx((best.value, 0.3))


def test_best_and_last_are_reported_as_logged_where_the_last_was_not_evaluated(study: ReportData) -> None:
    (logged,) = figure(study, "checkpoints").views
    clean, robust, _ = logged.panels
    assert "Standard" in {line.label for line in clean.series}
    assert "Standard" not in {line.label for line in robust.series}
    group = next(group for group in study.groups if group.eps > 0)
    (metrics,) = [record.metrics for record in group.records]
    best = [epoch for epoch in metrics if epoch["best"]][-1]
    line = next(line for line in robust.series if line.label == group.label)
    assert line.y == pytest.approx((best["validation"]["robust"], metrics[-1]["validation"]["robust"]))


def test_training_at_eps_0_has_no_robust_curve(study: ReportData) -> None:
    robust, clean, _ = figure(study, "training").views
    assert "Standard" not in {s.label for s in robust.panels[0].series}
    assert "Standard" in {s.label for s in clean.panels[0].series}


def test_panels_that_share_an_axis_share_its_range() -> None:
    def panel(title: str, y: str, values: tuple[float, ...]) -> Panel:
        return Panel(title, Axis("x"), Axis(y), (Series("A", (0.0, 1.0), values),))

    one, other, third = aligned([panel("1", "y", (0, 1)), panel("2", "y", (4, 5)), panel("3", "z", (9, 9.5))])
    assert one.y.range == other.y.range == pytest.approx((-0.2, 5.2))
    assert third.y.range is None


def test_long_series_are_thinned_but_keep_their_ends() -> None:
    kept = thinned(10_000)
    assert len(kept) <= 240
    assert (kept[0], kept[-1]) == (0, 9_999)
    assert list(thinned(3)) == [0, 1, 2]


def test_a_larger_study_still_makes_a_small_page(study: ReportData) -> None:
    many = study.groups * 6
    large = ReportData("large", study.folder, many)
    points = sum(len(row) for found in figures.figures(large) for row in found.rows())
    assert points < 7 * sum(len(row) for found in figures.figures(study) for row in found.rows())


# -- words -----------------------------------------------------------------------------------------


def test_the_summary_is_written_from_the_data(study: ReportData) -> None:
    text = " ".join(prose.summary(study))
    assert text.startswith("6 networks (Standard, AT 0.05, AT 0.1, AT 0.2, TRADES 0.1 and AT+AWP 0.1)")
    assert "fashion-mnist-10k" in text
    assert "one seed each" in text
    assert "200 test and 200 training images within Linf eps = 0.1 by FGSM, PGD-20 and CW-20" in text
    assert "1 is supported, 1 is not supported and 1 is inconclusive" in text


def test_a_claim_shows_its_effect_statistic_and_values(study: ReportData) -> None:
    (wen, first), (_, last) = prose.claims_by_paper(study)
    assert wen == "Wen et al. 2020"
    effect, statistic = first[0]["facts"]
    assert (effect.name, statistic.name) == ("Strongest minus standard", "Spearman over strengths")
    assert effect.text == "\N{MINUS SIGN}12.5 points [\N{MINUS SIGN}18, \N{MINUS SIGN}7]"
    assert 0 < effect.bar["low"] < effect.bar["value"] < effect.bar["high"] < 50  # zero is in the middle
    assert (50 - effect.bar["low"]) / (50 - effect.bar["high"]) == pytest.approx(18 / 7)
    assert [fact.name for fact in first[1]["facts"]] == ["Strongest minus standard"]
    assert [dot.label for dot in last[0]["dots"]] == ["Standard", "AT 0.05", "AT 0.1", "AT 0.2"]
    assert [dot.places for dot in last[0]["dots"]][::3] == [(100.0,), (0.0,)]


def test_an_unknown_verdict_never_reads_as_support() -> None:
    assert prose.verdict({"verdict": "hooray"}) == "inconclusive"
    assert prose.verdict({}) == "inconclusive"
