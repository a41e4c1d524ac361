"""Accuracies and losses after an epoch."""

import pytest

import robustlens as rl
from helpers.training_runs import recipe
from robustlens.data import Split
from robustlens.training.monitor import accuracy


def test_losses_of_an_epoch_are_means_over_all_images(splits):
    model = rl.models.get("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8)
    x, y = splits.test.x(), splits.test.labels
    record, margins = (
        accuracy(model, x, y, rl.ThreatModel("Linf", 0.0), 1, 7),
        rl.explain.margins(model, x, y),
    )
    assert record.clean == record.robust == margins["correct"].mean()
    assert record.ramp_risk == pytest.approx(1 - margins["probability"].clip(0, 1).mean(), rel=1e-5)
    assert record.loss == pytest.approx(margins["loss"].mean(), rel=1e-5)


def test_the_images_of_a_monitor_are_chosen_once(tmp_path, splits, monkeypatch):
    real, sizes = Split.take, []

    def take(self, n, seed):
        sizes.append(n)
        return real(self, n, seed)

    monkeypatch.setattr(Split, "take", take)
    rl.train(recipe(objective="standard"), tmp_path / "run", splits=splits)
    assert sizes == [40, len(splits.validation)]  # of three epochs
