"""Turn a finished study into a page of docs/results/: headline table and claims, straight from its files.

python tools/results_to_markdown.py robustlens-out/cifar10 "COMMAND THAT RAN IT" [times] > PAGE.md

`times` adds what an epoch with perturbed weights takes over one of its warm-up: for runs that had their cores
to themselves, or shared them alike all along.
"""

import math
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from robustlens.claims import check
from robustlens.claims.evidence import LEAST_EXAMPLES
from robustlens.config import LAST, eps_text
from robustlens.report.data import CheckpointReport, Network, Quantity, ReportData, RunReport
from robustlens.report.reading import read_study
from robustlens.report.text.claims import by_chance, untested, verdict_counts
from robustlens.report.text.wording import sentence
from robustlens.results.same_weights import explanation_beside
from robustlens.stats.intervals import Interval, flushed

Read = Callable[[RunReport, CheckpointReport], float | None]
"""Takes a number out of a run, at one of its checkpoints."""


def main(folder: Path, command: str, times: bool = False) -> None:
    """Print the page."""
    data = read_study(folder, check(folder))
    runs = [run for run in data.runs if run.evaluation]
    print(f"# {data.name}: {data.study.description}\n")
    print(f"Command: `{command}`. Seeds: {', '.join(map(str, data.study.seeds))}.")
    about(runs[0])
    headline(runs, data.certifiers)
    quantities(data.networks)
    along_training(data.networks, (*ALONG, TIME) if times else ALONG)
    claims(data)


def about(run: RunReport) -> None:
    """Threat, images, checkpoint and versions of the evaluations."""
    assert run.evaluation is not None
    threat, checkpoint = run.evaluation.threat, run.evaluation.provenance.plan["checkpoint"]
    n = {name: split.n for name, split in run.evaluation.splits.items()}
    strength = f"{threat.norm} eps {eps_text(threat.eps)}"
    print(f"Evaluated at {strength} on {n['test']} test and {n['train']} training images, checkpoint")
    chosen = " by validation" if checkpoint == "best" else ""
    print(f"`{checkpoint}`{chosen}. Attacks run one after another, on survivors: columns are")
    print("cumulative. Intervals are 95 %.")
    environment = run.record.environment
    print(f"torch {environment['torch']}, Python {environment['python']}, {environment['device']}.\n")


def row(cells: Iterable[str]) -> None:
    """One row of a table."""
    print("| " + " | ".join(cells) + " |")


def head(titles: Sequence[str]) -> None:
    """The head of a table."""
    row(titles)
    print("|" + "---|" * len(titles))


def with_ends(interval: Interval | None, digits: int, factor: float = 1) -> str:
    """A number with its interval."""
    if interval is None or interval.low is None or interval.high is None:
        return "-"
    value, low, high = (
        f"{factor * end:z.{digits}f}" for end in (interval.value, interval.low, interval.high)
    )
    return f"{value} ({low} to {high})"


def headline(runs: list[RunReport], certifiers: list[str]) -> None:
    """One row per run; `certifiers` are the methods that some were certified by."""
    first = runs[0].evaluation
    attacks = first.attacks if first else ()
    titles = ["method", "eps", "seed", "clean %", *(f"{name} %" for name in attacks)]
    titles += [f"certified by {method} %" for method in certifiers]
    gaps = ["robust gap, points", "error gap, points", "loss gap, nats"] if gaps_say_something(runs) else []
    head([*titles, *gaps, "flags"])
    for run in runs:
        test = run.split("test")
        if test is None:
            continue
        shares = [run.clean(), *map(test.by_attack.get, attacks), *map(run.certified, certifiers)]
        cells = [with_ends(share, 1, 100) for share in shares]
        if gaps:
            cells += [with_ends(run.gap(kind), 1, 100) for kind in ("robust", "error")]
            cells += [with_ends(run.gap("loss"), 3)]
        flags = ", ".join(flag.name for flag in test.flags) or "none"
        row([run.label, eps_text(run.eps), str(run.seed), *cells, flags])


def gaps_say_something(runs: list[RunReport]) -> bool:
    """Whether a run was evaluated on as many training images as the claims ask for."""
    return any(train.n >= LEAST_EXAMPLES for run in runs if (train := run.split("train")))


def quantities(networks: Iterable[Network]) -> None:
    """Measured quantities, a row for each method and strength: means over seeds, and ranges."""
    explained = [(network, [run for run in network.runs if run.explanation]) for network in networks]
    every = [run for _, runs in explained for run in runs]
    columns = [(title, read) for title, read in QUANTITIES if any(read(run) is not None for run in every)]
    if not columns:
        return
    print("\n## What was measured\n\nMeans over seeds (smallest to largest); medians are over layers.\n")
    head(["method", "eps", *(title for title, _ in columns)])
    for network, runs in explained:
        if runs:
            cells = [spread([read(run) for run in runs]) for _, read in columns]
            row([network.label, eps_text(network.eps), *cells])


def along_training(networks: Iterable[Network], columns: "Columns") -> None:
    """The best checkpoint, and every epoch that was evaluated, a row each: means over seeds, and ranges."""
    rows = []
    for network in networks:
        every = [(run, checkpoints(run)) for run in network.runs if run.other_checkpoints]
        for name in dict.fromkeys(name for _, by_name in every for name in by_name):
            there = [(run, by_name[name]) for run, by_name in every if name in by_name]
            cells = [spread([read(run, at) for run, at in there]) for _, read in columns]
            rows.append([network.label, name, *cells])
    if not rows:
        return
    print("\n## Best, last and along training\n\nMeans over seeds (smallest to largest).\n")
    titles = ["method", "checkpoint", *(title for title, _ in columns)]
    shown = [place for place in range(len(titles)) if any(cells[place] != "-" for cells in rows)]
    head([titles[place] for place in shown])
    for cells in rows:
        row([cells[place] for place in shown])


def checkpoints(run: RunReport) -> dict[str, CheckpointReport]:
    """The chosen checkpoint, and those beside it, by name; each with the measures of its own weights."""
    chosen = replace(run, explanation=explanation_beside(run.source, run.evaluation))
    return {"best": chosen} | {str(at.checkpoint): at for at in run.other_checkpoints}


def pace(run: RunReport, at: CheckpointReport) -> float | None:
    """Median time of an epoch with perturbed weights over one of its warm-up; said once, of the last.

    In seconds of the processor, where every epoch has them.
    """
    on_cpu = not any(math.isnan(epoch.cpu_seconds) for epoch in run.metrics)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for epoch in run.metrics:
        seconds[epoch.perturbed].append(epoch.cpu_seconds if on_cpu else epoch.seconds)
    if at.checkpoint != LAST or not all(seconds.values()):
        return None
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


def percent(quantity: Quantity) -> Read:
    """Reads a number of an evaluation, in per cent."""

    def read(run: RunReport, at: CheckpointReport) -> float | None:
        interval = quantity(at)
        return None if interval is None else 100 * interval.value

    return read


def explained(measure: str, *path: str) -> Read:
    """Reads one number of an explanation; None where it was not measured."""
    return lambda run, at: measured(measure, *path)(at)


Columns = tuple[tuple[str, Read], ...]
TIME = ("time of an epoch with AWP, over one of its warm-up", pace)
ALONG: Columns = (
    ("clean, test %", percent(lambda at: at.clean())),
    ("robust, test %", percent(lambda at: at.robust())),
    ("robust, training %", percent(lambda at: at.robust("train"))),
    ("robust gap, points", percent(lambda at: at.gap("robust"))),
    ("landscape rise at 0.5, nats", explained("landscape", "rise", "0.5")),
    ("at matched temperature", explained("landscape", "matched_rise", "0.5")),
    ("average-case flatness, nats", explained("flatness", "average", "loss")),
    ("worst-case flatness, nats", explained("flatness", "worst", "loss")),
    ("largest relative eigenvalue", explained("curvature", "relative_top_eigenvalue")),
    ("relative trace", explained("curvature", "relative_trace")),
)
"""Columns of the table of checkpoints: title, and how a run's checkpoint is read."""


def measured(measure: str, *path: str) -> Callable[[CheckpointReport], float | None]:
    """Reads one number of an explanation; None where it was not measured."""

    def read(at: CheckpointReport) -> float | None:
        number = at.number(measure, *path)
        return number.value if number else None

    return read


def median_of_layers(measure: str, key: str) -> Callable[[CheckpointReport], float | None]:
    """As `measured`, of every layer, and their median."""

    def read(at: CheckpointReport) -> float | None:
        layers = at.at(measure, "layers") or {}
        values = [measured(measure, "layers", layer, key)(at) for layer in layers]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return read


QUANTITIES: tuple[tuple[str, Callable[[CheckpointReport], float | None]], ...] = (
    ("std of singular values", median_of_layers("spectrum", "std")),
    ("their std / mean", median_of_layers("spectrum", "std_over_mean")),
    ("largest singular value of the Jacobian", measured("jacobian", "mean_largest")),
    ("std of activation norms", median_of_layers("activations", "std")),
    ("their std / mean", median_of_layers("activations", "std_over_mean")),
    ("confidence", measured("margins", "test", "confidence")),
    ("share within 0.2 of the boundary", measured("margins", "test", "within", "0.2")),
    ("the same at matched temperature", measured("margins", "matched", "test", "within", "0.2")),
    ("indecisive errors, of all images", measured("margins", "test", "indecisive_errors", "0.2")),
    ("indecisive share of errors", measured("margins", "test", "indecisive_share", "0.2")),
    ("fall of the probability margin under PGD", measured("smoothness", "mean_probability_change")),
    ("relative change of features", median_of_layers("smoothness", "attack")),
    ("instance margin, test, median", measured("bound", "test", "upper", "0.5")),
    ("assumption 3.1 fails on", measured("bound", "test", "assumption_3_1_fails", "paths")),
    ("log10 u_min", measured("bound", "log10", "u_min")),
    ("log10 of the complexity term", measured("bound", "log10", "complexity_term")),
)
"""Columns of the table of measured quantities: title, and how a run is read."""


def spread(values: list[float | None]) -> str:
    """The mean of what is known, and its range over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.3g}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.3g} to {max(known):.3g})"


def claims(data: ReportData) -> None:
    """One row per claim that was tested; the untested ones are listed below, by reason."""
    print("\n## Claims\n")
    print(wrapped(f"{verdict_counts(data.claims)} {' '.join(by_chance(data.claims))}") + "\n")
    head(["paper", "claim", "verdict", "effect", "p, alone and together", "statistic", "why"])
    for claim in data.claims:
        if claim.verdict == "untested":
            continue
        effect, statistic = claim.effect, claim.statistic
        shown = number(effect.value)
        if effect.value is not None and effect.low is not None:
            shown += f" ({number(effect.low)} to {number(effect.high)}) {effect.unit}"
        where = f" *{sentence(claim.setting)}*" if claim.setting else ""
        both = f"{number(effect.p)}, {number(claim.adjusted_p)}" if claim.adjusted_p is not None else "-"
        cells = [claim.paper, claim.statement + where, f"**{claim.wording}**", shown.strip(), both]
        row([*cells, f"{statistic.name}: {number(statistic.value)}", claim.why])
    lacking = untested(data.claims)
    if lacking.number:
        print("\nUntested:\n")
    for why, statements in lacking.reasons.items():
        reason = why.split(";")[0].rstrip(".") + "."
        if not any(why.startswith(network.label) for network in data.networks):
            reason = reason[:1].lower() + reason[1:]
        print(wrapped(f"- {'; '.join(statements)}: {reason}", indent="  "))
    if lacking.yaml:
        print(f"\nLines of the study's file that would measure them:\n\n```yaml\n{lacking.yaml}\n```")


def wrapped(text: str, indent: str = "") -> str:
    """Prose in the lines of the documents, at most 120 characters."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{flushed(value):.3g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], times=sys.argv[3:] == ["times"])
