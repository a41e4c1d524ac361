"""Attacks run on survivors, on no image twice, and on the model where a copy misled them."""

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.evaluated_models import THREAT, assert_same, evaluated, linear, stop_after
from robustlens import models
from robustlens.errors import NumericsError, StoppedError
from robustlens.progress import Event


def test_later_attacks_see_survivors_only():
    model, x, y, margin = linear()
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    rl.evaluate(model, x, y, rl.ThreatModel("Linf", margin.quantile(0.5).item()), ["fgsm"], batch_size=1000)
    right = int((model(x).argmax(1) == y).sum())
    assert sizes[1] == len(x)  # clean accuracy
    assert sizes[2:4] == [64, 64]  # whether it draws random numbers
    assert sizes[4] == right  # the attack: what was right
    sizes.clear()
    rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.9), ["fgsm", "pgd-3"], batch_size=1000)
    assert sizes[4] == right
    assert right not in sizes[6:]  # FGSM broke everything, PGD had nothing to do


def test_an_attack_that_leaves_the_threat_model_is_refused():
    model, x, y, _ = linear(n=20)
    wide = rl.attacks.PGD(rl.ThreatModel("Linf", 0.2))
    with pytest.raises(NumericsError, match=r"'pgd': found an image at Linf distance 0\.2") as caught:
        rl.evaluate(model, x, y, rl.ThreatModel("Linf", 0.1), [wide])
    assert caught.value.exit_code == 4


class Counted(rl.attacks.PGD):
    """PGD that counts the images that it is given."""

    seen = 0

    def tries(self):
        return (self,)

    def __call__(self, model, x, y, *, generator=None):
        type(self).seen += len(x)
        return super().__call__(model, x, y, generator=generator)


def test_nothing_is_attacked_twice(tmp_path):
    given = {"attacks": [Counted(THREAT, steps=2)], "curve": (), "batch_size": 8}
    once = int(evaluated(**given).clean.sum())
    assert Counted.seen == once
    Counted.seen = 0
    with pytest.raises(StoppedError):
        evaluated(tmp_path, **given, progress=stop_after(3))
    assert Counted.seen == 3 * 8 - 3  # a batch is of one block of 8 images, of which one is wrong at x
    evaluated(tmp_path, **given)
    assert Counted.seen == once
    evaluated(tmp_path, **given)
    assert Counted.seen == once


class Liar(nn.Module):
    """A copy that is wrong on some images already at x, as low precision may be."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        lies = x[:, :1] > 0.7
        return torch.where(lies, logits.flip(1), logits)


def test_what_only_the_copy_gets_wrong_goes_back_to_the_attack(monkeypatch):
    honest = evaluated(curve=())
    monkeypatch.setattr(models, "fast_copy", lambda model, x, precision: Liar(model).eval())
    assert_same(evaluated(curve=()), honest)


class Nudge:
    """Moves every image's first pixel: by 0.02 on the copy, and by 0.06 on the model."""

    threat = THREAT

    def __call__(self, model, x, y, *, generator=None):
        x_adv = x.clone()
        x_adv[:, 0] += 0.02 if isinstance(model, Liar) else 0.06
        return x_adv


class Step(nn.Module):
    """Class 0 while the first pixel is below a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, x):
        return torch.stack([self.threshold - x[:, 0], x[:, 0] - self.threshold], 1)


def test_an_image_that_is_attacked_again_has_the_distance_of_the_point_that_broke_it(monkeypatch):
    # The copy is wrong from 0.75 on as the model is, and above 0.7, where the model is right, too.
    x = torch.zeros(4, 6)
    x[:, 0] = torch.tensor([0.74, 0.71, 0.695, 0.3])
    y = torch.zeros(4, dtype=torch.int64)
    monkeypatch.setattr(models, "fast_copy", lambda model, x, precision: Liar(model).eval())
    found = rl.evaluate(Step(0.75), x, y, THREAT, [Nudge()], curve=(), flags=False)
    # Broken by the copy's point; by the model's, as the copy's fools the copy alone (twice); by none.
    assert found.robust.tolist() == [False, False, False, True]
    torch.testing.assert_close(found.distance, torch.tensor([0.02, 0.06, 0.06, torch.inf]), check_dtype=False)
    assert found.attacked == {"nudge": 4}


class Push(Nudge):
    """Moves every first pixel by 0.06."""


def test_every_batch_says_how_far_its_try_is_and_who_still_stands():
    # The last image is wrong from the start; the push breaks the first two, and PGD, by 0.08, the third.
    x = torch.zeros(5, 6)
    x[:, 0] = torch.tensor([0.74, 0.71, 0.68, 0.3, 0.9])
    events: list[Event] = []
    rl.evaluate(
        Step(0.75),
        x,
        torch.zeros(5, dtype=torch.int64),
        THREAT,
        [Push(), "pgd-5"],
        restarts=2,
        batch_size=3,
        flags=False,
        progress=events.append,
    )
    assert [(event.phase, event.done, event.total, event.note) for event in events] == [
        ("push", 3, 4, "2 of 5 robust"),
        ("push", 4, 4, "2 of 5 robust"),
        ("pgd-5 1/2", 1, 2, "1 of 5 robust"),  # images 3 and 4 are of two blocks
        ("pgd-5 1/2", 2, 2, "1 of 5 robust"),
        ("pgd-5 2/2", 1, 1, "1 of 5 robust"),
    ]
