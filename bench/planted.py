"""Planted adversarial images: how many of them each suite finds on small networks, and a crippled PGD.

    python bench/planted.py [--images 20] [--eps 0.05] [--networks NAME ...] [--out FILE]

The networks of bench/defences.py that give the same answer twice, and one with BatchNorm; a stopped run goes
on with the next. The crippled PGD
takes one step of a fiftieth of eps. Prints a Markdown table; exit 1 unless "standard" finds at least 95 % on
every network, and the crippled PGD 5 % at most.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import robustlens as rl
from defences import NETWORKS, keep, kept

NAMES = ("none", "BatchNorm, none", "input quantiser", "k winners take all")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--networks", nargs="*", choices=NAMES, help="only these; all share --out")
    parser.add_argument("--out", type=Path, default=Path("bench/results/planted.json"))
    given = parser.parse_args()
    command = f"python bench/planted.py --images {given.images} --eps {given.eps:g}"
    x = rl.data.load("fashion-mnist-10k").test.take(given.images, 0).x()
    for name in given.networks or NAMES:
        if name not in kept(given.out, command):
            keep(given.out, command, name, measured(NETWORKS[name](), x, rl.ThreatModel("Linf", given.eps)))
    rows = kept(given.out, command)
    gradient = ("fgsm", "pgd-20", "cw-20", "fast", "apgd-ce", "apgd-t", "fab-t")
    columns = ("random", "pgd", *gradient, "square", "standard")
    print(f"| network | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name, row in rows.items():
        shares = [f"{100 * row['found'][each][0]:.0f}" for each in columns]
        print(f"| {name} | {' | '.join(shares)} |")
    found = [row["found"] for row in rows.values()]
    return 0 if all(each["standard"][0] >= 0.95 and each["pgd"][0] <= 0.05 for each in found) else 1


def measured(model: nn.Module, x: Tensor, threat: rl.ThreatModel) -> dict[str, Any]:
    """Shares of the planted images that each attack and suite finds, with intervals."""
    began = time.process_time()
    crippled = rl.attacks.PGD(threat, steps=1, step_size=0.02 * threat.eps, random_start=False)
    found = rl.reliability.planted(model, x, threat, ["fast", "standard", crippled])
    shares = {each: found.interval(each) for each in (*found.together, "random")}
    return {
        "planted": found.images,
        "found": {each: [share.value, share.low, share.high] for each, share in shares.items()},
        "processor seconds": round(time.process_time() - began, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
