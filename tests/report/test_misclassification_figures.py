"""Figures and tables that compare each network with the standard one, against the files and by hand."""

from pathlib import Path

import numpy as np
import pytest

from helpers.made_networks import LAYERS, Member
from helpers.study_files import write_study
from robustlens.report import data as collect
from robustlens.report import figures
from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Figure, Series
from robustlens.report.figures.comparison import distance, share, transitions
from robustlens.results.folders import read_json, write_json

MEMBERS = (Member("Standard", "standard", 0.0), Member("AT", "at", 0.1), Member("AT", "at", 0.2))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return collect.study(write_study(tmp_path_factory.mktemp("study"), members=MEMBERS, seeds=2, n=80))


def figure(study: ReportData, name: str) -> Figure:
    draw = next(draw for draw in figures.FIGURES if draw.__name__ == name.replace("-", "_"))
    return draw(study)


def series(figure: Figure, view: str, panel: str, label: str) -> Series:
    (chosen,) = (found for found in figure.views if found.name == view)
    (found,) = (found for found in chosen.panels if found.title == panel)
    return next(line for line in found.series if line.label == label and line.mark != "thread")


def rewrite(study: ReportData, group: int, **arrays: np.ndarray) -> None:
    """Put arrays into the explanation of every run of a group."""
    for record in study.groups[group].records:
        kept = {key: record.run.array("explanation", key) for key in record.run.array_names("explanation")}
        record.run.write_arrays(
            "explanation", kept | {f"margins/{key}": array for key, array in arrays.items()}
        )


@pytest.fixture
def by_hand(tmp_path: Path) -> ReportData:
    """Eight test images under a standard network and a robust one, which saw them in another order."""
    found = collect.study(write_study(tmp_path, members=MEMBERS[:2], n=60))
    margin = np.array([0.9, 0.9, 0.9, 0.9, 0.5, -0.1, -0.5, -0.9], dtype=np.float32)
    robust = np.array([0.6, 0.1, -0.1, -0.15, -0.6, 0.2, -0.1, -0.3], dtype=np.float32)
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    rewrite(found, 0, test_index=np.arange(8), test_correct=margin > 0, test_probability=margin)
    rewrite(
        found,
        1,
        test_index=np.arange(8)[order],
        test_correct=(robust > 0)[order],
        test_probability=robust[order],
    )
    return collect.study(tmp_path)


def test_transitions_are_those_worked_by_hand(by_hand: ReportData) -> None:
    counts = transitions(by_hand, by_hand.groups[1], 0.2)
    # Five were right: two stay so, two become indecisive errors, one a decisive one.
    assert counts is not None
    assert counts.tolist() == [[[2, 2, 1], [1, 0, 0], [0, 1, 1]]]
    right = np.zeros((3, 3), bool)
    right[0] = True
    lost = np.zeros((3, 3), bool)
    lost[:, 1] = True
    found = share(counts, lost, right)
    assert found is not None
    assert found.value == pytest.approx(2 / 5)
    drawn = figure(by_hand, "became")
    view = "Its right answers, tau 0.2"
    shares = [series(drawn, view, title, "AT 0.1").y[0] for title in (
        "Still right", "Now an indecisive error", "Now a decisive error")]  # fmt: skip
    assert shares == pytest.approx([2 / 5, 2 / 5, 1 / 5])
    # Of its five errors the standard network had three right.
    came = series(drawn, "Where errors come from, tau 0.2", "Standard was right", "AT 0.1")
    assert came.y == pytest.approx((3 / 5,))


def test_the_table_of_transitions_says_the_same_in_percent_of_all_images(by_hand: ReportData) -> None:
    (table,) = figure(by_hand, "became").tables
    assert table.columns[:3] == ("right to right", "right to indecisive", "right to decisive")
    label, cells = table.rows[1]
    assert label == "AT 0.1"
    assert cells == ("25.0", "25.0", "12.5", "12.5", "0.0", "0.0", "0.0", "12.5", "12.5")
    # The standard network is its own reference.
    assert table.rows[0] == ("Standard", ("62.5", *["0.0"] * 3, "12.5", *["0.0"] * 3, "25.0"))


def test_the_distance_to_the_standard_network_is_the_shift_of_its_margins(tmp_path: Path) -> None:
    found = collect.study(write_study(tmp_path, members=MEMBERS[:2], n=60))
    (margin,) = found.groups[0].arrays("margins/test_logit")
    rewrite(found, 1, test_logit=np.roll(margin, 7) - 1.5)
    again = collect.study(tmp_path)
    moved = distance(again, again.groups[1], "margins/test_logit")
    assert moved is not None
    assert moved.value == pytest.approx(1.5, rel=1e-5)
    (table,) = figure(again, "concentration").tables
    assert table.rows[1][1][table.columns.index("test: logits")] == "1.5"
    assert set(table.rows[0][1]) == {"0"}


def test_twins_are_of_one_seed_and_one_setting(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=MEMBERS[:2], seeds=2, n=60)
    content = read_json(folder / "study.json")
    for place, entry in enumerate(content["runs"]):
        entry["setting"] = "other" if place == 3 else "one"
    write_json(folder / "study.json", content)
    study = collect.study(folder)
    counts = transitions(study, study.groups[1], 0.2)
    assert counts is not None
    assert len(counts) == 1  # the second seed has no standard twin of its setting
    standard, robust = (group.records[0] for group in study.groups)
    both = standard.array("margins/test_correct") & robust.array("margins/test_correct")
    assert counts[0, 0, 0] == both.sum()


def test_without_a_standard_network_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    study = collect.study(write_study(tmp_path, members=MEMBERS[1:], n=60))
    assert figure(study, "became").views == ()
    assert figure(study, "became").tables == ()
    assert "Distance to the standard network" not in [
        view.name for view in figure(study, "concentration").views
    ]


def test_classes_have_the_shares_of_their_images(study: ReportData) -> None:
    group = study.groups[1]
    names = ("label", "correct", "probability")
    seeds = list(zip(*(group.arrays(f"margins/test_{name}") for name in names), strict=True))
    errors = series(figure(study, "by-class"), "Test images", "Error", group.label)
    close = series(figure(study, "by-class"), "Test images", "Indecisive error", group.label)
    assert len(errors.x) == 10
    for place, name in enumerate(errors.x):
        own = [
            (~correct[label == int(name)], -margin[label == int(name)]) for label, correct, margin in seeds
        ]
        assert errors.y[place] == pytest.approx(np.mean([wrong.mean() for wrong, _ in own]))
        assert close.y[place] == pytest.approx(np.mean([(w & (m < 0.2)).mean() for w, m in own]))


@pytest.mark.parametrize(
    ("panel", "of"),
    [
        ("Within 0.2 of the boundary", lambda m: np.mean(np.abs(m) < 0.2)),
        ("Standard deviation", np.std),
        ("Interquartile range", lambda m: np.subtract(*np.quantile(m, [0.75, 0.25]))),
    ],
)
@pytest.mark.parametrize("view", ["Probability margin", "Probability margin at matched temperature"])
def test_concentration_is_a_mean_over_seeds(study: ReportData, view: str, panel: str, of) -> None:
    key = "matched_probability" if "matched" in view else "probability"
    for group in study.groups:
        expected = np.mean([of(margin.astype(float)) for margin in group.arrays(f"margins/test_{key}")])
        found = series(figure(study, "concentration"), view, panel, group.label)
        assert found.y == pytest.approx((expected,))


def test_normalised_margins_are_divided_by_the_product_of_the_largest_singular_values(
    study: ReportData,
) -> None:
    group = study.groups[2]
    expected = []
    for record in group.records:
        largest = [record.run.array("explanation", f"spectrum/{layer}").max() for layer in LAYERS]
        expected.append(record.run.array("explanation", "margins/test_logit") / np.prod(largest))
    every = np.concatenate(expected)
    line = series(figure(study, "margins"), "Normalised margin, cumulative", "Test images", group.label)
    assert min(line.x) > 0
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(every <= x * (1 + 1e-9)), abs=1e-6)


def test_features_are_drawn_through_the_network_and_image_by_image(study: ReportData) -> None:
    group, found = study.groups[1], figure(study, "feature-change")
    assert [view.name for view in found.views] == ["Every layer", "Every layer, amplification", *LAYERS]
    changes = group.arrays("smoothness/noise/conv2")
    depth = series(found, "Every layer", "Under random noise", group.label)
    assert depth.x == tuple(LAYERS)
    assert depth.y[depth.x.index("conv2")] == pytest.approx(np.mean([c.mean() for c in changes]), rel=1e-5)
    line = series(found, "conv2", "Under random noise", group.label)
    pooled = np.concatenate(changes)
    assert line.x[-1] == pytest.approx(pooled.max())
    for x, y in zip(line.x, line.y, strict=True):
        assert y == pytest.approx(np.mean(pooled <= x))
    gain = series(found, "Every layer, amplification", "Under the attack", group.label)
    assert gain.y[0] == pytest.approx(
        series(found, "Every layer", "Under the attack", group.label).y[0] / 0.15
    )


def test_studies_of_before_have_the_figures_that_they_had(tmp_path: Path) -> None:
    folder = write_study(tmp_path, members=MEMBERS, n=60)
    for run in (folder / "runs").iterdir():
        source = collect.single(run).records[0].run
        keys = [
            key
            for key in source.array_names("explanation")
            if not any(word in key for word in ("matched", "label", "/attack", "/noise", "loss"))
        ]
        source.write_arrays("explanation", {key: source.array("explanation", key) for key in keys})
        content = read_json(run / "explanation.json")
        del content["measures"]["smoothness"]["value"]["layers"]
        write_json(run / "explanation.json", content)
    study = collect.study(folder)
    assert figure(study, "by-class").views == ()
    assert figure(study, "feature-change").views == ()
    for name in ("margins", "confidence", "indecisive", "smoothness", "concentration", "became"):
        titles = [view.name for view in figure(study, name).views]
        assert titles
        assert not any("matched" in title for title in titles)
