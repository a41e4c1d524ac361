"""What the commands print: results as tables on standard output."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from robustlens.cli.display import console, output
from robustlens.config import eps_text
from robustlens.results.folders import StudyFolder, attack_columns

if TYPE_CHECKING:
    from robustlens.study import PlannedRun


def _percent(interval: dict[str, Any]) -> str:
    return f"{100 * interval['value']:.1f} [dim]{100 * interval['low']:.1f}-{100 * interval['high']:.1f}[/]"


def plan(planned: "list[PlannedRun]") -> None:
    """The runs of a study before they start."""
    table = Table("run", "method", "objective", "eps", "AWP", "epochs", "seed", "recipe", box=None)
    for run in planned:
        recipe = run.recipe
        gamma = f"{recipe.awp.gamma:g}" if recipe.awp else "-"
        row = (run.id, run.method, recipe.objective, eps_text(recipe.threat.eps), gamma)
        table.add_row(*row, str(recipe.optimizer.epochs), str(recipe.seed), recipe.hash())
    output.print(table)


def headline(folder: StudyFolder) -> None:
    """One row per run: accuracies and robust gap with their intervals."""
    evaluated = [(run, run.evaluation) for run in folder.runs()]
    columns = next((attack_columns(found) for _, found in evaluated if found), {})
    table = Table("method", "clean %", *[f"{title} %" for title in columns], "robust gap", box=None)
    for run, found in evaluated:
        label = run.entry["label"]
        if found is None:
            table.add_row(label, run.status["status"])
            continue
        test = found["splits"]["test"]
        cells = [_percent(test["clean"]), *[_percent(test["by_attack"][name]) for name in columns.values()]]
        table.add_row(label, *cells, _percent(found["gaps"]["robust"]))
    output.print(table)


def claims(folder: StudyFolder) -> None:
    """One row per claim and its verdict."""
    styles = {"supported": "green", "not supported": "red", "inconclusive": "yellow"}
    table = Table("claim", "verdict", box=None)
    for claim in folder.claims:
        where = f" ({claim['setting']})" if claim.get("setting") else ""
        table.add_row(claim["statement"] + where, f"[{styles[claim['verdict']]}]{claim['verdict']}[/]")
    output.print(table)


def evaluation(content: dict[str, Any]) -> None:
    """Accuracies on both splits, time by attack, gaps, flags and notes."""
    columns = attack_columns(content)
    table = Table("split", "n", "clean %", *[f"{title} %" for title in columns], box=None)
    for name, split in content["splits"].items():
        cells = [_percent(split["clean"]), *[_percent(split["by_attack"][at]) for at in columns.values()]]
        table.add_row(name, str(split["n"]), *cells)
    output.print(table)
    for name, split in content["splits"].items():
        spent = ", ".join(f"{attack} {seconds:.1f} s" for attack, seconds in split["seconds"].items())
        output.print(f"time on {name} images: {spent}", soft_wrap=True)
    output.print("each attack ran on the survivors of those before it; intervals are 95 %")
    for name, gap in content["gaps"].items():
        output.print(f"{name} gap: {gap['value']:.4f} ({gap['low']:.4f} to {gap['high']:.4f})")
    test = content["splits"]["test"]
    for note in test["notes"]:
        output.print(f"note: {note}", markup=False, soft_wrap=True)
    for flag in test["flags"]:
        console.print(f"[bold yellow]flag {flag['name']}[/]: ", end="")
        console.print(flag["message"], markup=False, soft_wrap=True)


def explanation(content: dict[str, Any]) -> None:
    """Every number of every measure."""
    for name, measurement in content["measures"].items():
        output.print(f"[bold]{name}[/] ({measurement['unit']}): {measurement['what']}")
        for key, value in _leaves(measurement["value"]):
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            output.print(f"  {key}  {shown}", markup=False)


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{key}".strip("."))]
