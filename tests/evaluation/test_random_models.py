"""Models that draw random numbers: judged on the mean over draws, whatever the attack, and never blamed."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.evaluated_models import stop_after
from robustlens import noise
from robustlens.errors import StoppedError
from robustlens.evaluation.verifier import DRAWS, RandomVerifier

N, THREAT = 300, rl.ThreatModel("Linf", 0.1)


class RightByChance(nn.Module):
    """Right in 80 % of the draws, whatever the image; gradients lead nowhere. Class 0 is right."""

    own: torch.Generator | None = None

    def forward(self, x):
        right = torch.rand(len(x), generator=self.own) < 0.8
        return torch.stack([right.float(), 1.0 - right.float()], 1) + 0 * x.flatten(1)[:, :2]


class Noisy(nn.Module):
    """A linear model of two classes with noise on the first pixel."""

    def forward(self, x):
        score = x.flatten(1)[:, 0] + 0.1 * torch.randn(len(x)) - 0.5
        return torch.stack([-score, score], 1)


def images(n=N):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(n).long()


@pytest.mark.parametrize("attacks", [None, ["fgsm", "pgd-3"]])
def test_a_useless_attack_leaves_the_mean_over_draws(attacks):
    x, y = images()
    evaluation = rl.evaluate(RightByChance(), x, y, THREAT, attacks or short_rand(), save_adversarial=True)
    assert evaluation.clean.float().mean() == pytest.approx(0.8, abs=0.06)
    assert torch.equal(evaluation.robust, evaluation.clean)  # all attacks see the draws of the image
    assert torch.equal(evaluation.predictions == y, evaluation.clean)
    assert "randomised" in [flag.name for flag in evaluation.flags]
    assert str(DRAWS) in evaluation.notes[0]


def short_rand():
    """The suite "rand" with few steps."""
    return [
        rl.attacks.APGD(THREAT, steps=3, eot=20, loss=loss, stop_at_success=True) for loss in ("ce", "margin")
    ]


def test_random_numbers_of_ones_own_cost_a_few_points_and_no_blame():
    model, (x, y) = RightByChance(), images()
    model.own = torch.Generator().manual_seed(5)
    evaluation = rl.evaluate(model, x, y, THREAT, short_rand(), save_adversarial=True)
    assert evaluation.clean.float().mean() == pytest.approx(0.8, abs=0.06)
    assert evaluation.robust.float().mean() > 0.7  # one chance an attack would leave 0.8 ** 3, 51 %
    if (evaluation.clean & ~evaluation.robust).any():
        assert any("when it is asked again" in note for note in evaluation.notes)


class SeldomRandom(nn.Module):
    """Right, but for each 37th pass since it was attacked; class 0 is right."""

    passes = -1_000_000

    def forward(self, x):
        SeldomRandom.passes += 1
        wrong = float(SeldomRandom.passes > 0 and SeldomRandom.passes % 37 == 1)
        return torch.tensor([1.0 - wrong, wrong]) + 0 * x.flatten(1)[:, :2]


def harmless(model, x, y, *, generator=None):
    """An attack that leaves the images as they are, before the one pass in which the model is wrong."""
    SeldomRandom.passes = 0
    return x.clone()


def test_saved_images_of_a_seldom_random_model_are_noted_and_no_file_is_blamed():
    x, y = images(8)
    evaluation = rl.evaluate(SeldomRandom(), x, y, THREAT, [harmless], flags=False, save_adversarial=True)
    assert int((evaluation.clean & ~evaluation.robust).sum()) == 8
    assert any("8 of 8 saved adversarial images do not break the model" in note for note in evaluation.notes)


def test_an_attack_counts_by_how_far_it_lowers_the_mean():
    x = torch.full((400, 4), 0.5) + 1e-4 * torch.rand(400, 4)
    x[:, 0] = 0.45  # right where the noise is below 0.05: 69 %; an attack moves that to -0.05: 31 %
    y = torch.zeros(400).long()
    evaluation = rl.evaluate(Noisy(), x, y, THREAT, [rl.attacks.APGD(THREAT, steps=5, eot=20)])
    assert evaluation.clean.float().mean() == pytest.approx(0.69, abs=0.07)
    assert evaluation.robust.float().mean() == pytest.approx(0.31, abs=0.07)
    assert not (evaluation.robust & ~evaluation.clean).any()


class Cycling(nn.Module):
    """Ten draws a pass: as sure of class 0 as the image, of class 1 in the first two and of 2 in the third."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        logits = torch.zeros(len(x), 3)
        logits[:, 0] = x.flatten(1)[:, 0]
        logits[:2, 1] = 5.0
        logits[2, 2] = 5.0
        return logits


def test_a_verdict_is_over_as_many_draws_as_are_said(monkeypatch):
    x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2, dtype=torch.int64)
    model = Cycling()
    monkeypatch.setattr(noise, "uniform", lambda key, like: torch.tensor([0.29, 0.31])[: len(like)])
    verdict = RandomVerifier(model, seed=0).clean(x, y)
    assert sum(model.sizes) == 2 * DRAWS
    assert set(model.sizes) == {10}
    # Three draws of ten are wrong; of the wrong ones, most are of class 1.
    assert verdict.right.tolist() == [False, True]
    assert verdict.predictions.tolist() == [1, 0]
    exp = torch.tensor([1.0, 2.0]).exp()
    sure, wrong = ((exp + 2) / exp).log(), ((exp + 1 + math.exp(5)) / exp).log()
    torch.testing.assert_close(verdict.loss, 0.7 * sure + 0.3 * wrong)


def test_what_is_right_in_every_draw_is_right_whatever_the_threshold(monkeypatch):
    monkeypatch.setattr(noise, "uniform", lambda key, like: torch.zeros(len(like)))  # of [0, 1)
    x, verifier = torch.tensor([[9.0], [1.0]]), RandomVerifier(Cycling(), seed=0)
    assert verifier.misclassified(x, torch.zeros(2, dtype=torch.int64), x).tolist() == [False, True]


def test_a_random_model_is_attacked_once_at_each_image():
    seen = []

    def still(model, x, y, *, generator=None):
        seen.append(len(x))
        return x.clone()

    x, y = images(20)
    evaluation = rl.evaluate(Noisy(), x, y, THREAT, [still], flags=False)
    assert sum(seen) == int(evaluation.clean.sum())
    assert evaluation.loss.shape == (20,)


def test_verdicts_belong_to_the_image_and_leave_the_random_state():
    x, _ = images(20)
    y, verifier = torch.zeros(20).long(), RandomVerifier(Noisy(), seed=3)
    state = torch.get_rng_state()
    whole = verifier.misclassified(x, y, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < whole.sum() < 20
    parts = zip(x.split(7), y.split(7), strict=True)
    assert torch.equal(torch.cat([verifier.misclassified(some, of, some) for some, of in parts]), whole)
    order = torch.randperm(20)
    assert torch.equal(verifier.misclassified(x[order], y[order], x[order]), whole[order])


def test_a_stopped_evaluation_ends_with_the_same_masks(tmp_path):
    x, y = images(60)
    given = {"attacks": ["fgsm", "pgd-3"], "batch_size": 16, "flags": False}
    whole = rl.evaluate(Noisy(), x, y, THREAT, **given)
    with pytest.raises(StoppedError):
        rl.evaluate(Noisy(), x, y, THREAT, **given, state=tmp_path, progress=stop_after(2))
    rest = rl.evaluate(Noisy(), x, y, THREAT, **given, state=tmp_path)
    assert torch.equal(rest.clean, whole.clean)
    assert len(rest.by_attack) == 2
