"""An evaluation in shards: the same masks as in one process, however many there are and wherever one stops."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import robustlens as rl
from helpers.evaluated_models import (
    ATTACKS,
    THREAT,
    assert_same,
    blob_splits,
    evaluated,
    image_network,
    image_splits,
    linear,
    plan,
    problem,
    run_of,
    stop_after,
)
from robustlens import models
from robustlens.config import BEST, LAST, EvaluationPlan
from robustlens.errors import ConfigError, StateError, StoppedError
from robustlens.evaluation import (
    Shard,
    attack_run,
    attack_shard,
    attack_splits,
    evaluate_run,
    evaluate_splits,
    shards_at_most,
)
from robustlens.evaluation.shards import block_size
from robustlens.results import Run

pytestmark = pytest.mark.lasts(60)


@dataclass(frozen=True)
class Neighbourly:
    """FGSM, or nothing at all, by the mean of its batch: who shares a batch decides."""

    threat: rl.ThreatModel

    def __call__(self, model, x, y, *, generator=None):
        attacks = float(x.mean()) * 1e5 % 2 < 1
        return rl.attacks.FGSM(self.threat)(model, x, y) if attacks else x


WIDE = rl.ThreatModel("Linf", 0.25)
NEIGHBOURLY = Neighbourly(WIDE)
SETTINGS = {"restarts": 2, "curve": (), "batch_size": 16}


def attacked(state, shard, attacks=ATTACKS, **more):
    model, x, y = problem(150)
    attack_shard(model, x, y, WIDE, attacks, shard=shard, state=state, **SETTINGS | more)


def whole(state=None, attacks=ATTACKS, **more):
    _, x, y = problem(150)
    return evaluated(state, x=x, y=y, threat=WIDE, attacks=attacks, **SETTINGS | more)


def not_again(event):
    raise AssertionError(f"attacked again: {event}")


@pytest.mark.parametrize("images", [0, 1, 4, 5, 128, 129, 1000, 10_000])
@pytest.mark.parametrize("of", [1, 3, 8])
def test_shards_are_whole_blocks_of_whole_batches_and_hold_every_image_once(images, of):
    shards = [Shard(number, of) for number in range(of)]
    blocks = sorted(block for shard in shards for block in shard.blocks(images, 4))
    assert len(blocks) <= 32
    assert [first for first, _ in blocks] == list(range(0, images, block_size(images, 4)))
    assert block_size(images, 4) % 4 == 0
    rows = torch.cat([shard.rows(images, 4) for shard in shards])
    assert rows.sort().values.tolist() == list(range(images))


@pytest.mark.parametrize(("number", "of"), [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_is_not_there_is_refused(number, of):
    with pytest.raises(ConfigError, match="shard: found"):
        Shard(number, of)


@pytest.mark.parametrize(
    ("attacks", "of", "curve"), [(ATTACKS, 2, (0.5, 2)), ((NEIGHBOURLY, "fgsm", "pgd-5"), 4, ())]
)
def test_shards_put_together_are_the_evaluation_in_one_process(tmp_path, of, attacks, curve):
    given = {"curve": curve, "save_adversarial": True}
    alone = whole(attacks=attacks, flags=True, **given)
    assert 0 < alone.robust.sum() < alone.clean.sum()
    for number in reversed(range(of)):
        attacked(tmp_path, Shard(number, of), attacks, **given)
    together = whole(tmp_path, attacks, progress=not_again, flags=True, **given)
    assert_same(together, alone)
    for name in ("labels", "predictions", "loss", "clean", "x_adv"):
        assert torch.equal(getattr(together, name), getattr(alone, name)), name
    assert (together.flags, together.notes) == (alone.flags, alone.notes)


def test_a_shard_keeps_adversarial_images_only_where_they_are_asked_for(tmp_path):
    for name, asked in (("without", {}), ("with", {"save_adversarial": True})):
        attacked(tmp_path / name, Shard(0, 2), **asked)
        assert bool(list((tmp_path / name).glob("adversarial-*"))) == bool(asked)


def test_who_shares_a_batch_matters_to_that_attack():
    """The oracle above is one: with other batches its masks are others."""
    one, other = (whole(attacks=(NEIGHBOURLY,), batch_size=size).robust for size in (16, 7))
    assert not torch.equal(one, other)


def test_work_that_was_stopped_goes_on_in_another_number_of_shards(tmp_path):
    attacks = (NEIGHBOURLY, "fgsm", "pgd-5")
    sizes = [4, 3, 2, 5, 1]
    for sitting, of in enumerate(sizes):
        for number in range(of):
            try:
                attacked(tmp_path, Shard(number, of), attacks, progress=stop_after(3 + sitting))
            except StoppedError:
                continue
    numbers = {path.stem[-1] for path in tmp_path.glob("progress-*.safetensors")}
    assert {"4", "3"} <= numbers
    assert_same(whole(tmp_path, attacks), whole(attacks=attacks))


def test_time_is_the_sum_over_shards_and_sittings(tmp_path):
    files = []
    for number in range(2):
        with pytest.raises(StoppedError):
            attacked(tmp_path, Shard(number, 2), progress=stop_after(8))
        attacked(tmp_path, Shard(number, 2))
        files.append(load_file(tmp_path / f"progress-{number + 1}-of-2.safetensors")["seconds"])
    spent = whole(tmp_path, progress=not_again).seconds
    assert sum(spent.values()) == pytest.approx(float(np.sum(files)))
    assert all(seconds.min() > 0 for seconds in files)


def test_a_shard_of_another_evaluation_is_refused(tmp_path):
    attacked(tmp_path, Shard(1, 2))
    with pytest.raises(StateError, match=r"progress-2-of-2.*another suite"):
        attacked(tmp_path, Shard(0, 2), seed=1)
    with pytest.raises(StateError, match=r"progress-2-of-2.*another suite"):
        whole(tmp_path, ("fgsm",))


def test_a_random_model_has_the_same_verdicts_in_shards(tmp_path):
    model, x, y = problem(60)
    model = torch.nn.Sequential(*model, torch.nn.Dropout(0.3))
    model.forward = lambda x: torch.nn.functional.dropout(torch.nn.Sequential.forward(model, x), 0.3, True)
    given = {"restarts": 1, "curve": (), "batch_size": 8}
    alone = evaluated(None, model=model, x=x, y=y, attacks=("fgsm",), **given)
    for number in range(3):
        attack_shard(model, x, y, THREAT, ("fgsm",), shard=Shard(number, 3), state=tmp_path, **given)
    together = evaluated(tmp_path, model=model, x=x, y=y, attacks=("fgsm",), progress=not_again, **given)
    assert any("draws random numbers" in note for note in alone.notes)
    assert_same(together, alone)


def test_a_model_of_closed_form_is_judged_alike(tmp_path):
    """A linear model is broken exactly where its margin is at most eps."""
    model, x, y, margin = linear()
    threat = rl.ThreatModel("Linf", float(margin.median()))
    for number in range(4):
        shard = Shard(number, 4)
        attack_shard(model, x, y, threat, ("pgd-20",), shard=shard, state=tmp_path, batch_size=16)
    found = rl.evaluate(model, x, y, threat, ("pgd-20",), batch_size=16, state=tmp_path, flags=False)
    clear = (margin - threat.eps).abs() > 1e-6
    assert torch.equal(found.robust[clear], (found.clean & (margin > threat.eps))[clear])


def test_both_splits_and_every_checkpoint_of_a_run_in_shards(tmp_path):
    splits, asked = (
        blob_splits(),
        plan(checkpoint="both", attacks=["fgsm"], batch_size=16, save_adversarial=True),
    )
    runs = [run_of(splits, tmp_path / name, [BEST, LAST]) for name in ("alone", "together")]
    evaluate_run(runs[0], asked, splits=splits)
    for number in range(2):
        attack_run(runs[1], asked, Shard(number, 2), splits=splits)
    evaluate_run(runs[1], asked, splits=splits, progress=not_again)
    for name in ("evaluation", "evaluation-last", "adversarial", "adversarial-last"):
        one, other = (load_file(run.folder / f"{name}.safetensors") for run in runs)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one), name


def test_a_shard_without_images_of_a_split_leaves_it(tmp_path):
    model, splits, asked = image_network(), image_splits(), plan(batch_size=16)
    assert shards_at_most(splits, asked) == 4  # of 60 training images, and 3 of 40 test images
    attack_splits(model, splits, asked, tmp_path, Shard(3, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    for number in range(3):
        attack_splits(model, splits, asked, tmp_path, Shard(number, 4))
    result, _ = evaluate_splits(model, splits, asked, state=tmp_path, progress=not_again)
    alone, _ = evaluate_splits(model, splits, asked)
    assert result.splits["train"].by_attack == alone.splits["train"].by_attack


# -- processes ---------------------------------------------------------------------------------------------

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(2704, 10))
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def command(*more, run=()):
    names = [
        "evaluate",
        "made_for_shards:make",
        "--data",
        "fashion-mnist-10k",
        "--eps",
        "0.02",
        "--limit",
        "96",
    ]
    how = ["--attacks", "fgsm,pgd-10", "--batch-size", "16", "--quiet"]
    return [sys.executable, *run, "-m", "robustlens", *names, *how, *more]


@pytest.mark.slow
def test_four_processes_killed_and_gone_on_with_by_three_ranks_give_the_masks_of_one(tmp_path, monkeypatch):
    (tmp_path / "made_for_shards.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder, where = tmp_path / "shards", {"cwd": tmp_path, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("--out", str(folder), "--devices", "4"), **where)
    while process.poll() is None and not list(folder.glob("*/*/progress-*-of-4.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "evaluation.json").exists()
    torchrun = command("--out", str(folder), run=[*TORCHRUN, "3"])
    done = subprocess.run(torchrun, check=True, timeout=300, text=True, stdout=subprocess.PIPE, **where)
    assert done.stdout.count("robust gap") == 1  # one of them prints
    together = Run(folder).evaluation()
    asked = EvaluationPlan.model_validate(together.provenance.plan)
    model = models.load("made_for_shards:make")
    alone, _ = evaluate_splits(model, rl.data.load("fashion-mnist-10k"), asked)
    for name, split in alone.splits.items():
        assert split.arrays.keys() == together.splits[name].arrays.keys()
        for key, array in split.arrays.items():
            assert np.array_equal(array, together.splits[name].arrays[key]), (name, key)
        assert split.by_attack == together.splits[name].by_attack


def test_the_only_shard_leaves_nothing_to_attack_in_either_split(tmp_path):
    model, splits, asked = image_network(), image_splits(), plan(attacks=["fgsm"])
    attack_splits(model, splits, asked, tmp_path, Shard())
    events = []
    shared, _ = evaluate_splits(model, splits, asked, state=tmp_path, progress=events.append)
    assert events == []
    alone, _ = evaluate_splits(model, splits, asked)
    for name, split in alone.splits.items():
        assert shared.splits[name].by_attack == split.by_attack


def test_shards_are_named_from_1_on():
    assert [str(Shard(number, 3)) for number in range(3)] == ["1/3", "2/3", "3/3"]
