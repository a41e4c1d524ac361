"""A stopped evaluation goes on where it stopped, ends with the same masks, and belongs to one evaluation only."""

import hashlib
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import robustlens as rl
from helpers.evaluated_models import THREAT, assert_same, evaluated, network, stop_after
from helpers.golden import unpack
from robustlens import cli
from robustlens.config import EvaluationPlan
from robustlens.errors import StateError, StoppedError
from robustlens.evaluation import evaluate_run
from robustlens.evaluation.identity import _settings, identity
from robustlens.results import Run

pytestmark = pytest.mark.lasts(60)


@pytest.mark.slow
def test_a_stop_after_any_batch_changes_nothing(tmp_path):
    events = []
    whole = evaluated(progress=events.append)
    assert 0 < whole.robust.sum() < whole.clean.sum()
    for batches in range(1, len(events) + 1):
        state = tmp_path / str(batches)
        with pytest.raises(StoppedError):
            evaluated(state, progress=stop_after(batches))
        assert_same(evaluated(state), whole)


def test_many_stops_in_a_row_end_too(tmp_path):
    for _ in range(100):
        try:
            evaluation = evaluated(tmp_path, progress=stop_after(2))
            break
        except StoppedError:
            continue
    assert_same(evaluation, evaluated())


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
        evaluated(tmp_path, progress=stop_after(3))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StateError, match=said) as caught:
        evaluated(tmp_path, **change)
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 500])
def test_damaged_state_is_refused(tmp_path, content):
    with pytest.raises(StoppedError):
        evaluated(tmp_path, progress=stop_after(3))
    (tmp_path / "progress.safetensors").write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        evaluated(tmp_path)


def test_the_batch_size_may_change_after_a_stop(tmp_path):
    with pytest.raises(StoppedError):
        evaluated(tmp_path, progress=stop_after(4))
    assert torch.equal(evaluated(tmp_path, batch_size=7).robust, evaluated().robust)


IDENTITIES_0_1 = {
    "apgd-t": "APGD(threat=T, steps=100, restarts=1, loss='dlr', targets=0, eot=1, rho=0.75, "
    "stop_at_success=True, seed=0, restart=0, target_rank=1)",
    "fab-t": "FAB(threat=T, steps=100, restarts=1, targets=0, alpha_max=0.1, eta=1.05, beta=0.9, "
    "stop_at_success=True, seed=0, restart=0, target_rank=1)",
    "square": "Square(threat=T, queries=5000, restarts=1, share=0.8, seed=0, restart=0)",
}


@pytest.mark.parametrize("name", IDENTITIES_0_1)
def test_attacks_have_the_identity_that_they_had_in_version_0_1(name):
    """A stopped evaluation is bound to it: where a class declares its settings must not matter."""
    attack = rl.attacks.tries_of(rl.attacks.chosen("standard", THREAT)[name])[:2][-1]
    assert _settings(attack).replace(repr(THREAT), "T") == IDENTITIES_0_1[name]


def test_how_many_points_are_asked_about_at_once_is_no_part_of_an_identity():
    assert _settings(rl.attacks.Square(THREAT, at_once=64)) == _settings(rl.attacks.Square(THREAT))


def test_images_and_suites_have_the_hashes_that_they_had_in_version_0_1():
    x, y = torch.arange(12.0).view(3, 4) / 16, torch.tensor([0, 1, 0])
    attacks = [(name, rl.attacks.get(name, THREAT)) for name in ("fgsm", "square")]
    bound_to = identity(network(), x, y, THREAT, attacks, "32-true")
    suite = "".join(f"{name}: {_settings(attack)}; " for name, attack in attacks)
    # Little-endian float32 pixels, then int64 labels.
    pixels = b"".join(struct.pack("<f", number / 16) for number in range(12))
    labels = b"".join(struct.pack("<q", label) for label in (0, 1, 0))
    assert bound_to["selection of images"] == hashlib.sha256(pixels + labels).hexdigest()[:16]
    assert bound_to["suite of attacks"] == hashlib.sha256(suite.encode()).hexdigest()[:16]
    assert bound_to["precision"] == "32-true"


def test_an_evaluation_that_version_0_1_stopped_goes_on_with_the_same_masks(tmp_path):
    folder = unpack("format-1", tmp_path)
    plan = EvaluationPlan(test_examples=64, train_examples=64, save_adversarial=True, curve_search="plain")
    run, whole = Run(folder / "evaluating"), Run(folder / "whole")
    events = []
    result = evaluate_run(run, plan, progress=events.append)
    assert {event.phase.split()[0] for event in events} == {"train"}, "the test images were attacked before"
    for name in ("evaluation", "adversarial"):
        new, old = (load_file(one.folder / f"{name}.safetensors") for one in (run, whole))
        assert new.keys() == old.keys()
        for key in old:  # strided first convolutions round otherwise today: the last digit of a distance
            last_digit = 1e-7 if key.endswith("/distance") else 0.0
            assert np.allclose(new[key], old[key], rtol=0, atol=last_digit, equal_nan=True), key
    before = whole.evaluation()
    assert before.provenance.matches(result.provenance)
    assert before.gaps == result.gaps
    for name, split in before.splits.items():
        assert (split.by_attack, split.curve) == (result.splits[name].by_attack, result.splits[name].curve)
    assert not (run.folder / "evaluation.state").exists()


FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10))
"""


def _command(folder, *more):
    names = ["made_for_resume:make", "--data", "fashion-mnist-10k", "--eps", "0.02", "--limit", "300"]
    how = ["--attacks", "fgsm,pgd-20,cw-20", "--batch-size", "16", "--quiet", "--out", str(folder)]
    return [sys.executable, "-m", "robustlens", "evaluate", *names, *how, *more]


@pytest.mark.slow
def test_kills_leave_the_same_masks(tmp_path, monkeypatch, capsys):
    (tmp_path / "made_for_resume.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_for_resume", raising=False)  # of another test

    def finish(folder, *more):
        """In this process: what is killed needs one of its own, what goes on does not."""
        return cli.run(_command(folder, *more)[3:])

    assert finish(tmp_path / "whole") == 0
    for stop, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        folder = tmp_path / stop.name
        process = subprocess.Popen(
            _command(folder), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        state = folder / "evaluation.state" / "test" / "progress.safetensors"
        while process.poll() is None and not state.exists():
            time.sleep(0.005)
        process.send_signal(stop)
        assert process.wait() == code
        assert not (folder / "evaluation.json").exists()
        capsys.readouterr()
        assert finish(folder, "--restarts", "2") == 7
        said = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in said if "taken over from process" not in line]) == 1
        assert finish(folder) == 0
        whole, evaluation = (
            load_file(Path(at) / "evaluation.safetensors") for at in (tmp_path / "whole", folder)
        )
        assert whole.keys() == evaluation.keys()
        assert all(np.array_equal(whole[key], evaluation[key]) for key in whole)
