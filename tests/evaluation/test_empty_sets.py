"""Evaluations in which a set is empty: no image right, none wrong, none broken, none robust, one class."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.evaluated_models import image_splits, plan
from helpers.small_models import NonEmpty
from robustlens.evaluation import evaluate_model, leaderboard_entry


class Fixed(NonEmpty):
    """Class 0 for all images; with `slope`, class 1 a little further on."""

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        x = super().forward(x)
        score = self.slope * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([0.5 - score, score - 0.5], 1)


SETS = {
    "none broken": (Fixed(1e-3), 0),
    "none right": (Fixed(1e-3), 1),
    "none robust": (Fixed(50.0), 0),
    "no gradient": (Fixed(), 0),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("kept", ["in memory", "in a folder"])
def test_an_empty_set_is_an_evaluation_like_any_other(name, n, kept, tmp_path):
    (model, label), x = SETS[name], 0.45 + 0.04 * torch.rand(n, 1, 3, 3)
    y = torch.full((n,), label)
    evaluation = rl.evaluate(
        model,
        x,
        y,
        rl.ThreatModel("Linf", 0.1),
        ["fgsm", "pgd-2", "square-20"],
        curve=(0.5, 2.0),
        state=tmp_path if kept == "in a folder" else None,
        save_adversarial=True,
    )
    assert evaluation.clean.all() == (label == 0)
    assert evaluation.robust.sum() == (n if name in ("none broken", "no gradient") else 0)
    assert torch.equal(evaluation.x_adv, x) == (name != "none robust")
    result = evaluation.result()
    assert result.robust.low <= result.robust.value <= result.robust.high
    assert sum(result.broken.values()) == int((evaluation.clean & ~evaluation.robust).sum())


@pytest.mark.parametrize("name", SETS)
def test_an_empty_set_is_written_and_read(name, tmp_path):
    (model, label), splits = SETS[name], image_splits()
    for split in (splits.train, splits.test):
        split.labels.fill_(label)
        split.images.div_(12, rounding_mode="floor").add_(115)
    result = evaluate_model(model, splits, plan(attacks=["fgsm"], save_adversarial=True), tmp_path)
    assert result.splits["test"].clean.value == (label == 0)
    assert (tmp_path / "adversarial.safetensors").exists()
    standard = replace(result, suites={"standard": ("fgsm",)})  # as a long suite would have it
    assert leaderboard_entry(standard)["clean_acc"] == ("100.00" if label == 0 else "0.00")
