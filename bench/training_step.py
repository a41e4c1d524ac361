"""One PGD-10 adversarial training step: ours against a plain loop, side by side in one process.

    python bench/training_step.py [--model small-cnn] [--rounds 7]

The plain loop is written as public training scripts are: parameters differentiated while attacking, one
forward pass per step and one more at the end, default memory layout. Both do the same work: uniform start, 10
steps, one update. Rounds alternate, and the ratio is of medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

import robustlens as rl
from robustlens.machine import keep_memory

SHAPES = {"small-cnn": (1, 28, 28), "small-cnn-bn": (1, 28, 28)}
EPS, STEP, STEPS = 8 / 255, 2 / 255, 10


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Adversarial training as scripts write it."""
    model.eval()
    x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y)
        loss.backward()
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + STEP * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    with torch.no_grad():
        model(x_adv)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x_adv), y).backward()
    optimizer.step()


def our_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, precision: str
) -> None:
    """The same through robustlens."""
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", EPS), steps=STEPS, step_size=STEP, keep="last")
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        x_adv = attack(model, x, y)
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x_adv), y)
    loss.backward()
    optimizer.step()


def contestants(name: str, device: torch.device) -> dict[str, Callable[[Tensor, Tensor], None]]:
    """Each way to do one step, on a model and an optimizer of its own."""
    channels = SHAPES.get(name, (3, 32, 32))[0]

    def prepared(
        step: Callable[..., None], layout: torch.memory_format, *extra: str
    ) -> Callable[[Tensor, Tensor], None]:
        torch.manual_seed(0)
        model: Any = rl.models.get(name, num_classes=10, in_channels=channels)
        model = model.to(device, memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        return lambda x, y: step(model, optimizer, x, y, *extra)

    return {
        "plain": prepared(plain_step, torch.contiguous_format),
        "ours fp32": prepared(our_step, torch.channels_last, "fp32"),
        "ours bf16": prepared(our_step, torch.channels_last, "bf16"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep-memory", action="store_true", help="for all, so it helps the plain loop too")
    arguments = parser.parse_args()
    if arguments.keep_memory:
        keep_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.rand(128, *SHAPES.get(arguments.model, (3, 32, 32)), device=device)
    y = torch.randint(0, 10, (128,), device=device)
    steps = contestants(arguments.model, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step(x, y)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ > 0:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["plain"])
    for name, times in seconds.items():
        print(
            f"{name:10s} {1000 * statistics.median(times):8.1f} ms   {base / statistics.median(times):.2f}x"
        )


if __name__ == "__main__":
    main()
