"""How near each attack comes to the best known distances: AttackBench's optimality, on five tiny networks.

    python -m pip install --no-deps --requirement bench/requirements-peers.txt
    python bench/optimality.py [--images 200] [--norms Linf L2] [--networks "AT 0.06"] [--attacks min-norm]

Every attack looks for the distance of the same test images on the networks of bench/tiny_networks.py, which
are trained first where they are missing. All are given the same folded copy of a network, which counts the
images of its forward and backward passes, in one batch, one thread, float32. What an attack returns is judged
by the network itself: it counts where it is misclassified (up to the rounding of its logits) within the pixel
box, at its distance from x in float64. The best known distance of an image is the smallest that any found.

Attacks within a radius search for it: each image halves a list of radii, the quantiles of the distances that
min-norm found, and the point found goes back towards x as far as it stays misclassified.

A measurement goes into the JSON file when it is done and is not repeated under the same conditions: a bench
that was stopped goes on, also several at once on parts of the work. Local and global optimality are those of
Cinà et al. 2024 (robustlens.stats.optimality). Exits with 1 where two parts of `standard` and min-norm are
together below 0.99 in either norm.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn

import robustlens as rl
from peer_attacks import Search, foolbox_attacks, foolbox_pgd, library_attacks
from robustlens import attacks, models
from robustlens.attacks import FAB
from robustlens.attacks.base import Goal
from robustlens.attacks.walks import Images, bisect
from robustlens.stats.bootstrap import Bootstrap
from robustlens.stats.optimality import local_optimality, nearest, optimality_interval, robust_accuracy
from tiny_networks import FOLDER, METHODS, trained

OURS = ("min-norm", "min-norm-400", "min-norm-adaptive", "fab-30", "fab-t-30")
"""Of ours, those that look for the nearest image."""
WITHIN = {"pgd-20": 15, "cw-20": 15, "apgd-ce": 7, "apgd-t": 3}
"""Of ours, those within a radius, each with the number of radii that are tried."""
FOOLBOX_PGD = "foolbox PGD-20"
TOGETHER = {
    "apgd-ce + fab-t-30": ("apgd-ce", "fab-t-30"),
    "apgd-ce + fab-t-30 + min-norm": ("apgd-ce", "fab-t-30", "min-norm"),
    "apgd-ce + fab-t-30 + min-norm-400": ("apgd-ce", "fab-t-30", "min-norm-400"),
    "apgd-ce + fab-t-30 + min-norm-adaptive": ("apgd-ce", "fab-t-30", "min-norm-adaptive"),
}
"""Attacks of which the nearest point counts: two parts of `standard`, which as a whole is no farther."""
CLAIMED = "apgd-ce + fab-t-30 + min-norm"
STANDING = (0.75, 0.5, 0.25, 0.1)
"""Shares of the right images that the best known distances leave, where curves are compared."""
GOAL = 0.99
FILE = Path(__file__).parent / "results" / "optimality.json"
Row = dict[str, Any]


class Counted(nn.Module):
    """A network that counts the images of its forward and backward passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Notebook:
    """The measurements in the JSON file, which several processes may write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = filelock.FileLock(f"{path}.lock")

    def rows(self) -> list[Row]:
        """All measurements."""
        if not self.path.exists():
            return []
        rows: list[Row] = json.loads(self.path.read_text(encoding="utf-8"))["measurements"]
        return rows

    def add(self, row: Row, conditions: Row) -> None:
        """Write a measurement, in place of one under the same conditions."""
        with self.lock:
            rows = [each for each in self.rows() if not _is_of(each, conditions)]
            self.write([*rows, row])

    def find(self, conditions: Row) -> Row | None:
        """The measurement under these conditions."""
        return next((row for row in self.rows() if _is_of(row, conditions)), None)

    def write(self, rows: list[Row], **summary: Any) -> None:
        """Write the file as a whole, a measurement a line."""
        lines = ",\n  ".join(json.dumps(row) for row in sorted(rows, key=_place))
        content = json.dumps({"command": "python bench/optimality.py", **summary}, indent=1)[:-2]
        new = self.path.with_suffix(".new")
        new.write_text(f'{content},\n "measurements": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
        new.replace(self.path)


def _is_of(row: Row, conditions: Row) -> bool:
    return all(row[key] == value for key, value in conditions.items())


def _place(row: Row) -> tuple[int, str, str]:
    return list(METHODS).index(row["model"]), row["threat_model"], row["attack"]


# -- attacks in one form ---------------------------------------------------------------------------------


def searches(norm: str, radii: Callable[[int], list[float]]) -> Iterator[tuple[str, Search]]:
    """All attacks of a norm by name, min-norm first; `radii` are so many that those within a radius try."""
    for name in OURS:
        yield name, _search(name, norm, math.inf)
    for name, count in WITHIN.items():
        yield name, partial(by_radius, partial(_search, name, norm), radii(count))
    yield from foolbox_attacks(norm).items()
    yield FOOLBOX_PGD, partial(by_radius, foolbox_pgd(norm, 20), radii(15))
    yield from library_attacks(norm).items()


def _search(name: str, norm: str, radius: float) -> Search:
    """An attack of ours; it goes on for the nearest point where the radius is infinite."""
    attack = attacks.get(name, rl.ThreatModel(norm, radius))
    if isinstance(attack, FAB) and radius == math.inf:
        return replace(attack, stop_at_success=False)
    return attack


def by_radius(
    attack: Callable[[float], Search], radii: list[float], network: nn.Module, x: Tensor, y: Tensor
) -> Tensor:
    """The points of an attack in the smallest of the `radii` where it succeeds, brought to the boundary."""
    low, high = torch.full((len(x),), -1), torch.full((len(x),), len(radii))
    x_adv = x.clone()
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        for place in middle[high - low > 1].unique().tolist():
            rows = torch.nonzero((middle == place) & (high - low > 1)).squeeze(1)
            points = attack(radii[place])(network, x[rows], y[rows])
            with torch.no_grad():
                won = network(points).argmax(1) != y[rows]
            high[rows[won]], low[rows[~won]] = place, place
            x_adv[rows[won]] = points[won]
    rows = torch.nonzero((x_adv != x).flatten(1).any(1)).squeeze(1)
    goal = Goal.of(network, x[rows], y[rows], "margin", targeted=False)
    with torch.no_grad():
        images = Images.of(x[rows], goal, network(x[rows]))
    x_adv[rows] = bisect(network, images, x_adv[rows])
    return x_adv


# -- measuring -------------------------------------------------------------------------------------------


def judged(network: nn.Module, norm: str, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
    """Distances (n,) in float64 of the points that count, infinity elsewhere; 0 for errors at x."""
    with torch.no_grad():
        logits, clean = network(x_adv), network(x)
    right = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    rounding = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    inside = ((x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)).flatten(1).all(1)
    distance = rl.ThreatModel(norm, math.inf).distance(x_adv.double(), x.double())
    counts = (others - right >= -rounding) & inside & (distance > 0)
    distance = torch.where(counts, distance, torch.inf)
    return torch.where(clean.argmax(1) == y, distance, 0.0)


def measured(label: str, model: nn.Module, norm: str, name: str, search: Search, x: Tensor, y: Tensor) -> Row:
    """One attack on one network: distances and costs. Errors at x are left out of the attack."""
    network = Counted(models.fast_copy(model, x[:32])).eval()
    right = model(x).argmax(1) == y
    torch.manual_seed(0)
    x_adv, began = x.clone(), time.process_time()
    x_adv[right] = search(network, x[right], y[right])
    seconds = time.process_time() - began
    distances = judged(model, norm, x, y, x_adv)
    images = int(right.sum())
    return {
        "attack": name,
        "model": label,
        "threat_model": norm,
        "dataset": "fashion-mnist-10k",
        "weights": models.fingerprint(model),
        "images": len(x),
        "attacked": images,
        "ASR": float(distances[right].isfinite().double().mean()),
        "num_forwards": network.forwards / images,
        "num_backwards": network.backwards / images,
        "seconds": seconds / images,
        "distances": [float(f"{value:.5g}") for value in distances.tolist()],
    }


def measure(notebook: Notebook, options: argparse.Namespace) -> None:
    """All that the file lacks."""
    test = rl.data.load("fashion-mnist-10k").test
    x, y = test.x(slice(options.images)), test.labels[: options.images]
    for label, model in trained(options.folder, options.networks).items():
        common = {"model": label, "weights": models.fingerprint(model), "images": len(x)}
        for norm in options.norms:

            def radii(count: int, norm: str = norm, common: Row = common) -> list[float]:
                row = notebook.find({**common, "threat_model": norm, "attack": "min-norm"})
                if row is None:
                    raise SystemExit(f"{common['model']}, {norm}: min-norm comes first, --attacks lacks it")
                finite = [value for value in row["distances"] if 0 < value < math.inf]
                shares = (np.arange(count) + 0.5) / count
                return [float(radius) for radius in np.quantile(finite, shares)]

            for name, search in searches(norm, radii):
                conditions = {**common, "threat_model": norm, "attack": name}
                if options.attacks and name not in options.attacks:
                    continue
                if notebook.find(conditions) and not options.again:
                    continue
                with models.frozen(model):
                    row = measured(label, model, norm, name, search, x, y)
                notebook.add(row, conditions)
                print(
                    f"{label}, {norm}, {name}: {row['num_backwards']:.0f} gradients, "
                    f"{1000 * row['seconds']:.1f} ms",
                    flush=True,
                )


# -- optimality ------------------------------------------------------------------------------------------


def together(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows of a network and norm, and those of attacks of which the nearer point counts."""
    joined = dict(rows)
    for name, parts in TOGETHER.items():
        if all(part in rows for part in parts):
            costs = ("num_forwards", "num_backwards", "seconds")
            joined[name] = {key: sum(rows[part][key] for part in parts) for key in costs} | {
                "distances": nearest([np.array(rows[part]["distances"]) for part in parts]).tolist()
            }
    return joined


def summary(rows: list[Row], norm: str) -> dict[str, Row]:
    """Global optimality of each attack of a norm with its interval, and its local one for each network."""
    groups = [
        together({row["attack"]: row for row in rows if (row["model"], row["threat_model"]) == (label, norm)})
        for label in METHODS
    ]
    best = [nearest([np.array(row["distances"]) for row in group.values()]) for group in groups if group]
    groups = [group for group in groups if group]
    names = [name for name in groups[0] if all(name in group for group in groups)] if groups else []
    table: dict[str, Row] = {}
    for name in names:
        curves = [
            (np.array(group[name]["distances"]), each) for group, each in zip(groups, best, strict=True)
        ]
        interval = optimality_interval(curves, Bootstrap(1000))
        ratio = np.concatenate([found[least > 0] / least[least > 0] for found, least in curves])
        table[name] = {
            "global_optimality": interval.value,
            "low": interval.low,
            "high": interval.high,
            "local_optimality": [local_optimality(*each) for each in curves],
            "curve": np.mean([curve(*each) for each in curves], axis=0).tolist(),
            "farther_by_2_percent": float((ratio > 1.02).mean()),
            "num_backwards": float(np.mean([group[name]["num_backwards"] for group in groups])),
            "num_forwards": float(np.mean([group[name]["num_forwards"] for group in groups])),
            "seconds": float(np.mean([group[name]["seconds"] for group in groups])),
        }
    return dict(sorted(table.items(), key=lambda item: -item[1]["global_optimality"]))


def curve(distances: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Share of the right images that an attack leaves where the best known distances leave `STANDING`."""
    radii = np.quantile(best[best > 0], [1 - share for share in STANDING])
    return robust_accuracy(distances[best > 0], radii)


def show(norm: str, table: dict[str, Row]) -> None:
    """The table of a norm in Markdown."""
    networks, standing = ", ".join(METHODS), ", ".join(f"{share:.0%}" for share in STANDING)
    print(f"\n| {norm} | global (95 %) | local: {networks} | stands where best leaves {standing} |", end="")
    print(" > 2 % farther | gradients | forwards | ms |\n|---|---|---|---|---|---|---|---|")
    for name, row in table.items():
        local = ", ".join(f"{value:.4f}" for value in row["local_optimality"])
        ends = f"{row['low']:.4f} to {row['high']:.4f}"
        left = ", ".join(f"{share:.1%}" for share in row["curve"])
        print(
            f"| {name} | {row['global_optimality']:.4f} ({ends}) | {local} | {left} | "
            f"{row['farther_by_2_percent']:.1%} | {row['num_backwards']:.0f} | {row['num_forwards']:.0f} | "
            f"{1000 * row['seconds']:.1f} |"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--norms", nargs="+", choices=("Linf", "L2"), default=["Linf", "L2"])
    parser.add_argument("--networks", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--attacks", nargs="+", help="these alone; none of them: all")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file")
    parser.add_argument("--out", type=Path, default=FILE)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    notebook = Notebook(options.out)
    measure(notebook, options)
    with notebook.lock:
        rows = notebook.rows()
        tables = {norm: summary(rows, norm) for norm in ("Linf", "L2")}
        notebook.write(rows, seed=0, torch=torch.__version__, images=options.images, tables=tables)
    for norm, table in tables.items():
        show(norm, table)
    reached = [table[CLAIMED]["global_optimality"] for table in tables.values() if CLAIMED in table]
    sys.exit(not (reached and min(reached) >= GOAL))


if __name__ == "__main__":
    main()
