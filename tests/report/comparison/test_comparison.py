"""Two runs side by side: pairing image by image, what is not compared, and the files."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.study_files import write_study
from robustlens.config import BEST, LAST
from robustlens.errors import StateError
from robustlens.report import compare, write_comparison
from robustlens.report.comparison.page import html
from robustlens.report.comparison.text import rows, sentences
from robustlens.results import (
    EvaluationResult,
    ExplanationResult,
    Flag,
    Measurement,
    Provenance,
    Run,
    SplitResult,
    ThreatRecord,
)
from robustlens.stats.intervals import difference, mean_of, wilson
from robustlens.stats.paired import PairedCounts

RIGHT_A = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
RIGHT_B = np.array([1, 1, 1, 1, 1, 0, 1, 1, 1, 0], dtype=bool)
ROBUST_A = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
ROBUST_B = np.array([1, 1, 0, 1, 1, 0, 1, 0, 0, 0], dtype=bool)


def split_of(clean: np.ndarray, robust: np.ndarray, index: np.ndarray, **more: object) -> SplitResult:
    n, loss = len(clean), np.where(clean, 0.25, 1.5)
    arrays = {"labels": index % 3, "clean": clean, "robust": robust, "pgd-20": robust, "loss": loss}
    values: dict = {
        "n": n,
        "clean": wilson(int(clean.sum()), n),
        "robust": wilson(int(robust.sum()), n),
        "loss": mean_of(loss),
        "by_attack": {"pgd-20": wilson(int(robust.sum()), n)},
        "arrays": {**arrays, "index": index},
    }
    return SplitResult(**{**values, **more})


def evaluated(folder: Path, clean: np.ndarray, robust: np.ndarray, **more: object) -> Path:
    """A folder as `evaluate --out` writes it."""
    index = np.asarray(more.pop("index", np.arange(len(clean))))
    data = str(more.pop("data", "images"))
    split = split_of(clean, robust, index, **dict(more.pop("split", {})))  # type: ignore[call-overload]
    values: dict = {
        "provenance": Provenance(None, "w", data, BEST, {}),
        "threat": ThreatRecord("Linf", 0.1),
        "attacks": ("pgd-20",),
        "splits": {"test": split},
        "gaps": {},
    }
    Run(folder).write("evaluation", EvaluationResult(**{**values, **more}))
    return folder


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return evaluated(tmp_path / "a", RIGHT_A, ROBUST_A)


# -- paired ----------------------------------------------------------------------------------------


def test_the_table_counts_images_that_both_one_or_neither_has_right(a: Path, tmp_path: Path) -> None:
    (part,) = compare(Run(a), evaluated(tmp_path / "b", RIGHT_B, ROBUST_B)).accuracy
    clean, robust, loss = part.changes
    assert (part.images, part.paired, part.shared) == ("test", True, 10)
    assert clean.counts == PairedCounts(both=5, only_a=1, only_b=3, neither=1)
    assert robust.counts == PairedCounts(both=2, only_a=1, only_b=3, neither=4)
    assert (clean.a.value, clean.b.value, clean.difference.value) == pytest.approx((0.6, 0.8, 0.2))
    assert robust.quantity == "robust accuracy, PGD-20"
    assert loss.counts is None
    assert loss.difference.value == pytest.approx(
        -0.25
    )  # 4 right, 1.25 nats apart each, of 10: (1 - 3) * 1.25 / 10


def test_images_are_matched_by_their_place_in_the_data(a: Path, tmp_path: Path) -> None:
    """The same evaluation in another order and with other images beside it gives no difference at all."""
    order = np.random.default_rng(0).permutation(10)
    index = np.concatenate([np.arange(10)[order], [20, 21]])
    right = np.concatenate([RIGHT_A[order], [True, True]])
    b = evaluated(tmp_path / "b", right, np.concatenate([ROBUST_A[order], [True, True]]), index=index)
    comparison = compare(a, b)
    (part,) = comparison.accuracy
    assert (part.n_a, part.n_b, part.shared) == (10, 12, 10)
    assert [change.difference.value for change in part.changes] == [0, 0, 0]
    assert part.changes[0].counts == PairedCounts(6, 0, 0, 4)
    assert any(
        "of the 10 images that both were evaluated on, of 10 and 12" in note for note in comparison.notes
    )


def test_a_run_compared_with_itself_differs_in_nothing(a: Path) -> None:
    comparison = compare(a, a)
    assert {change.difference.value for change in comparison.accuracy[0].changes} == {0.0}
    assert "not told apart" in sentences(comparison)[0]


# -- not paired ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"data": "others"}, "the two data sets are not the same files"),
        ({"index": np.arange(100, 110)}, "no image is in both evaluations"),
        (
            {"split": {"arrays": {"clean": RIGHT_B, "pgd-20": ROBUST_B, "loss": np.ones(10)}}},
            "does not say which images",
        ),
    ],
)
def test_other_images_are_compared_as_independent_samples(
    a: Path, tmp_path: Path, more: dict, why: str
) -> None:
    comparison = compare(a, evaluated(tmp_path / "b", RIGHT_B, ROBUST_B, **more))
    (part,) = comparison.accuracy
    clean = part.changes[0]
    expected = difference(wilson(8, 10), wilson(6, 10))
    assert not part.paired
    assert why in part.why
    assert any(part.why in note and "not image by image" in note for note in comparison.notes)
    assert (clean.difference.low, clean.difference.high) == (expected.low, expected.high)
    assert clean.counts is None
    assert clean.difference.p is None


def test_labels_that_differ_on_the_same_images_are_not_paired(a: Path, tmp_path: Path) -> None:
    b = evaluated(tmp_path / "b", RIGHT_B, ROBUST_B)
    split = split_of(RIGHT_B, ROBUST_B, np.arange(10))
    changed = {**split.arrays, "labels": np.zeros(10, dtype=np.int64)}
    evaluated(b, RIGHT_B, ROBUST_B, split={"arrays": changed})
    assert compare(a, b).accuracy[0].why == "the labels of the same images differ"


def test_unlike_threats_are_not_compared_in_robustness(a: Path, tmp_path: Path) -> None:
    b = evaluated(tmp_path / "b", RIGHT_B, ROBUST_B, threat=ThreatRecord("L2", 0.5))
    comparison = compare(a, b)
    assert [change.quantity for change in comparison.accuracy[0].changes] == [
        "clean accuracy",
        "clean cross entropy",
    ]
    assert any("under Linf eps = 0.1 and L2 eps = 0.5" in note for note in comparison.notes)


def test_unlike_attacks_are_compared_as_a_whole_with_a_warning(a: Path, tmp_path: Path) -> None:
    split = split_of(RIGHT_B, ROBUST_B, np.arange(10))
    more = {"arrays": {**split.arrays, "fgsm": RIGHT_B}}
    b = evaluated(tmp_path / "b", RIGHT_B, ROBUST_B, attacks=("fgsm", "pgd-20"), split=more)
    comparison = compare(a, b)
    quantities = [change.quantity for change in comparison.accuracy[0].changes]
    assert quantities == ["clean accuracy", "robust accuracy, every attack of each", "clean cross entropy"]
    assert any("weaker attacks make a network look more robust" in note for note in comparison.notes)


def test_flags_of_either_are_named(a: Path, tmp_path: Path) -> None:
    flag = Flag("softmax", "rows sum to one")
    b = evaluated(tmp_path / "b", RIGHT_B, ROBUST_B, split={"flags": (flag,)})
    assert any(note.startswith("b: reliability flags softmax") for note in compare(a, b).notes)


# -- recipes, gaps and measures --------------------------------------------------------------------


def test_runs_of_a_study_differ_in_their_recipes_gaps_and_measures(study_folder: Path) -> None:
    runs = study_folder / "runs"
    comparison = compare(runs / "at-0.1-s0", runs / "at-awp-0.1-s0")
    fields = {one.field: (one.a, one.b) for one in comparison.recipe}
    assert fields["awp.gamma"] == (None, "0.01")
    assert "awp" not in fields
    assert [part.images for part in comparison.accuracy] == ["test", "training"]
    assert all(part.paired for part in comparison.accuracy)
    test, train = comparison.accuracy
    robust = next(gap for gap in comparison.gaps if gap.quantity == "robust gap")
    expected = train.changes[-2].difference.value - test.changes[-2].difference.value
    assert robust.difference.value == pytest.approx(expected)
    confidence = comparison.measures["margins"][0]
    stored = [Run(runs / name).explanation() for name in ("at-0.1-s0", "at-awp-0.1-s0")]
    values = [one.measures["margins"].number("test", "confidence") for one in stored if one]
    assert (confidence.a.value, confidence.b.value) == pytest.approx(values, abs=1e-6)
    assert confidence.difference.p is not None


def test_measures_of_unlike_checkpoints_are_not_compared(a: Path, tmp_path: Path) -> None:
    """One was explained at its best checkpoint, the other at its last: two networks of one training differ."""
    b = evaluated(tmp_path / "b", RIGHT_A, ROBUST_A)
    measurement = Measurement({"test_accuracy": 0.5, "mean": 0.5}, "", "what it is", "", {})
    for folder, checkpoint in ((a, BEST), (b, LAST)):
        provenance = Provenance(None, "w", "images", checkpoint, {})
        result = ExplanationResult(provenance, ThreatRecord("Linf", 0.1), {"margins": measurement})
        Run(folder).write("explanation", result)
    comparison = compare(a, b)
    assert comparison.measures == {}
    said = (
        "Measures are not compared: they are of unlike checkpoints, the best one of a and the last one of b."
    )
    assert said in comparison.notes


def test_measures_under_other_conditions_are_named_and_left_out(tmp_path: Path) -> None:
    folders = []
    for name, eps in (("a", 0.1), ("b", 0.2)):
        threat = ThreatRecord("Linf", eps)
        smooth = Measurement({"mean_margin_change": 1.0}, "", "", "", {"eps": eps})
        jacobian = Measurement({"mean_largest": 2.0 + 10 * eps}, "", "", "", {"examples": 4})
        result = ExplanationResult(
            Provenance(None, "w", "images", BEST, {}), threat, {"smoothness": smooth, "jacobian": jacobian}
        )
        Run(tmp_path / name).write("explanation", result)
        folders.append(tmp_path / name)
    comparison = compare(*folders)
    assert list(comparison.measures) == ["jacobian"]
    (change,) = comparison.measures["jacobian"]
    assert (change.a.value, change.b.value, change.difference.value) == (3.0, 4.0, 1.0)
    assert change.difference.low is None
    assert any(note.startswith("smoothness: measured under other conditions") for note in comparison.notes)


# -- files and refusals ----------------------------------------------------------------------------


def test_the_files_hold_the_same_numbers(a: Path, tmp_path: Path) -> None:
    b = evaluated(tmp_path / "b", RIGHT_B, ROBUST_B)
    page = write_comparison(a, b, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (clean, *_) = document["accuracy"][0]["changes"]
    assert clean["counts"] == {"both": 5, "only_a": 1, "only_b": 3, "neither": 1}
    assert clean["difference"]["value"] == pytest.approx(0.2)
    (row, *_) = rows(compare(a, b).accuracy[0].changes)
    assert row.difference in page.read_text()
    assert row.counts == ("5", "1", "3", "1")
    assert str(tmp_path) not in page.read_text()  # a page travels to other machines


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    nasty = evaluated(tmp_path / "<img onerror=x>", RIGHT_A, ROBUST_A)
    page = html(compare(nasty, evaluated(tmp_path / "b", RIGHT_B, ROBUST_B)))
    assert "<img" not in page
    assert "&lt;img onerror=x&gt;" in page


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "x" / "run", RIGHT_A, ROBUST_A)
    other = evaluated(tmp_path / "y" / "run", RIGHT_B, ROBUST_B)
    comparison = compare(one, other)
    assert (comparison.a.name, comparison.b.name) == ("x/run", "y/run")


def test_what_cannot_be_compared_is_refused_in_one_line(a: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", n=20)
    with pytest.raises(StateError, match="is a study; name two of its runs"):
        compare(study, a)
    with pytest.raises(StateError, match="no run and no evaluation here"):
        compare(a, tmp_path / "absent")
    (tmp_path / "new").mkdir()
    Run(tmp_path / "new").update(status="new")
    with pytest.raises(StateError, match="no evaluation and no measure that both have"):
        compare(a, tmp_path / "new")


def test_damaged_masks_are_an_error_that_names_the_file(a: Path, tmp_path: Path) -> None:
    b = evaluated(tmp_path / "b", RIGHT_B, ROBUST_B)
    path = b / "evaluation.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"b/evaluation\.safetensors: damaged"):
        compare(a, b)
