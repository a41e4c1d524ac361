"""Adversarial training on a GPU: images per second, against the same step written plainly and the peak.

    python bench/gpu.py [--models preactresnet18 wrn-28-10] [--batch-size 128] [--rounds 10] [--out FILE]
    python bench/gpu.py --dry-run       two images and one step of the attack on a CPU: it runs, no more

For each network, AT and AT+AWP with PGD-10 in bfloat16 mixed precision, in one process, rounds alternating,
medians. The plain step is `training_step.PlainLoop`: the published code's, and the lean one, both under
autocast with images channels last. Ours is the step of `robustlens train`: as it is, compiled, and compiled
with `fast: true`.

The operations of a step are counted by torch (`FlopCounterMode`, a multiplication and an addition are two) on
the lean loop; their share of the peak is of what a product of two 8192 x 8192 bfloat16 matrices reaches on
the same device in the same process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import robustlens as rl
from robustlens.machine import environment, float32_products, repeatable
from training_step import STEPS, PlainLoop, our_step

VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, compiled": {"compile": True},
    "ours, compiled and fast": {"compile": True, "fast": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["preactresnet18", "wrn-28-10"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU: two images, one step, one round")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    asked = parser.parse_args()
    if asked.dry_run:
        asked.batch_size, asked.steps, asked.rounds = 2, 1, 1
    elif not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --dry-run takes the CPU")
    device = torch.device("cpu" if asked.dry_run else "cuda")
    peak = product_rate(device, 256 if asked.dry_run else 8192)
    results: dict[str, Any] = {
        "environment": environment(device),
        "batch_size": asked.batch_size,
        "steps": asked.steps,
        "rounds": asked.rounds,
        "dry_run": asked.dry_run,
        "product_teraflops": peak / 1e12,
        "networks": {},
    }
    for name in asked.models:
        for awp in (False, True):
            key = f"{name}, {'AT+AWP' if awp else 'AT'}"
            results["networks"][key] = measured(name, awp, asked, device, peak)
            print(key, json.dumps(results["networks"][key], indent=1), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measured(
    name: str, awp: bool, asked: argparse.Namespace, device: torch.device, peak: float
) -> dict[str, Any]:
    """Of each step of one network: images per second, ratio to the published loop, share of the peak."""
    torch.manual_seed(0)
    x = torch.rand(asked.batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(asked.batch_size, device=device) % 10
    steps = contestants(name, x, y, awp=awp, number=asked.steps, dry_run=asked.dry_run)
    operations = count(steps["lean"])
    seconds: dict[str, list[float]] = {each: [] for each in steps}
    for round_ in range(asked.rounds + 2):
        for each, step in steps.items():
            fast = each.endswith("fast")
            with float32_products(), repeatable(device, fast=fast or not each.startswith("ours")):
                spent = timed(step, device)
            if round_ >= min(2, asked.rounds):  # the first two compile and warm up
                seconds[each].append(spent)
    medians = {each: statistics.median(spent) for each, spent in seconds.items()}
    return {
        each: {
            "images_per_second": asked.batch_size / median,
            "times_published": medians["published"] / median,
            "share_of_peak": operations / median / peak,
        }
        for each, median in medians.items()
    }


def contestants(
    name: str, x: Tensor, y: Tensor, *, awp: bool, number: int, dry_run: bool
) -> dict[str, Callable[[], object]]:
    """Each way to take a step, with a network of its own."""

    def plain(published: bool) -> Callable[[], object]:
        torch.manual_seed(0)
        network: Any = rl.models.get(name, num_classes=10, in_channels=3)
        model = network.to(x.device, memory_format=torch.channels_last)
        loop = PlainLoop(model, awp=awp, published=published, steps=number)

        def step() -> None:
            with torch.autocast(x.device.type, torch.bfloat16):
                loop(x, y)

        return step

    ways = {"published": plain(published=True), "lean": plain(published=False)}
    variants = {"ours": {}} if dry_run else VARIANTS  # compiling for a CPU takes minutes
    ours = {
        each: our_step(name, x, y, awp=awp, steps=number, precision="bf16-mixed", **fields)
        for each, fields in variants.items()
    }
    return {**ways, **ours}


def count(step: Callable[[], object]) -> float:
    """Floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def product_rate(device: torch.device, size: int) -> float:
    """Operations per second of a product of two square bfloat16 matrices, the best of ten."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / min(timed(lambda: a @ a, device) for _ in range(10))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of work, until the device is done with it."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
