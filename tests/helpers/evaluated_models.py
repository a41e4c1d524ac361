"""Models, images and run folders for the tests of evaluations, and listeners that stop one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustlens as rl
from helpers.small_models import blobs
from robustlens import models
from robustlens.config import BEST, Checkpoint, EvaluationPlan, Recipe, checked
from robustlens.data import Splits, from_tensors
from robustlens.errors import StoppedError
from robustlens.evaluation import Evaluation
from robustlens.progress import Event, Listener
from robustlens.results import EpochRecord, Run

THREAT = rl.ThreatModel("Linf", 0.08)
ATTACKS = ("fgsm", "pgd-5", "cw-5")


def linear(dim: int = 40, n: int = 300, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A binary linear model whose exact Linf margin is |f| / ||w||_1 while no pixel meets the box.

    Returns model, images, labels (a fifth of them wrong) and margins.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(dim, 2).double().requires_grad_(False)
    model.weight.copy_(torch.randn(2, dim, generator=generator) * 0.3)
    model.bias.zero_()
    x = torch.rand(n, dim, generator=generator, dtype=torch.float64) * 0.2 + 0.4
    gap = model.weight[0] - model.weight[1]
    mislabelled = torch.rand(n, generator=generator) < 0.2
    y = (mislabelled ^ (x @ gap <= 0)).long()
    return model, x, y, (x @ gap).abs() / gap.abs().sum()


def network(seed: int = 0) -> nn.Sequential:
    """Twelve values to four classes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 4))


def problem(n: int = 50) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, images and labels, of which it gets every ninth wrong."""
    model = network()
    x = torch.rand(n, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, torch.where(torch.arange(n) % 9 == 0, (y + 1) % 4, y)


def evaluated(state: Path | None = None, **changes: Any) -> Evaluation:
    """The evaluation of `problem`, with changes of the arguments of `evaluate`."""
    model, x, y = problem()
    given: dict[str, Any] = {"model": model, "x": x, "y": y, "threat": THREAT, "attacks": ATTACKS}
    given |= {"restarts": 2, "curve": (0.5, 2), "batch_size": 16, "flags": False, "state": state}
    return rl.evaluate(**given | changes)


def stop_after(batches: int) -> Listener:
    """A listener that stops the work as a signal does."""
    left = [batches]

    def listen(event: Event) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError("stopped by SIGTERM")

    return listen


def assert_same(one: Evaluation, other: Evaluation) -> None:
    """Fail unless two evaluations have the same masks and distances, to the bit."""
    assert torch.equal(one.distance, other.distance)
    assert one.by_attack.keys() == other.by_attack.keys()
    for name in one.by_attack:
        assert torch.equal(one.by_attack[name], other.by_attack[name]), name
    for eps in one.curve:
        assert torch.equal(one.curve[eps], other.curve[eps]), eps
    assert (one.attacked, one.broken) == (other.attacked, other.broken)


# -- folders -------------------------------------------------------------------------------------------


def image_network(seed: int = 0) -> nn.Sequential:
    """`network`, of images (1, 3, 4)."""
    return nn.Sequential(nn.Flatten(), *network(seed))


def image_splits() -> Splits:
    """Images that `image_network` gets right in most cases."""
    _, x, y = problem(60)
    pixels = (x.view(60, 1, 3, 4) * 255).round().to(torch.uint8)
    return from_tensors(pixels, y, pixels[:40], y[:40], classes=tuple("abcd"))


def plan(**values: Any) -> EvaluationPlan:
    """A short evaluation."""
    known = {"threat": {"eps": 0.08}, "attacks": ["fgsm", "pgd-5"], "curve": [], "batch_size": 16}
    return checked(EvaluationPlan, known | values, "plan")


def blob_splits(seed: int = 0) -> Splits:
    """Images of three noisy patterns."""
    return from_tensors(*blobs(48, seed=seed), *blobs(24, seed=seed + 1))


def run_of(splits: Splits, folder: Path, checkpoints: Sequence[Checkpoint] = (BEST,)) -> Run:
    """A run folder as training writes it, with other random weights for each checkpoint."""
    recipe = checked(Recipe, {"model": {"name": "small-cnn", "options": {"width": 4, "hidden": 8}}}, "recipe")
    described = models.describe("small-cnn", num_classes=3, in_channels=1, width=4, hidden=8)
    run = Run(folder)
    run.bind(recipe)
    for seed, checkpoint in enumerate(checkpoints):
        torch.manual_seed(seed)
        weights = models.to_bytes(models.build_from(described), described, recipe.hash())
        run.write_weights(checkpoint, weights)
    for epoch in (1, 2, 3):
        run.append_metrics(EpochRecord(epoch))
    run.update(status="trained", data=splits.fingerprint, epochs_done=3, best_epoch=2)
    return run
