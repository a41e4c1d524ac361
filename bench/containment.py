"""Certified, exact and attacked: on small ReLU networks the exact answer lies between the other two.

    nice -n 19 python bench/containment.py --out bench/results/containment.json

Five networks (8 pixels, two hidden layers of 10 ReLUs, 3 classes, weights as He et al. 2015, seeds 0 to 4) on
100 images each, uniform in [0, 1], labelled by the network itself; Linf, two radii. The exact smallest margin
is that of a mixed-integer program (`scipy.optimize.milp`, `tests/helpers/exact_margins.py`), the attack is
PGD-50 on the margin with 5 restarts. Exit 1 where an image has a certificate above its exact margin or an
attack below it, by more than the solver's tolerance of 1e-6.
"""

import argparse
import json
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

import robustlens as rl

ROOT = Path(__file__).parents[1]
METHODS = ("ibp", "crown-ibp", "crown")
TOLERANCE = 1e-6


def network(seed: int) -> nn.Sequential:
    """A small ReLU network in float64."""
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3)]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.get_parameter("weight"))
        nn.init.normal_(layer.get_parameter("bias"), 0.0, 0.1)
    return nn.Sequential(*layers).double()


def compared(model: nn.Sequential, x: Tensor, eps: float) -> dict[str, Tensor]:
    """Smallest margins of each image: bounds by each method, exact, and under attack."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.exact_margins import exact_margin

    with torch.no_grad():
        y = model(x).argmax(1)
    threat = rl.ThreatModel("Linf", eps)
    margins = {method: rl.certify(model, x, y, threat, method, batch_size=100).lower for method in METHODS}
    exact = [exact_margin(model, *pair, eps) for pair in zip(x, y.tolist(), strict=True)]
    attack = rl.attacks.PGD(threat, steps=50, loss="margin", restarts=5)
    with torch.no_grad():
        attacked = -rl.losses.margin(model(attack(model, x, y)), y)
    return {**margins, "exact": torch.tensor(exact, dtype=torch.float64), "attacked": attacked}


def row(eps: float, images: int) -> dict[str, Any]:
    """Counts over all networks at one radius."""
    began, parts = process_time(), []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(images, 8, generator=generator, dtype=torch.float64)
        parts.append(compared(network(seed), x, eps))
    margins = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    exact = margins["exact"]
    above = torch.stack([margins[name] > exact + TOLERANCE for name in METHODS]).any(0)
    below = margins["attacked"] < exact - TOLERANCE
    return {
        "eps": eps,
        "n": len(exact),
        "contained": int((~above & ~below).sum()),
        "robust": {name: int((margin > 0).sum()) for name, margin in margins.items()},
        "mean_below_exact": {name: float((exact - margins[name]).mean()) for name in METHODS},
        "seconds": process_time() - began,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100, help="of each of five networks")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.03, 0.06])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = [row(eps, arguments.images) for eps in arguments.eps]
    text = json.dumps({"version": rl.__version__, "rows": rows}, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return int(any(one["contained"] < one["n"] for one in rows))


if __name__ == "__main__":
    sys.exit(main())
