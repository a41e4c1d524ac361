"""The door of every attack: what it refuses, in the words of `evaluate`, and what it takes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robustlens as rl
from helpers.small_models import everything, images
from robustlens.errors import ConfigError, DataError, ModelError
from robustlens.models import inputs
from robustlens.threat.threat_model import _checked_bounds

THREAT = rl.ThreatModel("Linf", 0.1)
ATTACKS = {
    "fgsm": rl.attacks.FGSM(THREAT),
    "pgd": rl.attacks.PGD(THREAT, steps=2, restarts=2),
    "apgd": rl.attacks.APGD(THREAT, steps=3, targets=2, loss="margin"),
    "fab": rl.attacks.FAB(THREAT, steps=2),
    "square": rl.attacks.Square(THREAT, queries=5),
    "min-norm": rl.attacks.MinimumNorm(THREAT, steps=3),
    "ensemble": rl.attacks.Ensemble((rl.attacks.FGSM(THREAT), rl.attacks.Square(THREAT, queries=5))),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


class Wrapped(nn.Module):
    """A model whose output is packed."""

    def __init__(self, pack):
        super().__init__()
        self.model, self.pack = everything(), pack

    def forward(self, x):
        return self.pack(self.model(x))


def with_pixel(value):
    x = images(4)[0]
    x[1, 0, 0, 0] = value
    return x


X, Y = images(4)
REFUSED = {
    "NaN": ({"x": with_pixel(float("nan"))}, DataError, "NaN or infinite pixels in 1 of 4 images"),
    "infinite": ({"x": with_pixel(float("inf"))}, DataError, "NaN or infinite"),
    "bytes as floats": ({"x": X * 255}, DataError, r"expected \[0, 1\]; divide by 255"),
    "bytes": ({"x": (X * 255).to(torch.uint8)}, DataError, "found uint8 pixels"),
    "one hot": ({"y": nn.functional.one_hot(Y, 10)}, DataError, "one-hot"),
    "bools": ({"y": Y > 0}, DataError, "found bool labels"),
    "float labels": ({"y": Y.float()}, DataError, "found float32 labels"),
    "negative": ({"y": Y - 10}, DataError, "found label -"),
    "too few labels": ({"y": Y[:2]}, DataError, "4 images and 2 labels"),
    "no labels": ({"y": None}, DataError, "images without labels"),
    "a class too many": ({"y": Y + 100}, ModelError, "expected at least 1"),
    "dictionary": ({"model": Wrapped(lambda out: {"logits": out})}, ModelError, "returned dict"),
    "tuple": ({"model": Wrapped(lambda out: (out, out))}, ModelError, "a tuple of 2"),
    "another size": ({"x": torch.rand(4, 3, 3, 3)}, ModelError, r"fails on images of shape \(\d, 3, 3, 3\)"),
    "no images": ({"x": torch.tensor(0.5)}, DataError, r"found images of shape \(\)"),
    "sparse": ({"x": X.to_sparse()}, DataError, "found sparse, quantised or meta images"),
    "one logit": ({"model": Wrapped(lambda out: out[:, :1]), "y": Y * 0}, ModelError, "1 logits an image"),
}


@every_attack
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(attack, name):
    change, error, said = REFUSED[name]
    with pytest.raises(error, match=said) as caught:
        attack(**{"model": everything(), "x": X, "y": Y} | change)
    assert "\n" not in str(caught.value)


@every_attack
def test_labels_arrays_batches_and_halves_are_taken(attack):
    model = everything()
    wanted = attack(model, X, Y)
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    for x, y in (
        (X, Y.int()),
        (X, Y.to(torch.uint8)),
        (X.numpy(), Y.numpy()),
        (X.numpy(), Y.numpy().astype(np.uint16)),
        (loader, None),
        ([(X.numpy()[:1], Y.numpy()[:1]), (X[1:], Y[1:])], None),
        (X.double(), Y),
    ):
        assert torch.equal(attack(model, x, y), wanted)
    for dtype in (torch.float16, torch.bfloat16):
        x_adv = attack(model, X.to(dtype), Y)
        assert x_adv.dtype == torch.float32
        assert THREAT.distance(x_adv.double(), X.to(dtype).double()).max() <= THREAT.eps + 1e-6


@every_attack
def test_dust_is_clamped_and_more_is_not(attack):
    x_adv = attack(everything(), with_pixel(-2.98e-8), Y)
    assert x_adv.min() >= 0
    with pytest.raises(DataError, match="expected"):
        attack(everything(), with_pixel(-1e-3), Y)


@every_attack
def test_is_checked_once_and_asks_the_model_nothing_more(attack, monkeypatch):
    checks, model, passes = [], everything(), []
    once = inputs.checked_pair
    monkeypatch.setattr(
        inputs, "checked_pair", lambda *args, **named: checks.append(1) or once(*args, **named)
    )
    model.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    attack(model, X, Y)
    asked = list(passes)
    passes.clear()
    with rl.attacks.trusted():
        attack(model, X, Y)
    assert (len(checks), passes) == (1, asked)
    assert len(model._forward_hooks) == 1


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((torch.zeros(3), torch.ones(3)), "two numbers for all channels"),
        (([0.0] * 3, [1.0] * 3), "two numbers for all channels"),
        ((0.0, 0.5, 1.0), "two numbers"),
        (None, "two numbers"),
        ((float("nan"), 1.0), "low < high"),
    ],
)
def test_bounds_are_two_numbers(bounds, said):
    with pytest.raises(ConfigError, match=said):
        _checked_bounds(bounds)  # the tests' type checker would refuse them first in `ThreatModel`
    assert _checked_bounds((0, 255)) == (0.0, 255.0)


def test_bounds_without_an_end_are_refused_by_attacks_and_evaluations():
    open_ended = rl.ThreatModel("Linf", 0.1, bounds=(-float("inf"), float("inf")))
    for call in (
        lambda: rl.attacks.PGD(open_ended)(everything(), X, Y),
        lambda: rl.evaluate(everything(), X, Y, open_ended, "fgsm"),
    ):
        with pytest.raises(ConfigError, match=r"threat\.bounds: found .*expected finite"):
            call()


@every_attack
def test_tensors_of_inference_mode_and_scripts_are_taken(attack):
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
    assert torch.equal(attack(everything(), x, y), attack(everything(), X, Y))
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 10)))
    assert attack(script, X, Y).shape == X.shape


def test_an_error_after_the_first_pass_is_the_models_own():
    passes = []

    def fail_later(logits):
        passes.append(logits)
        return logits if len(passes) < 2 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        rl.attacks.PGD(THREAT, steps=3)(Wrapped(fail_later), X, Y)


@pytest.mark.parametrize("name", ["fab", "square", "min-norm"])
def test_attacks_of_one_class_refuse_soft_labels(name):
    with pytest.raises(ConfigError, match=r"found soft labels \(mixup\), expected one class an image"):
        ATTACKS[name](everything(), X, torch.full((4, 5), 0.2))


def test_soft_labels_are_probabilities():
    soft = torch.full((4, 5), 0.2)
    attack = rl.attacks.PGD(THREAT, steps=2, keep="last")
    assert attack(everything(), X, soft).shape == X.shape
    for wrong, error in ((-soft, DataError), (soft[:2], DataError), (soft.repeat(1, 9), ModelError)):
        with pytest.raises(error):
            attack(everything(), X, wrong)


@every_attack
def test_without_a_generator_torchs_seed_does_not_reach_an_attack(attack):
    torch.manual_seed(1)
    before, state = attack(everything(), X, Y), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(attack(everything(), X, Y), before)
    torch.manual_seed(1)
    everything()  # draws its weights
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "attack",
    [
        rl.attacks.PGD(THREAT, steps=1, keep="last"),
        rl.attacks.Ensemble((rl.attacks.FGSM(THREAT, step_size=0.12, random_start=True),)),
    ],
    ids=["pgd", "ensemble"],
)
def test_the_callers_random_state_is_a_generator_too(attack):
    model = everything()

    def two(seed):
        torch.manual_seed(seed)
        return [attack(model, X, Y, generator=torch.default_generator) for _ in range(2)]

    (first, second), again, other = two(1), two(1), two(2)
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)
    assert not torch.equal(second, first)  # another start in every epoch
    assert not torch.equal(other[0], first)
