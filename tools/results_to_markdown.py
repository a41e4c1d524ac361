"""Turn a finished study into a page of docs/results/: headline table and claims, straight from its files.

python tools/results_to_markdown.py robustlens-out/cifar10 "COMMAND THAT RAN IT" > docs/results/cifar10.md
"""

import sys
from pathlib import Path
from typing import Any

from robustlens.recipe import eps_text
from robustlens.runs import Run, StudyFolder


def main(folder: Path, command: str) -> None:
    """Print the page."""
    study = StudyFolder(folder)
    meta, runs = study.meta, [run for run in study.runs() if run.evaluation]
    environment = runs[0].status["environment"]
    plan = runs[0].evaluation["plan"]
    splits = runs[0].evaluation["splits"]
    print(f"# {meta['name']}: {meta['description']}\n")
    print(f"Command: `{command}`. Seeds: {', '.join(map(str, meta['seeds']))}.")
    threat, n = plan["threat"], {name: split["n"] for name, split in splits.items()}
    strength = f"{threat['norm']} eps {eps_text(threat['eps'])}"
    print(f"Evaluated at {strength} on {n['test']} test and {n['train']} training images, checkpoint")
    print(f"`{plan['checkpoint']}` by validation. Attacks run one after another, on survivors: columns are")
    print("cumulative. Intervals are 95 %.")
    print(f"torch {environment['torch']}, Python {environment['python']}, {environment['device']}.\n")
    headline(runs)
    claims(study)


def percent(interval: dict[str, float]) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def headline(runs: list[Run]) -> None:
    """One row per run."""
    attacks = runs[0].evaluation["attacks"]
    head = ["method", "eps", "seed", "clean %", *(f"{name} %" for name in attacks)]
    head += ["robust gap, points", "error gap, points", "loss gap, nats", "flags"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for run in runs:
        test, gaps = run.evaluation["splits"]["test"], run.evaluation["gaps"]
        loss = gaps["loss"]
        cells = [
            run.entry["label"],
            eps_text(run.entry["eps"]),
            str(run.entry["seed"]),
            percent(test["clean"]),
        ]
        cells += [percent(test["by_attack"][name]) for name in attacks]
        cells += [percent(gaps["robust"]), percent(gaps["error"])]
        cells += [f"{loss['value']:.3f} ({loss['low']:.3f} to {loss['high']:.3f})"]
        print("| " + " | ".join([*cells, ", ".join(flag["name"] for flag in test["flags"]) or "none"]) + " |")


def claims(study: StudyFolder) -> None:
    """One row per claim."""
    print("\n## Claims\n\n| paper | claim | verdict | effect | statistic | why |\n|---|---|---|---|---|---|")
    for claim in study.claims:
        effect, statistic = claim["effect"], claim["statistic"]
        shown = number(effect["value"])
        if effect["value"] is not None and effect["low"] is not None:
            shown += f" ({number(effect['low'])} to {number(effect['high'])}) {effect['unit']}"
        where = f" *In {claim['setting']}.*" if claim.get("setting") else ""
        cells = [claim["paper"], claim["statement"] + where, f"**{claim['verdict']}**", shown.strip()]
        print(
            "| "
            + " | ".join([*cells, f"{statistic['name']}: {number(statistic['value'])}", claim["why"]])
            + " |"
        )


def number(value: Any) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
