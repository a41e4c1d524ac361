"""A stopped evaluation goes on where it stopped, ends with the same masks, and belongs to one evaluation only."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import robustlens as rl
from robustlens import models
from robustlens.config import EvaluationPlan, checked
from robustlens.data import from_tensors
from robustlens.errors import ConfigError, LockedError, NumericsError, StateError, StoppedError
from robustlens.evaluation import evaluate_model, leaderboard_entry
from robustlens.evaluation.adversarial_images import AdversarialImages
from robustlens.evaluation.state import STANDING, WRONG, EvaluationState
from robustlens.evaluation.verifier import Verifier
from robustlens.results.folders import locked

THREAT = rl.ThreatModel("Linf", 0.08)
ATTACKS = ("fgsm", "pgd-5", "cw-5")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 4))


def problem(n=50):
    model = network()
    x = torch.rand(n, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, torch.where(torch.arange(n) % 9 == 0, (y + 1) % 4, y)


def run(state=None, model=None, **changes):
    own, x, y = problem()
    given = {"attacks": ATTACKS, "restarts": 2, "curve": (0.5, 2), "batch_size": 16, "flags": False}
    given |= {"x": x, "y": y, "threat": THREAT} | changes
    return rl.evaluate(
        model or own, given.pop("x"), given.pop("y"), given.pop("threat"), state=state, **given
    )


def stop_after(batches):
    """A listener that stops the work as a signal does."""
    left = [batches]

    def listen(event):
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError("stopped by SIGTERM")

    return listen


def assert_same(one, other):
    assert torch.equal(one.distance, other.distance)
    assert one.by_attack.keys() == other.by_attack.keys()
    for name in one.by_attack:
        assert torch.equal(one.by_attack[name], other.by_attack[name]), name
    for eps in one.curve:
        assert torch.equal(one.curve[eps], other.curve[eps]), eps


def test_a_stop_after_any_batch_changes_nothing(tmp_path):
    events = []
    whole = run(progress=events.append)
    assert 0 < whole.robust.sum() < whole.clean.sum()
    for batches in range(1, len(events) + 1):
        state = tmp_path / str(batches)
        with pytest.raises(StoppedError):
            run(state, progress=stop_after(batches))
        assert_same(run(state), whole)


def test_many_stops_in_a_row_end_too(tmp_path):
    for _ in range(100):
        try:
            found = run(tmp_path, progress=stop_after(2))
            break
        except StoppedError:
            continue
    assert_same(found, run())


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
    once = int(run(**given).clean.sum())
    assert Counted.seen == once
    Counted.seen = 0
    with pytest.raises(StoppedError):
        run(tmp_path, **given, progress=stop_after(3))
    assert Counted.seen == 3 * 8
    run(tmp_path, **given)
    assert Counted.seen == once
    run(tmp_path, **given)
    assert Counted.seen == once


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": network(5)}, "another model"),
        ({"x": torch.rand(50, 12)}, "another selection of images"),
        ({"threat": rl.ThreatModel("Linf", 0.081)}, "another threat"),
        ({"threat": rl.ThreatModel("L2", 0.08)}, "another threat"),
        ({"attacks": ("fgsm", "pgd-6", "cw-5")}, "another suite"),
        ({"restarts": 1}, "another suite"),
        ({"seed": 1}, "another suite"),
        ({"precision": "bf16-mixed"}, "another precision"),
    ],
)
def test_state_of_anything_else_is_refused_and_left_alone(tmp_path, change, said):
    with pytest.raises(StoppedError):
        run(tmp_path, progress=stop_after(3))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StateError, match=said) as caught:
        run(tmp_path, **change)
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 500])
def test_damaged_state_is_refused(tmp_path, content):
    with pytest.raises(StoppedError):
        run(tmp_path, progress=stop_after(3))
    (tmp_path / "progress.safetensors").write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        run(tmp_path)


def test_the_batch_size_may_change_after_a_stop(tmp_path):
    with pytest.raises(StoppedError):
        run(tmp_path, progress=stop_after(4))
    assert torch.equal(run(tmp_path, batch_size=7).robust, run().robust)


def test_a_ledger_by_hand(tmp_path):
    clean = torch.tensor([True, False, True, True])
    ledger = EvaluationState.open(tmp_path, {"model": "a"}, clean, 2)
    assert ledger.broken_by.tolist() == [STANDING, WRONG, STANDING, STANDING]
    assert ledger.rows(0).tolist() == [0, 2, 3]
    ledger.record(0, torch.tensor([0, 2]), torch.tensor([True, False]), torch.tensor([0.5, torch.inf]), 1.5)
    again = EvaluationState.open(tmp_path, {"model": "a"}, clean, 2)
    assert again.broken_by.tolist() == [0, WRONG, STANDING, STANDING]
    assert again.distance.tolist() == [0.5, 0.0, torch.inf, torch.inf]
    assert again.seconds.tolist() == [1.5, 0.0]
    assert again.rows(0).tolist() == [0, 2, 3]  # the same batches as before the stop
    assert again.waiting(0, again.rows(0)).tolist() == [3]
    assert again.rows(1).tolist() == [2, 3]
    assert again.rows(1, everyone=True).tolist() == [0, 2, 3]
    assert again.robust_after(0).tolist() == [False, False, True, True]
    again.record(1, torch.tensor([0, 2]), torch.tensor([True, True]), torch.tensor([0.25, 0.375]), 1.0)
    assert again.broken_by.tolist() == [0, WRONG, 1, STANDING]  # what fell before stays where it fell
    assert again.distance.tolist() == [0.25, 0.0, 0.375, torch.inf]
    assert again.robust_after(0).tolist() == [False, False, True, True]


# -- what counts ---------------------------------------------------------------------------------------


class Liar(nn.Module):
    """A copy that calls some images wrong already at x, as low precision may."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        lies = x[:, :1] > 0.7
        return torch.where(lies, logits.flip(1), logits)


def test_what_only_the_copy_gets_wrong_goes_back_to_the_attack(monkeypatch):
    honest = run(curve=())
    monkeypatch.setattr(models, "fast_copy", lambda model, x, precision: Liar(model).eval())
    assert_same(run(curve=()), honest)


def test_a_success_has_to_hold_in_float64_too():
    class Shifted(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], torch.full_like(x[:, 0], 0.5)], 1)

    exact = Shifted()
    exact.forward = lambda x: torch.stack([x[:, 0] + 1e-9, torch.full_like(x[:, 0], 0.5)], 1)
    x = torch.tensor([[0.5 - 1e-7], [0.4], [0.6]])
    x[0] = 0.5  # float32 ties go to class 0, so make class 1 the label
    y = torch.tensor([1, 0, 0])
    assert Verifier(Shifted(), None).misclassified(x, y).tolist() == [True, True, False]
    never = Shifted()
    never.forward = lambda x: torch.stack([x[:, 0] - 1e-9, torch.full_like(x[:, 0], 0.5)], 1)
    assert Verifier(Shifted(), never).misclassified(x, y).tolist() == [False, True, False]
    assert Verifier(Shifted(), exact).misclassified(x, y).tolist() == [True, True, False]


def test_nan_is_wrong_whatever_float64_says():
    class Broken(nn.Module):
        def forward(self, x):
            return x * float("nan")

    judge = Verifier(Broken(), nn.Identity())
    assert judge.misclassified(torch.eye(3), torch.arange(3)).tolist() == [True, True, True]


# -- adversarial images --------------------------------------------------------------------------------


def test_saved_images_are_feasible_and_break_the_model(tmp_path):
    _, x, y = problem()
    for state in (None, tmp_path):
        found = run(state, save_adversarial=True)
        broken_by = found.clean & ~found.robust
        assert torch.equal(found.x_adv[~broken_by], x[~broken_by])
        exact = network().double()
        assert (exact(found.x_adv[broken_by].double()).argmax(1) != y[broken_by]).all()
        assert (found.x_adv.double() - x.double()).abs().max() <= THREAT.eps + 1e-6
        assert found.x_adv.min() >= 0
        assert found.x_adv.max() <= 1


def test_saved_images_survive_a_stop(tmp_path):
    whole = run(tmp_path / "whole", save_adversarial=True)
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", save_adversarial=True, progress=stop_after(5))
    assert torch.equal(run(tmp_path / "stopped", save_adversarial=True).x_adv, whole.x_adv)


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda x_adv: x_adv * 0 + 0.5, "found an image at Linf distance"), (None, "do not break the model")],
)
def test_saved_images_are_checked_again(tmp_path, change, said):
    run(tmp_path, save_adversarial=True)
    file = sorted(tmp_path.glob("adversarial-*"))[0]
    held = load_file(file)
    x = problem()[1]
    AdversarialImages(tmp_path).add(
        int(file.name.split("-")[1]), held["rows"], change(held["x_adv"]) if change else x[held["rows"]]
    )
    with pytest.raises(NumericsError, match=said) as caught:
        run(tmp_path, save_adversarial=True)
    assert caught.value.exit_code == 4


# -- folders -------------------------------------------------------------------------------------------


def splits():
    _, x, y = problem(60)
    pixels = (x.view(60, 1, 3, 4) * 255).round().to(torch.uint8)
    return from_tensors(pixels, y, pixels[:40], y[:40], classes=tuple("abcd"))


def plan(**values):
    values = {"threat": {"eps": 0.08}, "attacks": ["fgsm", "pgd-5"], "curve": [], "batch_size": 16} | values
    return checked(EvaluationPlan, values, "plan")


def image_network(seed=0):
    return nn.Sequential(nn.Flatten(), *network(seed))


def test_any_model_into_a_folder(tmp_path):
    content = evaluate_model(image_network(), splits(), plan(save_adversarial=True), tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["plan"] == content["plan"]
    assert not (tmp_path / "evaluation.state").exists()
    saved, masks = (
        load_file(tmp_path / "adversarial.safetensors"),
        load_file(tmp_path / "evaluation.safetensors"),
    )
    for split in ("train", "test"):
        broken_by = masks[f"{split}/clean"] & ~masks[f"{split}/robust"]
        assert torch.equal(saved[f"{split}/index"], masks[f"{split}/index"][broken_by])
        wrong = image_network()(saved[f"{split}/x_adv"]).argmax(1) != saved[f"{split}/labels"]
        assert wrong.all()
    stamp = (tmp_path / "evaluation.json").stat().st_mtime_ns
    again = evaluate_model(image_network(), splits(), plan(save_adversarial=True), tmp_path)
    assert again == json.loads((tmp_path / "evaluation.json").read_text())
    assert (tmp_path / "evaluation.json").stat().st_mtime_ns == stamp
    with pytest.raises(StateError, match="another model"):
        evaluate_model(image_network(3), splits(), plan(save_adversarial=True), tmp_path)
    with pytest.raises(StateError, match="another plan"):
        evaluate_model(image_network(), splits(), plan(), tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(LockedError):
        evaluate_model(image_network(), splits(), plan(), tmp_path)


FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))
"""


def _command(folder, *more):
    names = ["made_here:make", "--data", "fashion-mnist-10k", "--eps", "0.02", "--limit", "300"]
    how = ["--attacks", "fgsm,pgd-20,cw-20", "--batch-size", "16", "--quiet", "--out", str(folder)]
    return [sys.executable, "-m", "robustlens", "evaluate", *names, *how, *more]


def test_kills_leave_the_same_masks(tmp_path):
    (tmp_path / "made_here.py").write_text(FACTORY)

    def finish(folder, *more):
        return subprocess.run(_command(folder, *more), cwd=tmp_path, capture_output=True, text=True)

    assert finish(tmp_path / "whole").returncode == 0
    for stop, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        folder = tmp_path / stop.name
        process = subprocess.Popen(
            _command(folder), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ledger = folder / "evaluation.state" / "test" / "progress.safetensors"
        while process.poll() is None and not ledger.exists():
            time.sleep(0.005)
        process.send_signal(stop)
        assert process.wait() == code
        assert not (folder / "evaluation.json").exists()
        refused = finish(folder, "--restarts", "2")
        assert refused.returncode == 7, refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert finish(folder).returncode == 0
        whole, found = (load_file(Path(at) / "evaluation.safetensors") for at in (tmp_path / "whole", folder))
        assert whole.keys() == found.keys()
        assert all(np.array_equal(whole[key], found[key]) for key in whole)


# -- leaderboard ---------------------------------------------------------------------------------------


def content(**changes):
    test = {
        "clean": {"value": 0.8534},
        "by_attack": {"apgd-ce": {"value": 0.6}, "square": {"value": 0.53415}},
        "flags": [],
    }
    found = {"attacks": ["apgd-ce", "square"], "suites": {"standard": ["apgd-ce", "square"]}}
    return found | {"threat": {"eps": 8 / 255}, "splits": {"test": test | changes}}


def test_leaderboard_fields():
    entry = leaderboard_entry(content(), name="Ours", dataset="cifar10", architecture="resnet20")
    assert list(entry) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
        "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "unreliable",
    ]  # fmt: skip
    assert (entry["clean_acc"], entry["autoattack_acc"], entry["eps"]) == ("85.34", "53.41", "8/255")
    assert entry["unreliable"] is False
    flagged = leaderboard_entry(content(flags=[{"name": "randomised"}]), footnote="Ours.")
    assert flagged["unreliable"] is True
    assert flagged["footnote"] == "Ours. Reliability flags: randomised."


def test_leaderboard_needs_the_standard_suite():
    with pytest.raises(ConfigError, match="expected the suite standard"):
        leaderboard_entry(content() | {"suites": {}})
