"""Turn a finished study into a page of docs/results/: headline table and claims, straight from its files.

python tools/results_to_markdown.py robustlens-out/cifar10 "COMMAND THAT RAN IT" [times] > PAGE.md

`times` adds what an epoch with perturbed weights takes over one of its warm-up: for runs that had their cores
to themselves, or shared them alike all along.
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from robustlens.config import eps_text
from robustlens.report.data import dig
from robustlens.report.text.wording import sentence
from robustlens.results.folders import Run, StudyFolder


def main(folder: Path, command: str, times: bool = False) -> None:
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
    chosen = " by validation" if plan["checkpoint"] == "best" else ""
    print(f"`{plan['checkpoint']}`{chosen}. Attacks run one after another, on survivors: columns are")
    print("cumulative. Intervals are 95 %.")
    print(f"torch {environment['torch']}, Python {environment['python']}, {environment['device']}.\n")
    headline(runs)
    quantities([run for run in runs if run.explanation])
    along_training([run for run in runs if run.along("evaluation")], (*ALONG, TIME) if times else ALONG)
    claims(study)


def row(cells: Iterable[str]) -> None:
    """One row of a table."""
    print("| " + " | ".join(cells) + " |")


def head(titles: Sequence[str]) -> None:
    """The head of a table."""
    row(titles)
    print("|" + "---|" * len(titles))


def percent(interval: dict[str, float]) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def headline(runs: list[Run]) -> None:
    """One row per run."""
    attacks = runs[0].evaluation["attacks"]
    titles = ["method", "eps", "seed", "clean %", *(f"{name} %" for name in attacks)]
    head([*titles, "robust gap, points", "error gap, points", "loss gap, nats", "flags"])
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
        row([*cells, ", ".join(flag["name"] for flag in test["flags"]) or "none"])


def quantities(runs: list[Run]) -> None:
    """What was measured of the networks, a row for each method and strength: means over seeds, and ranges."""
    columns = [(title, read) for title, read in QUANTITIES if any(read(run) is not None for run in runs)]
    if not columns:
        return
    print("\n## What was measured\n\nMeans over seeds (smallest to largest); medians are over layers.\n")
    head(["method", "eps", *(title for title, _ in columns)])
    for label, same in by_label(runs).items():
        cells = [spread([read(run) for run in same]) for _, read in columns]
        row([label, eps_text(same[0].entry["eps"]), *cells])


def grouped(every: Iterable[Any], by: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Things that share a text."""
    found: dict[str, list[Any]] = {}
    for one in every:
        found.setdefault(by(one), []).append(one)
    return found


def by_label(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each method and strength."""
    return grouped(runs, lambda run: run.entry["label"])


def along_training(runs: list[Run], columns: "Columns") -> None:
    """The best checkpoint, and every epoch that was evaluated, a row each: means over seeds, and ranges."""
    if not runs:
        return
    print("\n## Best, last and along training\n\nMeans over seeds (smallest to largest).\n")
    rows = []
    for label, same in by_label(runs).items():
        endings = {"best": ""} | {
            ending[1:]: ending for run in same for ending in run.along("evaluation").values()
        }
        for checkpoint, ending in endings.items():
            rows.append(
                [label, checkpoint, *(spread([read(run, ending) for run in same]) for _, read in columns)]
            )
    titles = ["method", "checkpoint", *(title for title, _ in columns)]
    shown = [place for place in range(len(titles)) if any(cells[place] != "-" for cells in rows)]
    head([titles[place] for place in shown])
    for cells in rows:
        row([cells[place] for place in shown])


def pace(run: Run, ending: str) -> float | None:
    """Median seconds of an epoch with perturbed weights over one of its warm-up; told once, of the last."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for epoch in run.metrics():
        seconds[epoch["awp"]].append(epoch["seconds"])
    if ending != "-last" or not all(seconds.values()):
        return None
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


def evaluated(*path: str) -> Callable[[Run, str], float | None]:
    """Reads one number of an evaluation, in per cent; None where it was not made."""
    return lambda run, ending: scaled(dig(run.read_json(f"evaluation{ending}"), *path, "value"), 100)


def explained(measure: str, *path: str) -> Callable[[Run, str], float | None]:
    """Reads one number of an explanation; None where it was not measured."""
    return lambda run, ending: scaled(
        dig(run.read_json(f"explanation{ending}"), "measures", measure, "value", *path)
    )


def scaled(value: Any, by: float = 1) -> float | None:
    """The number, if it is one."""
    return by * value if isinstance(value, int | float) else None


Columns = tuple[tuple[str, Callable[[Run, str], float | None]], ...]
TIME = ("time of an epoch with AWP, over one of its warm-up", pace)
ALONG: Columns = (
    ("clean, test %", evaluated("splits", "test", "clean")),
    ("robust, test %", evaluated("splits", "test", "robust")),
    ("robust, training %", evaluated("splits", "train", "robust")),
    ("robust gap, points", evaluated("gaps", "robust")),
    ("landscape rise at 0.5, nats", explained("landscape", "rise", "0.5")),
    ("at matched temperature", explained("landscape", "matched_rise", "0.5")),
    ("average-case flatness, nats", explained("flatness", "average", "loss")),
    ("worst-case flatness, nats", explained("flatness", "worst", "loss")),
    ("largest relative eigenvalue", explained("curvature", "relative_top_eigenvalue")),
    ("relative trace", explained("curvature", "relative_trace")),
)
"""What the table of checkpoints shows: title, and how a run's checkpoint is read."""


def measured(*path: str) -> Callable[[Run], float | None]:
    """Reads one number of an explanation; None where it was not measured."""
    return lambda run: explained(*path)(run, "")


def median_of_layers(measure: str, *path: str) -> Callable[[Run], float | None]:
    """As `measured`, of every layer, and their median."""

    def read(run: Run) -> float | None:
        layers = dig(run.explanation, "measures", measure, "value", "layers") or {}
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
    print("\n## Claims\n")
    head(["paper", "claim", "verdict", "effect", "statistic", "why"])
    aside = [claim for claim in study.claims if claim["effect"]["value"] is None and not claim["values"]]
    for claim in study.claims:
        if claim in aside:
            continue
        effect, statistic = claim["effect"], claim["statistic"]
        shown = number(effect["value"])
        if effect["value"] is not None and effect["low"] is not None:
            shown += f" ({number(effect['low'])} to {number(effect['high'])}) {effect['unit']}"
        where = f" *{sentence(claim['setting'])}*" if claim.get("setting") else ""
        cells = [claim["paper"], claim["statement"] + where, f"**{claim['verdict']}**", shown.strip()]
        row([*cells, f"{statistic['name']}: {number(statistic['value'])}", claim["why"]])
    if aside:
        print("\nWithout anything to compare:\n")
    for why, together in grouped(aside, lambda claim: claim["why"].split(";")[0]).items():
        told = "; ".join(f"{claim['statement'].rstrip('.')} ({claim['paper']})" for claim in together)
        print(f"- {told}: {why[:1].lower()}{why[1:].rstrip('.')}.")


def number(value: Any) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], times=sys.argv[3:] == ["times"])
