"""Points of an adversarial weight-loss landscape, against the same by a plain loop.

    python bench/landscape.py --run robustlens-out/cifar10/runs/at-8_255-s0 --data-dir FOLDER [--rounds 3]

The plain loop is written as public scripts are: the weights moved one point at a time, PGD by autograd with
weights that ask for gradients too, default memory layout, freed memory given back to the system. Both make
the same points: the same directions and random starts, the most harmful iterate kept, loss in float32.
Rounds alternate in one process, and the ratio is of medians.
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

import robustlens as rl
from robustlens import noise
from robustlens.explain.landscape import filter_normalised, landscape
from robustlens.machine import keep_memory
from robustlens.results import Run

ALPHAS = (-0.5, 0.0, 0.5)


def give_memory_back() -> None:
    """Undo `keep_memory`: glibc's own thresholds."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-3, 128 * 1024)
    mallopt(-1, 128 * 1024)


def plain_loop(model: nn.Module, x: Tensor, y: Tensor, threat: rl.ThreatModel, steps: int) -> np.ndarray:
    """Loss (k, 1, n) along the first direction, as scripts write it."""
    give_memory_back()
    direction = filter_normalised(model, noise.generator_for(0, 0))
    parameters = dict(model.named_parameters())
    saved = {name: parameters[name].detach().clone() for name in direction}
    start = threat.start_from(noise.fold(noise.keys(x, 0), 0), x)
    points = []
    for alpha in ALPHAS:
        with torch.no_grad():
            for name, d in direction.items():
                parameters[name].copy_(saved[name] + alpha * d)
            clean = model(x)
        best, won = F.cross_entropy(clean, y, reduction="none"), clean.argmax(1) != y
        x_adv = start
        for step in range(steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = model(x_adv)
            loss, wrong = F.cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y
            better = torch.where(won == wrong, loss > best, wrong)
            best, won = torch.where(better, loss.detach(), best), won | wrong
            if step < steps:
                loss.sum().backward()
                assert x_adv.grad is not None
                x_adv = x_adv.detach() + threat.default_step_size * x_adv.grad.sign()
                x_adv = torch.min(torch.max(x_adv, x - threat.eps), x + threat.eps).clamp(0, 1)
                model.zero_grad()
        points.append(best.numpy())
    with torch.no_grad():
        for name, weight in saved.items():
            parameters[name].copy_(weight)
    return np.stack(points)[:, None]


def ours(model: nn.Module, x: Tensor, y: Tensor, threat: rl.ThreatModel, steps: int) -> np.ndarray:
    """The same through robustlens."""
    keep_memory()
    return landscape(model, x, y, threat, alphas=ALPHAS, steps=steps)["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, help="where the run's data lie, if not on the hub")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    model = rl.models.load(arguments.run).eval()
    recipe = Run(arguments.run).recipe
    test = rl.data.load(recipe.data.name, data_dir=arguments.data_dir).test.take(arguments.images, 0)
    x, y, threat = test.x(), test.labels, rl.ThreatModel("Linf", 8 / 255)
    contestants: dict[str, Callable[..., np.ndarray]] = {"plain": plain_loop, "robustlens": ours}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    values: dict[str, np.ndarray] = {}
    for round_ in range(arguments.rounds + 1):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            values[name] = contestant(model, x, y, threat, arguments.steps)
            if round_ > 0:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
    apart = np.abs(values["plain"] - values["robustlens"])
    means = {name: found.mean((1, 2), dtype=np.float64) for name, found in values.items()}
    found = {
        "model": recipe.model.name,
        "points": len(ALPHAS),
        "images": arguments.images,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratio": statistics.median(seconds["plain"]) / statistics.median(seconds["robustlens"]),
        "largest_difference_of_an_image": float(apart.max()),
        "largest_difference_of_a_mean": float(np.abs(means["plain"] - means["robustlens"]).max()),
    }
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
