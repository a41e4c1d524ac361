"""Training in several processes."""

import subprocess
import sys

import pytest

from helpers.training_runs import distance, weights_of
from robustlens.results import Run
from robustlens.training import distributed

TOGETHER = """
import sys, torch, robustlens as rl
from robustlens.training import distributed
from robustlens.config import Recipe
from robustlens.data import from_tensors
generator = torch.Generator().manual_seed(0)
x, y = (torch.rand(64, 1, 8, 8, generator=generator) * 255).to(torch.uint8), torch.arange(64) % 3
recipe = Recipe.model_validate({
    "model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}}, "attack": {"steps": 2},
    "optimizer": {"epochs": 2, "batch_size": 16, "lr": 0.05}, "data": {"name": "arrays", "augment": "crop-flip"},
    "monitor": {"examples": 8, "steps": 1}, "awp": {"gamma": 0.01}, "objective": "trades"})
rl.train(recipe, sys.argv[1], splits=from_tensors(x, y, x, y))
distributed.shutdown()
"""


@pytest.mark.slow
def test_two_processes_train_one_network_as_one_process_does(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    alone = [sys.executable, script, str(tmp_path / "alone")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for command in (alone, [*torchrun, script, str(tmp_path / "together")]):
        subprocess.run(command, check=True, timeout=300)
    one, two = (Run(tmp_path / name) for name in ("alone", "together"))
    a, b = weights_of(one), weights_of(two)
    assert distance(a, b) < 1e-6
    assert len(two.metrics()) == 2
    for mine, theirs in zip(one.metrics(), two.metrics(), strict=True):
        assert theirs.loss == pytest.approx(mine.loss, rel=1e-5)
        assert theirs.validation == mine.validation


def test_ranks_above_zero_read_and_leave_all_writing_to_the_first(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with distributed.writer_lock(distributed.run_at(folder)):
        assert (folder / "lock").exists()
        monkeypatch.setenv("RANK", "1")
        other = distributed.run_at(folder)
        with distributed.writer_lock(other):  # no second writer: it does not ask for the lock
            other.update(status="failed")
    assert not (folder / "run.json").exists()
