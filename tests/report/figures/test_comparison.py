"""Comparisons with the standard network: transitions, distances, classes, against the files and by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.made_networks import Member
from helpers.measured_more import extend_explanation, made
from helpers.report_figures import figure, series
from helpers.study_files import write_study
from robustlens.claims.evidence import StudyData
from robustlens.claims.missing import Missing
from robustlens.claims.wen2020.mistakes import _standard
from robustlens.report.data import ReportData
from robustlens.report.figures.comparison import distance, matched_pairs, share, transitions
from robustlens.report.reading import read_study
from robustlens.results import StudyFolder

MEMBERS = (Member("Standard", "standard", 0.0), Member("AT", "at", 0.1), Member("AT", "at", 0.2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    return read_study(write_study(tmp_path_factory.mktemp("study"), members=MEMBERS, seeds=2, n=80))


def put_margins(data: ReportData, network: int, **arrays: np.ndarray) -> None:
    """Put arrays into the margins of every run of a network."""
    for run in data.networks[network].runs:
        extend_explanation(run.source, {"margins": made({}, arrays)})


@pytest.fixture
def by_hand(tmp_path: Path) -> ReportData:
    """Eight test images under a standard network and a robust one, which saw them in another order."""
    data = read_study(write_study(tmp_path, members=MEMBERS[:2], n=60))
    margin = np.array([0.9, 0.9, 0.9, 0.9, 0.5, -0.1, -0.5, -0.9], dtype=np.float32)
    robust = np.array([0.6, 0.1, -0.1, -0.15, -0.6, 0.2, -0.1, -0.3], dtype=np.float32)
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    put_margins(data, 0, test_index=np.arange(8), test_correct=margin > 0, test_probability=margin)
    put_margins(
        data,
        1,
        test_index=np.arange(8)[order],
        test_correct=(robust > 0)[order],
        test_probability=robust[order],
    )
    return read_study(tmp_path)


def test_transitions_are_those_worked_by_hand(by_hand: ReportData) -> None:
    counts = transitions(by_hand, by_hand.networks[1], 0.2)
    # Five were right: two stay so, two become indecisive errors, one a decisive one.
    assert counts is not None
    assert counts.tolist() == [[[2, 2, 1], [1, 0, 0], [0, 1, 1]]]
    right = np.zeros((3, 3), bool)
    right[0] = True
    lost = np.zeros((3, 3), bool)
    lost[:, 1] = True
    lost_share = share(counts, lost, right)
    assert lost_share is not None
    assert lost_share.value == pytest.approx(2 / 5)
    drawn = figure(by_hand, "became")
    titles = ("Still right", "Now an indecisive error", "Now a decisive error")
    shares = [series(drawn, title, "AT 0.1", "Its right answers, tau 0.2").y[0] for title in titles]
    assert shares == pytest.approx([2 / 5, 2 / 5, 1 / 5])
    # Of its five errors the standard network had three right.
    came = series(drawn, "Standard was right", "AT 0.1", "Where errors come from, tau 0.2")
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
    before = read_study(write_study(tmp_path, members=MEMBERS[:2], n=60))
    (margin,) = before.networks[0].arrays("margins", "test_logit")
    put_margins(before, 1, test_logit=np.roll(margin, 7) - 1.5)
    data = read_study(tmp_path)
    moved = distance(data, data.networks[1], "margins", "test_logit")
    assert moved is not None
    assert moved.value == pytest.approx(1.5, rel=1e-5)
    (table,) = figure(data, "concentration").tables
    assert table.rows[1][1][table.columns.index("test: logits")] == "1.5"
    assert set(table.rows[0][1]) == {"0"}


def test_matched_pairs_are_of_one_seed_and_one_setting(tmp_path: Path) -> None:
    folder = StudyFolder(write_study(tmp_path, members=MEMBERS[:2], seeds=2, n=60))
    record = folder.record
    runs = [
        replace(entry, setting="other" if place == 3 else "one") for place, entry in enumerate(record.runs)
    ]
    folder.write_record(replace(record, runs=tuple(runs)))
    data = read_study(tmp_path)
    counts = transitions(data, data.networks[1], 0.2)
    assert counts is not None
    assert len(counts) == 1  # the second seed has no standard network of its setting
    standard, robust = (network.arrays("margins", "test_correct")[0] for network in data.networks)
    assert counts[0, 0, 0] == (standard & robust).sum()


def test_the_standard_network_is_the_first_unperturbed_one_for_the_report_and_for_the_claims(
    tmp_path: Path,
) -> None:
    methods = ("Standard+SAM", "Smoothed", "Plain", "Plain again")
    members = [*(Member(method, "standard", 0.0) for method in methods), Member("AT", "at", 0.1)]
    folder = StudyFolder(write_study(tmp_path, members=members, n=60))
    record = folder.record
    changes = {"Standard+SAM": {"perturbation": "sam"}, "Smoothed": {"objective_options": {"smoothing": 0.1}}}
    runs = [replace(entry, **changes.get(entry.method, {})) for entry in record.runs]  # type: ignore[arg-type]
    folder.write_record(replace(record, runs=tuple(runs)))
    for left, used in ((runs, "Plain"), (runs[1:2] + runs[4:], "Smoothed"), (runs[:1] + runs[4:], None)):
        folder.write_record(replace(record, runs=tuple(left)))
        data, study = read_study(tmp_path), StudyData.of(folder)
        references = {before.label for net in data.networks for before, _ in matched_pairs(data, net)}
        assert references == ({used} if used else set())
        if used:
            assert _standard(study.runs[-1]).entry.label == used
        else:
            with pytest.raises(Missing, match="no standard network was trained beside AT"):
                _standard(study.runs[-1])
    folder.write_record(replace(record, runs=tuple(runs)))
    note = "The same test images under the standard network of the same seed and setting"
    assert figure(read_study(tmp_path), "became").note == f"{note} (Plain)."


def test_without_a_standard_network_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    data = read_study(write_study(tmp_path, members=MEMBERS[1:], n=60))
    assert figure(data, "became").views == ()
    assert figure(data, "became").tables == ()
    names = [view.name for view in figure(data, "concentration").views]
    assert "Distance to the standard network" not in names


def test_classes_have_the_shares_of_their_images(data: ReportData) -> None:
    network = data.networks[1]
    names = ("label", "correct", "probability")
    seeds = list(zip(*(network.arrays("margins", f"test_{name}") for name in names), strict=True))
    errors = series(figure(data, "by-class"), "Error", network.label, "Test images")
    close = series(figure(data, "by-class"), "Indecisive error", network.label, "Test images")
    assert len(errors.x) == 10
    for place, name in enumerate(errors.x):
        own = [
            (~correct[label == int(name)], -margin[label == int(name)]) for label, correct, margin in seeds
        ]
        assert errors.y[place] == pytest.approx(np.mean([wrong.mean() for wrong, _ in own]))
        assert close.y[place] == pytest.approx(np.mean([(w & (m < 0.2)).mean() for w, m in own]))
