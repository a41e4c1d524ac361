"""Networks that training taught nothing are named: by their accuracy under the attack of training, against guessing."""

import math
from pathlib import Path
from typing import Any

import pytest

from helpers.attacked_runs import attacked_run, split_of
from robustlens.report.data import ReportData
from robustlens.report.reading import read_study
from robustlens.report.text.headline import notices
from robustlens.results import EpochRecord, MonitorRecord, RunEntry, StudyFolder, StudyRecord


def trained(
    folder: Path,
    *right: float,
    n: int = 120,
    eps: float = 8 / 255,
    classes: Any = 10,
    status: str = "done",
    loss: float = 2.3,
) -> ReportData:
    """A study of one evaluated network: so many of n training images were right after each epoch."""
    run = attacked_run(folder / "runs/a", {"test": split_of()})
    run.update(status=status, model={"num_classes": classes}, epochs_done=len(right))
    for epoch, count in enumerate(right, 1):
        run.append_metrics(EpochRecord(epoch, loss=loss, train=MonitorRecord(n, 0.9, count / max(n, 1), 1.0)))
    entry = RunEntry("a", "runs/a", "AT", method="AT", eps=eps, seed=0)
    StudyFolder(folder).write_record(StudyRecord(name="one", runs=(entry,)))
    return read_study(folder)


def by_guessing(right: int, n: int, classes: int) -> float:
    """Probability that guessing gets so many right or more, summed term by term."""
    every = range(right, n + 1)
    return math.fsum(math.comb(n, k) * (1 / classes) ** k * (1 - 1 / classes) ** (n - k) for k in every)


def test_a_network_at_chance_is_named_with_what_was_counted(tmp_path: Path) -> None:
    assert notices(trained(tmp_path, 40, 11)) == [
        (
            "AT",
            "training ended at chance: its loss is 2.30 nats, and equal probabilities for 10 classes give 2.30; 11 of "
            "120 training images are right under attack within eps 8/255, and guessing gets 10 %. What is measured at "
            "its last checkpoint says nothing about robustness",
        )
    ]


def test_in_standard_training_no_attack_is_spoken_of(tmp_path: Path) -> None:
    ((_, what),) = notices(trained(tmp_path, 11, eps=0, classes=3, n=30, loss=1.0986))
    assert "for 3 classes give 1.10; 11 of 30 training images are right, and guessing gets 33.3 %." in what


@pytest.mark.parametrize(("n", "classes"), [(120, 10), (40, 3), (500, 100), (10, 2), (4, 10)])
def test_the_line_is_what_guessing_gets_once_in_a_thousand_samples(
    tmp_path: Path, n: int, classes: int
) -> None:
    loss = math.log(classes)
    least = next(right for right in range(n + 1) if by_guessing(right, n, classes) < 1e-3)
    at_line = [trained(tmp_path / str(k), k, n=n, classes=classes, loss=loss) for k in (least - 1, least)]
    assert [len(notices(each)) for each in at_line] == [1, 0]


def test_what_counts_is_the_end_and_chance_on_the_way_is_none(tmp_path: Path) -> None:
    assert notices(trained(tmp_path, 12, 12, 60)) == []


@pytest.mark.parametrize(
    "more",
    [
        {"status": "training"},
        {"classes": None},
        {"classes": 1},
        {"n": 0},
        {"right": math.nan},
        {"loss": math.nan},
        {"n": 9, "classes": 2},  # nine of nine are guessed twice in a thousand samples
        {"n": 3},
    ],
)
def test_where_it_cannot_be_told_nothing_is_said(tmp_path: Path, more: dict[str, Any]) -> None:
    right = more.pop("right", 1)
    assert not [what for _, what in notices(trained(tmp_path, right, **more)) if "chance" in what]


def test_a_network_that_breaks_everywhere_is_at_chance_too(tmp_path: Path) -> None:
    assert len(notices(trained(tmp_path, 0))) == 1


@pytest.mark.parametrize(("loss", "count"), [(2.25, 0), (2.26, 1), (2.31, 1), (5.0, 1), (0.3, 0)])
def test_an_accurate_network_that_every_attack_breaks_is_not_at_chance(
    tmp_path: Path, loss: float, count: int
) -> None:
    """Catastrophic overfitting to FGSM: a small loss on its own images, and nothing left under PGD."""
    assert len(notices(trained(tmp_path, 0, loss=loss))) == count
