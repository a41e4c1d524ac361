"""Studies too large for a line each: plots draw groups of networks, and smaller studies stay as they are."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.made_networks import Member
from helpers.measured_more import measure_more
from helpers.report_figures import figure, series
from helpers.study_files import write_study
from robustlens.report.data import ReportData
from robustlens.report.drawing.matplotlib import drawings
from robustlens.report.figures import figures
from robustlens.report.groups import MOST, caption, grouped
from robustlens.report.page import rendering
from robustlens.report.reading import read_study
from robustlens.report.text import attacks
from robustlens.report.text.effects import effects
from robustlens.report.text.headline import headline
from robustlens.stats.intervals import share_over_seeds

STRENGTHS = (0.05, 0.1, 0.2)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Sixty methods: one standard, 30 of adversarial training and 29 of TRADES."""
    others = [Member(f"Method {n}", ("at", "trades")[n % 2], STRENGTHS[n % 3]) for n in range(59)]
    members = [Member("Standard", "standard", 0.0), *others]
    return read_study(write_study(tmp_path_factory.mktemp("large"), members=members, n=60, epochs=2))


def test_groups_are_networks_of_one_objective_and_strength(large: ReportData) -> None:
    groups = grouped(large).networks
    assert [group.label for group in groups][:2] == ["Standard, 1 network", "AT 0.05, 10 networks"]
    assert {group.label.split(",")[0] for group in groups} == {
        "Standard", *(f"{name} {eps:g}" for name in ("AT", "TRADES") for eps in STRENGTHS)
    }  # fmt: skip
    names = [run.name for group in groups for run in group.runs]
    assert sorted(names) == sorted(run.name for run in large.runs)
    assert len({(group.style.light, group.style.dash) for group in groups}) == len(groups)


def test_plots_draw_the_mean_of_a_group_with_its_interval(large: ReportData) -> None:
    groups = grouped(large)
    at = next(group for group in groups.networks if group.label.startswith("AT 0.1"))
    stds = [
        run.explanation.measures["spectrum"].number("layers", "conv2", "std") or 0.0
        for run in at.runs
        if run.explanation
    ]
    drawn = series(figure(groups, "spectrum-spread"), "std of the singular values", at.label, "conv2")
    assert drawn.y == pytest.approx((np.mean(stds),))
    half = 2.262 * np.std(stds, ddof=1) / len(stds) ** 0.5
    assert drawn.high[0] - drawn.y[0] == pytest.approx(half, rel=1e-3)
    assert len(figure(groups, "training").labels()) <= len(groups.networks)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Three networks of three seeds each, and a standard one."""
    names = ("A", "B", "C")
    members = [Member("Standard", "standard", 0.0), *(Member(name, "at", 0.1) for name in names)]
    folder = write_study(tmp_path_factory.mktemp("seeded"), members=members, seeds=3, n=60, epochs=2)
    return read_study(measure_more(folder))


def test_seeds_are_no_networks_in_a_group(seeded: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's intervals are over its networks, each the mean of its seeds."""
    monkeypatch.setattr("robustlens.report.groups.MOST", 3)
    groups = grouped(seeded)
    standard, at = groups.networks
    assert (standard.label, at.label) == ("Standard, 1 network", "AT 0.1, 3 networks")
    members = [network for network in seeded.networks if network.label != "Standard"]

    own, drawn = ({one.name: one for one in figures(data)} for data in (seeded, groups))
    for name, title in (
        ("strength", "Robust accuracy, test"), ("strength", "Robust gap"), ("concentration", "Standard deviation"),
        ("checkpoints", "Robust accuracy, test"), ("became", "Still right"), ("smoothness", "Mean change"),
        ("spectrum-spread", "std of the singular values"), ("along-training", "Robust accuracy, test"),
    ):  # fmt: skip
        shown = series(drawn[name], title, at.label)
        values = np.array([series(own[name], title, network.label).y for network in members])
        half = 4.303 * values.std(axis=0, ddof=1) / 3**0.5
        assert shown.y == pytest.approx(values.mean(axis=0), abs=0.01), (name, title)
        assert np.all(np.array(shown.high) >= values.mean(axis=0) + half - 0.01), (name, title)
    assert effects(groups).basis.endswith("means of 1 and 3 networks.")
    by_network = [lines for lines in attacks.by_network(seeded, "test") if lines.network in members]
    of_group = attacks.by_network(groups, "test")[1].lines[-1].right
    assert of_group == share_over_seeds(one.lines[-1].right for one in by_network)


def test_the_page_says_that_it_draws_groups_and_keeps_every_network_in_the_table(large: ReportData) -> None:
    groups = grouped(large)
    drawn = [figure(groups, name) for name in ("robust-accuracy", "spectrum")]
    html = rendering.page(large, drawn, headline(large))
    assert "The plots draw 7 groups in place of 60 networks" in html
    assert html.count("Its recipe is in recipe.json of its folder.") == 60
    assert html.count('class="chip" type="button" aria-pressed') == 7
    assert all(f"Method {n}<" in html or f"Method {n} " in html for n in range(59))
    found = re.search(r'id="report-data">(.*?)</script>', html, re.DOTALL)
    assert found
    embedded = json.loads(found[1])
    assert len(embedded["styles"]) == 7
    for views in embedded["figures"].values():
        for panel in (panel for view in views for panel in view["panels"]):
            assert all(max(trace["meta"]["of"]) < 7 for trace in panel["data"])


def test_more_groups_than_lines_are_put_together_further(
    large: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustlens.report.groups.MOST", 5)
    assert [group.label for group in grouped(large).networks] == [
        "Standard, 1 network", "AT, 30 networks", "TRADES, 29 networks"
    ]  # fmt: skip
    monkeypatch.setattr("robustlens.report.groups.MOST", 2)
    assert [group.label for group in grouped(large).networks] == ["All, 60 networks"]


def test_below_fifty_networks_nothing_changes(study: ReportData, large: ReportData) -> None:
    few = ReportData("few", large.networks[:MOST])
    assert grouped(few) is few
    assert grouped(study) is study
    assert caption(few) == caption(study) == ""
    assert caption(ReportData("more", large.networks[: MOST + 1])) != ""


def test_many_networks_are_drawn_for_papers_only_where_someone_asks(
    large: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def recorded(*given: Any) -> dict[str, bytes]:
        asked.append(given[-1])
        return {}

    monkeypatch.setattr(rendering, "drawings", recorded)
    monkeypatch.setattr(rendering, "MOST", 2)
    few, more = (ReportData("some", large.networks[:count]) for count in (2, 3))
    for data, formats in ((more, None), (few, None), (more, ["svg"])):
        rendering._write(data, tmp_path, formats)
    assert list(dict.fromkeys(asked)) == [(), ("pdf", "svg", "png"), ("svg",)]


def test_a_legend_of_fifty_networks_leaves_room_for_the_plot(large: ReportData) -> None:
    """Warnings are errors here: matplotlib gives up a layout in which the axes have no room."""
    few = ReportData("few", large.networks[:MOST])
    flatness = figure(few, "flatness-gap")
    assert drawings(flatness, flatness.views[0], few.networks, ["svg"])["svg"]
