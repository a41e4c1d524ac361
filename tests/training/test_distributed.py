"""Training in several processes."""

import copy
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import robustlens as rl
from helpers.small_models import images
from helpers.training_runs import assert_same_bits, distance, weights_of
from robustlens import processes
from robustlens.errors import ConfigError
from robustlens.models.whole_batch_norm import WholeBatchNorm1d, batch_statistics, with_whole_batch_norm
from robustlens.results import Run
from robustlens.training import distributed
from test_contracts import OBJECTIVE_ROWS

PLAIN = {"name": "small-cnn", "options": {"width": 4, "hidden": 8}}
THREAT = {"norm": "L2", "eps": 0.5}  # whose steps follow the gradient: signs turn rounding into other images
RANKS = Path(__file__).resolve().parents[1] / "helpers" / "ranks.py"


def carried_out(folder, *trainings):
    """Exit codes of trainings (number of ranks, arguments of `helpers.ranks.training`), and what they said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(RANKS), json.dumps(trainings)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def assert_trained_alike(folder, name, other, within=2e-5):
    one, two = (Run(folder / each) for each in (name, other))
    assert distance(weights_of(one), weights_of(two)) < within
    assert len(one.metrics()) == len(two.metrics()) == 2
    for mine, theirs in zip(one.metrics(), two.metrics(), strict=True):
        assert theirs.loss == pytest.approx(mine.loss, rel=1e-4)
        assert theirs.validation.robust == mine.validation.robust
        assert theirs.train.loss == pytest.approx(mine.train.loss, rel=1e-4)


@pytest.mark.slow
def test_ranks_train_one_network_as_one_process_does_also_after_a_kill_and_in_other_numbers(tmp_path):
    """With BatchNorm over the whole batch, and AWP; micro-batches, which differ, are for a network without.

    In L2, whose steps follow the gradient: signs, as of Linf, turn rounding near zero into other images.
    """
    whole = {
        "sync_batch_norm": True,
        "optimizer": {"epochs": 2, "batch_size": 16, "lr": 0.05},
        "threat": {"norm": "L2", "eps": 0.5},
    }
    codes, said = carried_out(
        tmp_path,
        [1, {"out": "one", **whole}],
        [2, {"out": "two", **whole}],
        [4, {"out": "killed", "die": 2, **whole}],
        [2, {"out": "killed", "strays": "elsewhere", **whole}],
        [2, {"out": "one", "strays": "elsewhere", **whole}],
        *([ranks, {"out": f"plain-{ranks}", "model": PLAIN}] for ranks in (1, 2)),
    )
    assert (codes[0], codes[1], codes[3], codes[4]) == ([0], [0, 0], [0, 0], [0, 0]), said
    assert codes[2][2] == 17
    assert 0 not in codes[2], "no rank goes on without the one that was killed"
    for name in ("two", "killed"):
        assert_trained_alike(tmp_path, "one", name)
    assert_trained_alike(tmp_path, "plain-1", "plain-2")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["gradient-penalty", "trades"])
def test_ranks_of_mixed_precision_train_as_one_process_does(objective, tmp_path):
    """Also where the objective takes gradients of images itself; sums in bfloat16 are rounded at 2^-8."""
    mixed = {"model": PLAIN, "objective": objective, "precision": "bf16-mixed", "threat": THREAT}
    codes, said = carried_out(tmp_path, *([ranks, {"out": str(ranks), **mixed}] for ranks in (1, 2)))
    assert codes == [[0], [0, 0]], said
    one, two = (weights_of(Run(tmp_path / name)) for name in "12")
    assert distance(one, two) < 1e-3


@pytest.mark.slow
def test_batch_norm_of_each_rank_resumes_to_the_same_bits(tmp_path):
    codes, said = carried_out(
        tmp_path,
        [2, {"out": "whole", "ema": 0.9}],
        [2, {"out": "killed", "die": 1, "ema": 0.9}],
        [2, {"out": "killed", "ema": 0.9}],
        [2, {"out": "other", "seed": 1}],
        [4, {"out": "few", "data": {"name": "arrays"}, "optimizer": {"epochs": 1, "batch_size": 128}}],
    )
    assert codes[:3:2] == [[0, 0], [0, 0]], said
    assert codes[1][1] == 17
    assert_same_bits(weights_of(Run(tmp_path / "whole")), weights_of(Run(tmp_path / "killed")))
    assert codes[3] == [3, 3], "images of another folder are refused by all"
    assert "in process 1" in said
    assert not (tmp_path / "other").exists()
    assert codes[4] == [2] * 4, "fewer images than a batch, whose shares differ"
    assert "one batch of all" in said


SHAPES = [
    (torch.nn.BatchNorm1d, ()),
    (torch.nn.BatchNorm1d, (6,)),
    (torch.nn.BatchNorm2d, (4, 4)),
    (torch.nn.BatchNorm3d, (2, 3, 2)),
]


@pytest.fixture
def group():
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("alike", [1, 2])
@pytest.mark.parametrize(("kind", "shape"), SHAPES, ids=str)
def test_batch_norm_of_processes_is_that_of_one_with_the_whole_batch(group, monkeypatch, kind, shape, alike):
    """Outputs, gradients, second gradients, statistics: of one process, and of two whose shares are the same."""
    torch.manual_seed(0)
    networks = [kind(3).double() for _ in range(2)]
    x = torch.rand(5, 3, *shape, dtype=torch.float64)
    summed = torch.distributed.all_reduce
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda each, **_: (summed(each), each.mul_(alike)))

    def measured(network, points, repeats):
        loss = network(torch.cat([points] * repeats)).pow(3).sum() / repeats
        (slope,) = torch.autograd.grad(loss, points, create_graph=True)
        (bend,) = torch.autograd.grad(slope.square().sum(), points)
        return [slope, bend, network.running_mean, network.running_var, network.eval()(points)]

    whole = measured(networks[0], x.clone().requires_grad_(), alike)
    own = measured(with_whole_batch_norm(networks[1]), x.clone().requires_grad_(), 1)
    for mine, theirs in zip(whole, own, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match=r"expected .*D"):
        networks[1].train()(x.flatten()[:, None, None, None, None, None])


def in_turns(monkeypatch, shares, work):
    """What `work` gives for each share of a batch, in a thread for each: processes that sum over all."""
    sums, together, here = [None] * len(shares), threading.Barrier(len(shares), timeout=60), threading.local()

    def all_reduce(tensor, group=None):
        sums[here.rank] = tensor.clone()
        together.wait()
        total = torch.stack(sums).sum(0)
        together.wait()
        tensor.copy_(total)

    def share(rank):
        here.rank = rank
        return work(shares[rank])

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(processes, "are_connected", lambda: True)
    with ThreadPoolExecutor(len(shares)) as threads:
        return list(threads.map(share, range(len(shares))))


@pytest.mark.parametrize("name", OBJECTIVE_ROWS)
def test_ranks_with_other_images_have_the_gradient_of_one_process(name, monkeypatch):
    """Of every objective, with BatchNorm over the whole batch."""
    objective = rl.objectives.get(name, **OBJECTIVE_ROWS[name])
    x, y = (each[:4] for each in images())
    x = x.double() * torch.tensor([0.2, 0.5, 0.8, 1.0]).view(-1, 1, 1, 1)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
    torch.manual_seed(0)
    first = torch.nn.Sequential(
        *layers, torch.nn.LazyLinear(5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 5)
    )
    first(x.float())
    first = first.double()

    def gradient(network, share):
        loss = objective(network, x[share], (x[share] + 0.05).clamp(0, 1), y[share]).mean()
        return torch.autograd.grad(loss, list(network.parameters()))

    whole = gradient(copy.deepcopy(first), slice(None))
    ranks = in_turns(
        monkeypatch,
        (slice(0, 2), slice(2, 4)),
        lambda share: gradient(with_whole_batch_norm(copy.deepcopy(first)), share),
    )
    for expected, *parts in zip(whole, *ranks, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", [torch.nn.SyncBatchNorm, WholeBatchNorm1d])
def test_statistics_of_layers_over_all_ranks_are_those_of_the_whole_batch(kind, monkeypatch):
    """Torch's own, of a network from elsewhere, too; in float64, as what they read has it."""
    x = torch.rand(6, 3, 5, dtype=torch.float64)
    ranks = in_turns(monkeypatch, (x[:2], x[2:]), lambda share: batch_statistics(kind(3), share))
    for mean, variance in ranks:
        torch.testing.assert_close(mean, x.mean([0, 2]), rtol=1e-12, atol=0)
        torch.testing.assert_close(variance, x.var([0, 2], unbiased=False), rtol=1e-12, atol=0)


class OwnNorm(torch.nn.BatchNorm2d):
    """Normalises in a way of its own."""


def test_a_batch_norm_that_nobody_knows_is_refused_by_name():
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.ReLU(), OwnNorm(3)))
    with pytest.raises(ConfigError, match=r"^sync_batch_norm: found OwnNorm at '1\.1', expected") as caught:
        with_whole_batch_norm(network)
    assert "\n" not in str(caught.value)
    kept = torch.nn.Sequential(torch.nn.SyncBatchNorm(3), torch.nn.InstanceNorm2d(3), torch.nn.BatchNorm1d(3))
    names = [type(each).__name__ for each in with_whole_batch_norm(with_whole_batch_norm(kept))]
    assert names == ["SyncBatchNorm", "InstanceNorm2d", "WholeBatchNorm1d"]
    assert isinstance(kept[2], torch.nn.BatchNorm1d)


def test_ranks_above_zero_read_and_leave_all_writing_to_the_first(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with distributed.writer_lock(distributed.run_at(folder)):
        assert (folder / "lock").exists()
        monkeypatch.setenv("RANK", "1")
        other = distributed.run_at(folder)
        with distributed.writer_lock(other):  # no second writer: it does not ask for the lock
            other.update(status="failed")
    assert not (folder / "run.json").exists()
