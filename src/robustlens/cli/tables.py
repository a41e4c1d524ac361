"""Results as tables on standard output: the output of the commands."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from robustlens.cli.display import console, output, print_titled
from robustlens.config import eps_text
from robustlens.results import EvaluationResult, Measurement, Run, StudyFolder
from robustlens.stats.intervals import Interval, flushed

if TYPE_CHECKING:
    from robustlens.report.comparison import Comparison
    from robustlens.study import PlannedRun


def plan(planned: "list[PlannedRun]") -> None:
    """The runs of a study before they start."""
    table = Table("run", "method", "objective", "eps", "AWP", "epochs", "seed", "recipe", box=None)
    for run in planned:
        recipe = run.recipe
        gamma = f"{recipe.awp.gamma:g}" if recipe.awp else "-"
        row = (run.id, run.method, recipe.objective, eps_text(recipe.threat.eps), gamma)
        table.add_row(*row, str(recipe.optimizer.epochs), str(recipe.seed), recipe.hash())
    output.print(table)


def training(run: Run) -> None:
    """Accuracies after the last epoch, and where the run lies."""
    last = run.metrics()[-1]
    for split, after in (("train", last.train), ("validation", last.validation)):
        if after is not None:
            output.print(f"{split}: clean {after.clean:.1%}, robust {after.robust:.1%} ({after.n} images)")
    output.print(f"run: {run.folder}", soft_wrap=True)


def headline(folder: StudyFolder) -> None:
    """Accuracies and robust gap of each network, with the numbers and intervals of the report's table."""
    from robustlens.report.reading import read_study
    from robustlens.report.text.headline import headline as report_table
    from robustlens.report.text.headline import interval_caption

    data = read_study(folder.folder)
    shown = report_table(data)
    columns = [
        column for column in shown.columns if column.unit in ("%", "points") and column.key != "gap:error"
    ]
    titles = [f"{column.title.lower()}, {column.unit}" for column in columns]
    table = Table("network", "seed", *titles, box=None)
    for row in shown.rows:
        named = row.cells["method"].text, row.cells["seeds"].text
        cells = [row.cells[column.key] for column in columns]
        rest = (Text.assemble(cell.text, "\n", (cell.interval, "dim")) for cell in cells)
        table.add_row(*named, *([row.message] if row.message else rest))
    output.print(table)
    output.print(interval_caption(data), soft_wrap=True)


def claims(folder: StudyFolder) -> None:
    """One row per claim that was tested and its verdict, and how many there are of each."""
    from robustlens.report.text.claims import verdict_counts

    styles = {"supported": "green", "not supported": "red", "inconclusive": "yellow"}
    every = folder.claims
    table = Table("claim", "verdict", box=None)
    for claim in every:
        if claim.verdict != "untested":
            where = f" ({claim.setting})" if claim.setting else ""
            style = styles.get(claim.verdict, "default")
            table.add_row(claim.statement + where, Text(claim.wording, style))
    output.print(table)
    output.print(verdict_counts(every), soft_wrap=True)
    if any(claim.verdict == "untested" for claim in every):
        output.print("the report lists what is untested, and the lines of YAML that would measure it")


def evaluation(result: EvaluationResult) -> None:
    """Accuracies on both splits, time by attack, gaps, flags and notes."""
    proven = dict.fromkeys(name for split in result.splits.values() for name in split.certified)
    titles = [*result.columns, *(f"certified ({name})" for name in proven)]
    table = Table("split", "n", "clean %", *[f"{title} %" for title in titles], box=None)
    for name, split in result.splits.items():
        cells = [_percent(result.after(column, name)) for column in result.columns]
        cells += [_percent(split.certified.get(method)) for method in proven]
        table.add_row(name, str(split.n), _percent(split.clean), *cells)
    output.print(table)
    for name, split in result.splits.items():
        spent = ", ".join(f"{attack} {seconds:.1f} s" for attack, seconds in split.seconds.items())
        output.print(f"time on {name} images: {spent}", soft_wrap=True)
    output.print("each attack ran on the survivors of those before it; intervals are 95 %")
    for name, gap in result.gaps.items():
        between = "" if gap.low is None or gap.high is None else f" ({gap.low:z.4f} to {gap.high:z.4f})"
        output.print(f"{name} gap: {gap.value:z.4f}{between}")
    test = result.splits["test"]
    for note in test.notes:
        output.print(f"note: {note}", soft_wrap=True)
    for flag in test.flags:
        print_titled(console, f"[bold yellow]flag {flag.name}[/]: ", flag.message)


SUMMARY_LINES = 12


def measurements_summary(measures: Mapping[str, Measurement]) -> None:
    """The key numbers of each measure, at most `SUMMARY_LINES` lines; `measurements` prints all."""
    from robustlens.report.text.key_numbers import KEY_NUMBERS
    from robustlens.report.text.wording import number

    lines = []
    for name, measurement in measures.items():
        values = [(key, key.read(measurement)) for key in KEY_NUMBERS.get(name, ())]
        own = [
            f"{name}: {key.title}: {number(value)} {key.unit}".rstrip()
            for key, value in values
            if value is not None
        ]
        lines += own or [f"{name}: {measurement.what}"]
    for line in lines[: SUMMARY_LINES - 1]:
        output.print(line, soft_wrap=True)
    left = max(0, len(lines) - SUMMARY_LINES + 1)
    more = f"{left} more lines, and every" if left else "every"
    output.print(f"{more} number: the same command with --all")


def measurements(measures: Mapping[str, Measurement]) -> None:
    """Every number of every measure."""
    for name, measurement in measures.items():
        output.print(Text.assemble((name, "bold"), f" ({measurement.unit}): {measurement.what}"))
        for key, leaf in _leaves(measurement.value):
            value: Any = math.nan if leaf is None else leaf  # a file has no other word for it
            text = f"{flushed(value):.4g}" if isinstance(value, float) else str(value)
            text = "; ".join(value) if key == "favourable" else text
            output.print(f"  {key}  {text}")


def comparison(result: "Comparison") -> None:
    """Two runs: recipes, numbers with the intervals of their differences, notes."""
    from robustlens.report.comparison import text

    output.print(f"A: {result.a.name}, B: {result.b.name}", soft_wrap=True)
    if result.recipe or result.evaluation:
        table = Table("differs", "A", "B", box=None)
        for title, fields in (("recipe", result.recipe), ("evaluation", result.evaluation)):
            for one in fields:
                values = (Text("-" if value is None else value) for value in (one.a, one.b))
                table.add_row(Text(f"{title}: {one.field}"), *values)
        output.print(table)
    parts = [(text.heading(part), part.changes) for part in result.accuracy]
    parts += [("Gaps between training and test images", result.gaps)] if result.gaps else []
    parts += [(name.capitalize(), changes) for name, changes in result.measures.items()]
    for title, changes in parts:
        counted = any(change.counts for change in changes)
        table = Table("", "A", "B", "B minus A", box=None, title=title, title_justify="left")
        if counted:
            table.add_column(", ".join(text.COUNTS))
        for row in text.rows(changes):
            cells = (_with_interval(cell) for cell in (row.a, row.b, row.difference))
            table.add_row(row.quantity, *cells, *([", ".join(row.counts)] if counted else ()))
        output.print(table)
    for note in result.notes:
        output.print(f"note: {note}", soft_wrap=True)


def _with_interval(cell: str) -> Text:
    """A number, and on a line of its own the interval that stands behind it in parentheses."""
    number, _, interval = cell.rstrip(")").partition(" (")
    return Text.assemble(number, ("\n" + interval if interval else "", "dim"))


def _percent(interval: Interval | None) -> Text:
    if interval is None:
        return Text()
    if interval.low is None or interval.high is None:
        return Text(f"{100 * interval.value:z.1f}")
    value, low, high = (100 * end for end in (interval.value, interval.low, interval.high))
    return Text.assemble(f"{value:z.1f} ", (f"{low:z.1f} to {high:z.1f}", "dim"))


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{key}".strip("."))
