"""Our evaluation against torchattacks and foolbox: same model, images, budgets, batch size and process.

    make bench-peers, or, where what bench/requirements-peers.txt names is installed:
    python bench/peers.py [--run robustlens-out/cifar10/runs/at-8_255-s0] [--images 1000] [--parts pgd-20]

Two comparisons, in float32, on test images of the run and at the eps of its recipe:

- pgd-20: 20 steps of eps / 4 from one random start. The peers attack every image. Contestants take turns.
- AutoAttack's four parts with the published budgets, each on what stands after those before: APGD with 100
  steps on cross entropy, APGD and FAB with 100 steps towards each of 9 classes, Square with 5000 queries.
  torchattacks' own AutoAttack takes 10 steps where the published one takes 100, so its parts are called one
  by one. Ours is `attacks="standard"`.

Our time is that of `rl.evaluate` as a whole, with its set-up and its checks of what was found. A peer's is
that of its attack and of the pass that tells what it broke. Points outside the ball or the box do not count.

Every measurement goes into the JSON file when it is done (those of torchattacks after each batch) with the
conditions under which it was made, and is not repeated under the same ones: a bench that was stopped goes on.
`pace` is what a fixed piece of work on the plain model took in between, to tell whether the machine was
equally free for all.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import foolbox
import torch
import torchattacks
from torch import Tensor, nn

import robustlens as rl
from robustlens import data
from robustlens.machine import keep_memory

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
TORCHATTACKS = f"torchattacks {torchattacks.__version__}"
FOOLBOX = f"foolbox {foolbox.__version__}"
Attack = Callable[[Tensor, Tensor], Tensor]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all contestants are given, and where their results go."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: rl.ThreatModel
    options: argparse.Namespace

    def conditions(self) -> Entry:
        """What decides a result and its time; the commit does too, but its change repeats nothing."""
        options = self.options
        return {
            "model": rl.models.fingerprint(self.model),
            "images": len(self.x),
            "batch_size": options.batch_size,
            "threads": torch.get_num_threads(),
            "norm": self.threat.norm,
            "eps": self.threat.eps,
            "steps": options.steps,
            "queries": options.queries,
            "keep_memory": options.keep_memory,
            "torch": torch.__version__,
            "machine": platform.machine(),
        }

    def pace(self) -> float:
        """Seconds that the plain model takes for logits and gradients of some images, at best."""
        x, y = self.x[:32], self.y[:32]
        return min(self._pass(x, y) for _ in range(3))

    def _pass(self, x: Tensor, y: Tensor) -> float:
        began = time.perf_counter()
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(nn.functional.cross_entropy(self.model(leaf), y), leaf)
        return time.perf_counter() - began

    def batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The rows, as many at a time as ours takes."""
        return rows.split(self.options.batch_size)

    @torch.no_grad()
    def stands(self, x_adv: Tensor, rows: Tensor) -> Tensor:
        """Which images the model still gets right, or were moved too far."""
        far = self.threat.distance(x_adv.double(), self.x[rows].double()) > self.threat.eps + 1e-6
        outside = ((x_adv < 0) | (x_adv > 1)).flatten(1).any(1)
        return ((self.model(x_adv).argmax(1) == self.y[rows]) | far | outside).cpu()


class Notebook:
    """The measurements in the JSON file; each is written at once."""

    def __init__(self, path: Path, conditions: Entry) -> None:
        self.path = path
        self.conditions = conditions
        self.entries: list[Entry] = (
            json.loads(path.read_text(encoding="utf-8"))["measurements"] if path.exists() else []
        )

    def find(self, who: str, what: str) -> Entry | None:
        """The measurement under the present conditions, finished or not."""
        wanted = {"who": who, "what": what, "conditions": self.conditions}
        return next((e for e in self.entries if all(e[key] == wanted[key] for key in wanted)), None)

    def done(self, who: str, what: str) -> Entry | None:
        """The measurement if it is finished."""
        entry = self.find(who, what)
        return entry if entry and entry["done"] else None

    def begin(self, who: str, what: str, **values: Any) -> Entry:
        """A new measurement, in place of an old one under the same conditions."""
        self.entries = [e for e in self.entries if e is not self.find(who, what)]
        entry = {
            "who": who,
            "what": what,
            "conditions": self.conditions,
            "commit": commit(),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "done": False,
            **values,
        }
        self.entries.append(entry)
        return entry

    def save(self) -> None:
        """Write the file as a whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"measurements": self.entries}, indent=1) + "\n", encoding="utf-8")
        new.replace(self.path)


def commit() -> str:
    """The commit of this checkout, with a plus where the sources have changed since."""
    here = Path(__file__).parent

    def git(*line: str) -> str:
        found = subprocess.run(["git", *line], cwd=here, capture_output=True, text=True, check=False)
        return found.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "-s", "../src") else "")


def rows_of(mask: Tensor) -> list[int]:
    return torch.nonzero(mask).squeeze(1).tolist()


# -- one random start, 20 steps ------------------------------------------------------------------------


def by_torchattacks(bench: Bench) -> Tensor:
    attack = torchattacks.PGD(bench.model, eps=bench.threat.eps, alpha=bench.threat.eps / 4, steps=20)
    return everyone(bench, attack)


def by_foolbox(bench: Bench) -> Tensor:
    model = foolbox.PyTorchModel(bench.model, bounds=(0, 1), device=bench.x.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=bench.threat.eps / 4, steps=20, random_start=True)
    return everyone(bench, lambda x, y: attack(model, x, y, epsilons=bench.threat.eps)[1])


def everyone(bench: Bench, attack: Attack) -> Tensor:
    """Who stands after an attack on every image."""
    rows = torch.arange(len(bench.x))
    return torch.cat([bench.stands(attack(bench.x[b], bench.y[b]), b) for b in bench.batches(rows)])


def by_us(bench: Bench, attacks: Any) -> rl.Evaluation:
    options = bench.options
    return rl.evaluate(
        bench.model,
        bench.x,
        bench.y,
        bench.threat,
        attacks,
        batch_size=options.batch_size,
        precision=options.precision,
        flags=False,
    )


def pgd(bench: Bench, notebook: Notebook) -> None:
    """All contestants in turn, some rounds; the verdicts are those of the first round."""
    contestants: dict[str, Callable[[], Tensor]] = {}
    if bench.options.only != "ours":
        contestants[TORCHATTACKS] = lambda: by_torchattacks(bench)
        contestants[FOOLBOX] = lambda: by_foolbox(bench)
    if bench.options.only != "theirs":
        contestants[ours(bench)] = lambda: by_us(bench, ["pgd-20"]).robust
    known = [name for name in contestants if notebook.done(name, "pgd-20") and not bench.options.again]
    entries = {
        name: notebook.begin(name, "pgd-20", seconds=[], pace=[]) for name in contestants if name not in known
    }
    for _ in range(bench.options.rounds):
        for name, entry in entries.items():
            torch.manual_seed(len(entry["seconds"]))
            entry["pace"].append(bench.pace())
            began = time.perf_counter()
            standing = contestants[name]()
            entry["seconds"].append(time.perf_counter() - began)
            entry.setdefault("standing", rows_of(standing))
            print(
                f"pgd-20, {name}: {entry['seconds'][-1]:.1f} s, {float(standing.double().mean()):.1%} stand"
            )
    for entry in entries.values():
        entry["done"] = True
    notebook.save()


# -- AutoAttack's parts --------------------------------------------------------------------------------


def published(bench: Bench, part: str) -> torchattacks.attack.Attack:
    """A part of torchattacks with the published budget, which is not always its default."""
    options = bench.options
    common = {"model": bench.model, "norm": bench.threat.norm, "eps": bench.threat.eps}
    classes = bench.model(bench.x[:1]).shape[1]
    if part == "apgd-ce":
        return torchattacks.APGD(**common, steps=options.steps, n_restarts=1, loss="ce")
    if part == "apgd-t":
        return torchattacks.APGDT(**common, steps=options.steps, n_restarts=1, n_classes=classes)
    if part == "fab-t":
        return torchattacks.FAB(
            **common, steps=options.steps, n_restarts=1, multi_targeted=True, n_classes=classes
        )
    return torchattacks.Square(**common, n_queries=options.queries, n_restarts=1)


def theirs(bench: Bench, notebook: Notebook, part: str) -> None:
    """One part of torchattacks on what stands after the parts before; goes on where it was stopped."""
    rows = attacked(bench, notebook, part)
    entry = notebook.find(TORCHATTACKS, part)
    if entry is None or entry["attacked"] != rows or (entry["done"] and bench.options.again):
        values = {"seconds": [], "pace": [], "attacked": rows, "standing": [], "processed": 0}
        entry = notebook.begin(TORCHATTACKS, part, **values)
    if entry["done"]:
        return
    attack = published(bench, part)
    for batch in bench.batches(torch.tensor(rows[entry["processed"] :], dtype=torch.int64)):
        entry["pace"].append(bench.pace())
        began = time.perf_counter()
        standing = bench.stands(attack(bench.x[batch], bench.y[batch]), batch)
        entry["seconds"].append(time.perf_counter() - began)
        entry["standing"] += batch[standing].tolist()
        entry["processed"] += len(batch)
        notebook.save()
        print(f"{part}, torchattacks: {entry['processed']} of {len(rows)} images, ", end="")
        print(f"{len(entry['standing'])} stand, {sum(entry['seconds']):.0f} s")
        bench.model.zero_grad()  # FAB leaves gradients behind
    entry["done"] = True
    notebook.save()


def attacked(bench: Bench, notebook: Notebook, part: str) -> list[int]:
    """What stands after the part before, or what is right without an attack."""
    place = PARTS.index(part)
    if place == 0:
        rows = torch.arange(len(bench.x))
        return torch.cat([b[bench.stands(bench.x[b], b)] for b in bench.batches(rows)]).tolist()
    before = notebook.done(TORCHATTACKS, PARTS[place - 1])
    if before is None:
        raise SystemExit(f"parts: {part} needs what stands after {PARTS[place - 1]}; measure that first")
    return before["standing"]


def standard(bench: Bench, notebook: Notebook) -> None:
    """Ours, all parts in one evaluation."""
    if notebook.done(ours(bench), "standard") and not bench.options.again:
        return
    entry = notebook.begin(ours(bench), "standard", pace=[bench.pace()])
    began = time.perf_counter()
    found = by_us(bench, our_attacks(bench))
    entry["seconds"] = [time.perf_counter() - began]
    entry["pace"].append(bench.pace())
    # Attacks with budgets of our own go by other names, in the same order.
    entry["parts"] = dict(zip(PARTS, found.seconds.values(), strict=True))
    masks = zip(PARTS, found.by_attack.values(), strict=True)
    entry["standing"] = {part: rows_of(mask) for part, mask in masks}
    entry["done"] = True
    notebook.save()
    print(f"standard, {ours(bench)}: {entry['seconds'][0]:.0f} s, {int(found.robust.sum())} stand")


def our_attacks(bench: Bench) -> Any:
    """The suite by its name, or its attacks with another budget."""
    options = bench.options
    if (options.steps, options.queries) == (100, 5000):
        return "standard"
    attacks: dict[str, Any] = rl.attacks.chosen("standard", bench.threat)
    return [
        replace(attack, **({"queries": options.queries} if name == "square" else {"steps": options.steps}))
        for name, attack in attacks.items()
    ]


# -- what is measured, and what is shown ---------------------------------------------------------------


def ours(bench: Bench) -> str:
    return "robustlens" if bench.options.precision == "32-true" else f"robustlens {bench.options.precision}"


def seconds(entry: Entry) -> float:
    """Of the fastest round; of all batches."""
    return min(entry["seconds"]) if entry["what"] == "pgd-20" else sum(entry["seconds"])


def agreement(one: list[int], other: list[int], images: int) -> str:
    """How often two verdicts are the same, and who breaks more where they are not."""
    only_one, only_other = set(one) - set(other), set(other) - set(one)
    same = 1 - len(only_one | only_other) / images
    return f"{same:.1%}, {len(only_one)} only ours broke, {len(only_other)} only theirs"


def show_pgd(bench: Bench, notebook: Notebook) -> None:
    us, images = notebook.done(ours(bench), "pgd-20"), len(bench.x)
    rows = [(who, notebook.done(who, "pgd-20")) for who in (TORCHATTACKS, FOOLBOX)]
    print("\n| PGD-20 | robust accuracy | seconds | ours is faster | same verdict |\n|---|---|---|---|---|")
    for who, entry in rows:
        if entry:
            ratio = f"{seconds(entry) / seconds(us):.1f}x" if us else ""
            same = agreement(entry["standing"], us["standing"], images) if us else ""
            share = len(entry["standing"]) / images
            print(f"| {who} | {share:.1%} | {seconds(entry):.1f} | {ratio} | {same} |")
    if us:
        print(f"| {ours(bench)} | {len(us['standing']) / images:.1%} | {seconds(us):.1f} | | |")


def show_standard(bench: Bench, notebook: Notebook) -> None:
    us, images = notebook.done(ours(bench), "standard"), len(bench.x)
    found = {part: notebook.done(TORCHATTACKS, part) for part in PARTS}
    total = sum(seconds(entry) for entry in found.values() if entry)
    print(
        f"\n| part | {TORCHATTACKS}: robust | seconds (share) | {ours(bench)}: robust | seconds (share) | ",
        end="",
    )
    print("ours is faster |\n|---|---|---|---|---|---|")
    for part, entry in found.items():
        theirs = f"{len(entry['standing']) / images:.1%} | {timed(seconds(entry), total)}" if entry else " | "
        mine = ""
        if us:
            mine = f"{len(us['standing'][part]) / images:.1%} | {timed(us['parts'][part], seconds(us))}"
        ratio = f"{seconds(entry) / us['parts'][part]:.2f}x" if us and entry and us["parts"][part] else ""
        print(f"| {part} | {theirs} | {mine or ' | '} | {ratio} |")
    last = found[PARTS[-1]]
    if us and last:
        print(f"| all | | {total:.0f} | | {seconds(us):.0f} | {total / seconds(us):.2f}x |")
        print("\nSame verdict in the end: " + agreement(last["standing"], us["standing"][PARTS[-1]], images))


def timed(part: float, total: float) -> str:
    return f"{part:.1f} ({part / total:.0%})" if total else f"{part:.1f}"


def show_pace(notebook: Notebook) -> None:
    """Say where the machine was not equally free for all."""
    entries = [e for e in notebook.entries if e["conditions"] == notebook.conditions and e["done"]]
    paces = {f"{e['who']} {e['what']}": sum(e["pace"]) / len(e["pace"]) for e in entries if e["pace"]}
    if paces and max(paces.values()) > 1.1 * min(paces.values()):
        shown = ", ".join(f"{name} {1000 * pace:.0f} ms" for name, pace in paces.items())
        print(f"\nThe machine was not equally free; one fixed piece of work took: {shown}.")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("robustlens-out/cifar10/runs/at-8_255-s0"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", choices=("pgd-20", *PARTS), default=["pgd-20", *PARTS])
    parser.add_argument("--precision", default="32-true", help="of our search: 32-true or bf16-mixed")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="of pgd-20")
    parser.add_argument("--steps", type=int, default=100, help="of APGD and FAB; 100 is published")
    parser.add_argument("--queries", type=int, default=5000, help="of Square; 5000 is published")
    parser.add_argument(
        "--theirs", dest="only", action="store_const", const="theirs", help="measure only theirs"
    )
    parser.add_argument("--ours", dest="only", action="store_const", const="ours", help="measure only ours")
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file")
    parser.add_argument("--keep-memory", action="store_true", help="for all, so it helps theirs too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.keep_memory:
        keep_memory()
    run = rl.Run(options.run)
    test = data.of_spec(run.recipe.data).test.take(options.images, 0)
    threat = rl.ThreatModel(run.recipe.threat.norm, run.recipe.threat.eps)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = rl.models.load(options.run).to(device)
    bench = Bench(model, test.x().to(device), test.labels.to(device), threat, options)
    notebook = Notebook(options.out, bench.conditions())
    rl.evaluate(
        bench.model, bench.x[:2], bench.y[:2], threat, ["fgsm"], flags=False
    )  # imports are no one's time
    if "pgd-20" in options.parts:
        pgd(bench, notebook)
    parts = [part for part in PARTS if part in options.parts]
    if options.only != "ours":
        for part in parts:
            theirs(bench, notebook, part)
    if parts and options.only != "theirs":
        standard(bench, notebook)
    show_pgd(bench, notebook)
    show_standard(bench, notebook)
    show_pace(notebook)


if __name__ == "__main__":
    main()
