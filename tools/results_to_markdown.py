"""Turn a finished study into a page of docs/results/: headline table and claims, straight from its files.

python tools/results_to_markdown.py robustlens-out/cifar10 "COMMAND THAT RAN IT" > docs/results/cifar10.md
"""

import statistics
import sys
from collections.abc import Callable
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
    quantities([run for run in runs if run.explanation])
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


def quantities(runs: list[Run]) -> None:
    """What was measured of the networks, a row for each method and strength: means over seeds, and ranges."""
    columns = [(title, read) for title, read in QUANTITIES if any(read(run) is not None for run in runs)]
    if not columns:
        return
    print("\n## What was measured\n\nMeans over seeds (smallest to largest); medians are over layers.\n")
    print(
        "| method | eps | "
        + " | ".join(title for title, _ in columns)
        + " |\n|"
        + "---|" * (len(columns) + 2)
    )
    for label in dict.fromkeys(run.entry["label"] for run in runs):
        same = [run for run in runs if run.entry["label"] == label]
        cells = [spread([read(run) for run in same]) for _, read in columns]
        print("| " + " | ".join([label, eps_text(same[0].entry["eps"]), *cells]) + " |")


def measured(*path: str) -> Callable[[Run], float | None]:
    """Reads one number of an explanation; None where it was not measured."""

    def read(run: Run) -> float | None:
        found: Any = (run.explanation or {}).get("measures", {}).get(path[0], {}).get("value")
        for key in path[1:]:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, int | float) else None

    return read


def median_of_layers(measure: str, *path: str) -> Callable[[Run], float | None]:
    """As `measured`, of every layer, and their median."""

    def read(run: Run) -> float | None:
        layers = (
            (run.explanation or {}).get("measures", {}).get(measure, {}).get("value", {}).get("layers", {})
        )
        found = [measured(measure, "layers", layer, *path)(run) for layer in layers]
        known = [value for value in found if value is not None]
        return statistics.median(known) if known else None

    return read


QUANTITIES: tuple[tuple[str, Callable[[Run], float | None]], ...] = (
    ("std of singular values", median_of_layers("spectrum", "std")),
    ("their std / mean", median_of_layers("spectrum", "std_over_mean")),
    ("largest singular value of the Jacobian", measured("jacobian", "mean_largest")),
    ("std / mean of activation norms", median_of_layers("activations", "std_over_mean")),
    ("confidence", measured("margins", "test", "confidence")),
    ("share within 0.2 of the boundary", measured("margins", "test", "within", "0.2")),
    ("the same at matched temperature", measured("margins", "matched", "test", "within", "0.2")),
    ("indecisive share of errors", measured("margins", "test", "indecisive_share", "0.2")),
    ("fall of the probability margin under PGD", measured("smoothness", "mean_probability_change")),
    ("relative change of features", median_of_layers("smoothness", "attack")),
    ("instance margin, test, median", measured("bound", "test", "upper", "0.5")),
    ("assumption 3.1 fails on", measured("bound", "test", "assumption_3_1_fails", "paths")),
    ("log10 u_min", measured("bound", "log10", "u_min")),
    ("log10 of the complexity term", measured("bound", "log10", "complexity_term")),
)
"""What the table of measured quantities shows: title, and how a run is read."""


def spread(values: list[float | None]) -> str:
    """The mean of what is known, and its range over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.3g}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.3g} to {max(known):.3g})"


def claims(study: StudyFolder) -> None:
    """One row per claim."""
    print("\n## Claims\n\n| paper | claim | verdict | effect | statistic | why |\n|---|---|---|---|---|---|")
    aside = [claim for claim in study.claims if claim["effect"]["value"] is None and not claim["values"]]
    for claim in study.claims:
        if claim in aside:
            continue
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
    if aside:
        told = "; ".join(f"{claim['statement'].rstrip('.')} ({claim['paper']})" for claim in aside)
        print(f"\nNot put to this study, which lacks the runs or measures: {told}.")


def number(value: Any) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
