"""The adaptive minimum-norm search beside the plain one, on networks of quickstart, in one process.

    python bench/minimum_norm.py [--images 400] [--methods Standard "AT 0.1"] [--folder DIR] [--out FILE]

Trains networks of the built-in study (or takes those that are in DIR), and looks for the distances of test
images that they get right, as an evaluation does for its curve: in Linf as far as 1.5 times eps, and in L2,
for which an evaluation keeps the plain search. Each search runs on the same images in batches of 256, in
turn. Exits with 1 where the adaptive search of Linf takes more than 40 % of the processor time of the plain
one, all networks together, or its distances are more than 0.5 % larger in the median, or more than 2 % in
10 % of the images.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import robustlens as rl
from robustlens import models
from robustlens.attacks import AdaptiveMinimumNorm, MinimumNorm
from robustlens.study import planning

RADII = {"Linf": 0.15, "L2": 3.0}
BATCH = 256


def networks(folder: Path, methods: list[str]) -> dict[str, nn.Module]:
    """Trained networks of quickstart by label."""
    planned = {run.label: run for run in planning.plan(planning.read("quickstart"))}
    for label in methods:
        if not (folder / planned[label].id / "best.safetensors").exists():
            rl.train(planned[label].recipe, out=folder / planned[label].id)
            print(f"{label}: trained", flush=True)
    return {label: models.load(folder / planned[label].id).eval() for label in methods}


def searched(attack: MinimumNorm, network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Distances, and the processor seconds that they took."""
    began = time.process_time()
    parts = [attack.distance(network, *part) for part in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    return torch.cat(parts), time.process_time() - began


def compared(network: nn.Module, x: Tensor, y: Tensor, norm: str) -> dict[str, float]:
    """Both searches of one network in one norm."""
    threat = rl.ThreatModel(norm, RADII[norm])
    plain, plain_seconds = searched(MinimumNorm(threat), network, x, y)
    found, seconds = searched(AdaptiveMinimumNorm(threat), network, x, y)
    both = plain.isfinite() & found.isfinite()
    ratio = (found / plain)[both].double()
    return {
        "images": len(x),
        "found_by_both": int(both.sum()),
        "found_by_plain_alone": int((plain.isfinite() & found.isinf()).sum()),
        "found_by_adaptive_alone": int((plain.isinf() & found.isfinite()).sum()),
        "plain_seconds": plain_seconds,
        "adaptive_seconds": seconds,
        "median_ratio": float(ratio.median()),
        "mean_ratio": float(ratio.mean()),
        "share_beyond_1_percent": float((ratio > 1.01).double().mean()),
        "share_beyond_2_percent": float((ratio > 1.02).double().mean()),
        "share_nearer_by_1_percent": float((ratio < 0.99).double().mean()),
        "largest_ratio": float(ratio.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--methods", nargs="+", default=["Standard", "AT 0.1"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    split = rl.data.load("fashion-mnist-10k").test
    x, y = split.x()[: arguments.images], split.labels[: arguments.images]
    rows: dict[str, dict[str, dict[str, float]]] = {norm: {} for norm in RADII}
    with tempfile.TemporaryDirectory() as temporary:
        for label, model in networks(arguments.folder or Path(temporary), arguments.methods).items():
            with models.frozen(model):
                right = model(x).argmax(1) == y
                network = models.fast_copy(model, x[:32])
                for norm, by_network in rows.items():
                    row = by_network[label] = compared(network, x[right], y[right], norm)
                    times = row["plain_seconds"] / row["adaptive_seconds"]
                    print(
                        f"{label:10} {norm:4} {times:.2f} times faster, distances {row['median_ratio']:.4f} "
                        f"in the median, {row['share_beyond_2_percent']:.1%} more than 2 % larger, "
                        f"{row['found_by_plain_alone']} lost and {row['found_by_adaptive_alone']} won of "
                        f"{row['images']}",
                        flush=True,
                    )
    linf = rows["Linf"].values()
    adaptive, plain = (math.fsum(row[f"{name}_seconds"] for row in linf) for name in ("adaptive", "plain"))
    share = adaptive / plain
    print(f"Linf: {share:.3f} of the processor time of the plain search")
    if arguments.out:
        content = {"command": " ".join(sys.argv), "threads": arguments.threads, "share_of_time": share}
        arguments.out.write_text(
            json.dumps({**content, "radii": RADII, "networks": rows}, indent=1) + "\n", encoding="utf-8"
        )
    near = all(row["median_ratio"] <= 1.005 and row["share_beyond_2_percent"] <= 0.1 for row in linf)
    sys.exit(not (share <= 0.4 and near))


if __name__ == "__main__":
    main()
