"""Spectra of all convolutions of PreActResNet-18, circular, float64: ours against plain numpy, side by side.

    python bench/spectrum.py [--rounds 3] [--threads 2] [--out bench/results/spectrum.json]

The plain way is the published one (Sedghi, Gupta and Long 2019): `fft2` of each kernel at the size of its
feature map, then numpy's SVD without vectors of one matrix for each frequency; for strides, frequencies that
agree are put side by side. Both give all singular values of the same layers. Rounds alternate in one process,
and the ratio is of medians. Exits with 1 where a value differs by more than 1e-12 of its layer's largest.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import robustlens as rl
from robustlens.spectra import Layer, trace

SHAPE = (3, 32, 32)
TOLERANCE = 1e-12


def plain(layer: Layer) -> np.ndarray:
    """All singular values of a convolution, as a numpy script finds them."""
    assert isinstance(layer.module, nn.Conv2d)
    assert layer.size is not None
    (h, w), (sh, sw) = layer.size, layer.module.stride
    weight = layer.module.weight.detach().double().numpy()
    outputs, inputs = weight.shape[:2]
    transfer = np.fft.fft2(weight, (h, w)).reshape(outputs, inputs, sh, h // sh, sw, w // sw)
    blocks = transfer.transpose(3, 5, 0, 2, 4, 1).reshape(h // sh, w // sw, outputs, sh * sw * inputs)
    values = np.linalg.svd(blocks / math.sqrt(sh * sw), compute_uv=False)
    return np.sort(values.ravel())[::-1]


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, as a share of the largest value."""
    return float(np.abs(ours - theirs).max() / theirs[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of torch; numpy takes all it may")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = rl.models.get("preactresnet18", num_classes=10, in_channels=3)
    convolutions = {
        name: layer for name, layer in trace(model, SHAPE).items() if isinstance(layer.module, nn.Conv2d)
    }
    seconds: dict[str, list[float]] = {"numpy": [], "robustlens": []}
    worst = 0.0
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        theirs = {name: plain(layer) for name, layer in convolutions.items()}
        middle = time.perf_counter()
        ours = rl.explain.spectrum(model, SHAPE, layers=convolutions)
        ended = time.perf_counter()
        seconds["numpy"].append(middle - began)
        seconds["robustlens"].append(ended - middle)
        worst = max(worst, *(deviation(ours[name], theirs[name]) for name in convolutions))
        print(f"numpy {middle - began:6.1f} s   robustlens {ended - middle:6.1f} s", flush=True)
    ratio = statistics.median(seconds["numpy"]) / statistics.median(seconds["robustlens"])
    print(f"{len(convolutions)} layers: {ratio:.2f}x, largest deviation {worst:.1e} of the largest value")
    if arguments.out:
        result = {
            "command": " ".join(sys.argv),
            "threads": arguments.threads,
            "layers": len(convolutions),
            "values": sum(map(len, ours.values())),
            "seconds": seconds,
            "ratio": ratio,
            "largest_deviation": worst,
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
