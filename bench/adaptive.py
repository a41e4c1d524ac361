"""Adaptive attacks on three defences: is the flag raised, and how near are they to the best attack known?

    python bench/adaptive.py [--images 200] [--eps 0.03] [--networks NAME ...] [--out FILE]

Each defended network (bench/defences.py) is evaluated by the same attacks without and with `adaptive=True`,
and by the best we know to do by hand: attacks written for the defence here, with full knowledge of it, and
Square. "best" is the share of images that survive all of these and the adaptive attacks. Prints a Markdown
table; a stopped run goes on with the next network. Exit 1 unless each flag is raised and `adaptive=True`
comes within 3 points of the best.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustlens as rl
from defences import NETWORKS, Quantised, Winners, keep, kept

ATTACKS = ("apgd-ce-20", "cw-20")
NAMES = ("none", "input quantiser", "k winners take all", "noise and resizing")
FLAGS = {
    "input quantiser": "useless-gradient",
    "k winners take all": "useless-gradient",
    "noise and resizing": "randomised",
}


class ByHand:
    """Gradient ascent on the margin with a gradient that knows the defence, in Linf.

    Args:
        draws: gradients that are averaged at each step, each at another draw of the defence, or at another
            point nearby where it draws none.
        radius: of these points, as a share of eps.
    """

    def __init__(self, threat: rl.ThreatModel, draws: int, radius: float, steps: int = 40) -> None:
        self.threat, self.draws, self.radius, self.steps = threat, draws, radius, steps

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: object = None) -> Tensor:
        """The last iterate."""
        eps, x_adv = self.threat.eps, x.clone()
        for step in range(self.steps):
            gradient = torch.zeros_like(x)
            for _ in range(self.draws):
                leaf = (x_adv + self.radius * eps * torch.randn_like(x)).requires_grad_()
                logits = follow(model, leaf)
                others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
                loss = (others - logits.gather(1, y[:, None]).squeeze(1)).sum()
                gradient += torch.autograd.grad(loss, leaf)[0]
            length = eps * (1.0 if step < self.steps // 2 else 0.25) * 0.2
            x_adv = self.threat.project(x_adv + length * gradient.sign(), x)
        return x_adv.detach()


def follow(model: nn.Module, x: Tensor) -> Tensor:
    """The logits, with the gradients that somebody who knows the layers would take."""
    if not isinstance(model, nn.Sequential):
        return model(x)
    for layer in model:
        if isinstance(layer, Quantised):
            x = x + (layer(x) - x).detach()
        elif isinstance(layer, Winners):  # the winners' gradient, and that of a soft threshold near it
            flat = x.flatten(1)
            least = flat.topk(flat.shape[1] // 5, dim=1).values[:, -1:].detach()
            soft = (flat * torch.sigmoid((flat - least) / (0.2 * flat.detach().std()))).view_as(x)
            x = soft + (layer(x) - soft).detach()
        else:
            x = follow(layer, x) if isinstance(layer, nn.Sequential) else layer(x)
    return x


def measured(name: str, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
    """Accuracies of one network under all attacks, and what was replaced."""
    threat = rl.ThreatModel("Linf", eps)
    random = name == "noise and resizing"
    began = time.process_time()
    plain = rl.evaluate(model, x, y, threat, ATTACKS)
    adaptive = rl.evaluate(model, x, y, threat, ATTACKS, adaptive=True, flags=False)
    hand = ByHand(threat, draws=20 if random else 5, radius=0.0 if random else 0.5)
    known: list[str | rl.attacks.Attack] = [hand, *([] if random else ["square-500"])]
    best = rl.evaluate(model, x, y, threat, known, flags=False)
    return {
        "clean": plain.interval("clean").value,
        "without": plain.interval().value,
        "adaptive": adaptive.interval().value,
        "by hand": best.interval("byhand").value,
        "best": float((best.robust & adaptive.robust).float().mean()),
        "flags": [flag.name for flag in plain.flags],
        "replaced": [f"{layer.name}: {layer.kind}, {layer.surrogate}" for layer in adaptive.replaced],
        "processor seconds": round(time.process_time() - began, 1),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=float, default=0.03)
    parser.add_argument("--networks", nargs="*", choices=NAMES, help="only these; all share --out")
    parser.add_argument("--out", type=Path, default=Path("bench/results/adaptive.json"))
    given = parser.parse_args()
    command = f"python bench/adaptive.py --images {given.images} --eps {given.eps:g}"
    split = rl.data.load("fashion-mnist-10k").test.take(given.images, 0)
    for name in given.networks or NAMES:
        if name not in kept(given.out, command):
            row = measured(name, NETWORKS[name](), split.x(), split.labels, given.eps)
            keep(given.out, command, name, row)
    rows, fine = kept(given.out, command), True
    print("| defence | clean | without | adaptive | by hand | best | flags |\n|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        columns = ("clean", "without", "adaptive", "by hand", "best")
        cells = [f"{100 * row[column]:.1f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(row['flags'])} |")
        is_near = row["adaptive"] <= row["best"] + 0.03
        fine &= is_near and (name == "none" or FLAGS[name] in row["flags"])
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
