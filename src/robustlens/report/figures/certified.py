"""The figure of certified and attacked accuracy: between which two numbers the robust accuracy lies."""

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.spec import Axis, Figure, Panel, Series, Table, view
from robustlens.report.figures.panels import SPLITS, attacked_at, views
from robustlens.report.text.wording import points
from robustlens.stats.intervals import Interval

Bracket = tuple[Interval, Interval]
"""Certified accuracy, and robust accuracy under attack."""


def certified(data: ReportData) -> Figure:
    """A bar from certified to attacked accuracy for every network."""
    methods = data.certifiers
    shown = [(method, title, split) for method in methods for title, split in SPLITS]
    panels = [_panel(data, method, title, split) for method, title, split in shown]
    return Figure(
        "certified",
        "Accuracy",
        "Robust accuracy from below and from above",
        "The robust accuracy of a network lies on its bar: no attack can break the share at the lower end, "
        "which is proven, and attacks did break all above the upper end. Where the ends meet, it is known.",
        views(view("", panels)),
        note=f"The marker is the certified accuracy, the upper end the accuracy{attacked_at(data)}; means "
        "over seeds. Intervals are in the table below.",
        missing="It takes an evaluation with `certify`.",
        tables=tuple(table for one in shown if (table := _table(data, *one)).rows),
    )


def bracket(network: Network, method: str, split: str) -> Bracket | None:
    """Certified and attacked accuracy over the seeds that were certified by a method."""
    lower = network.share_over_seeds(lambda run: run.certified(method, split))
    upper = network.share_over_seeds(
        lambda run: None if run.certified(method, split) is None else run.robust(split)
    )
    return None if lower is None or upper is None else (lower, upper)


def _panel(data: ReportData, method: str, title: str, split: str) -> Panel:
    series = [
        Series(network.label, (network.label,), (low.value,), (low.value,), (high.value,), "points")
        for network, (low, high) in _brackets(data, method, split)
    ]
    axis = Axis("network", kind="category", categories=tuple(bar.label for bar in series))
    return Panel(f"{title}, {method}", axis, Axis("accuracy", percent=True), tuple(series))


def _table(data: ReportData, method: str, title: str, split: str) -> Table:
    rows = tuple(
        (network.label, (_text(low), _text(high), points(high.value - low.value)))
        for network, (low, high) in _brackets(data, method, split)
    )
    return Table(f"{title}, {method}", ("certified, %", "under attack, %", "not decided, points"), rows)


def _brackets(data: ReportData, method: str, split: str) -> list[tuple[Network, Bracket]]:
    pairs = ((network, bracket(network, method, split)) for network in data.networks)
    return [(network, ends) for network, ends in pairs if ends is not None]


def _text(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return points(interval.value)
    return f"{points(interval.value)} ({points(interval.low)} to {points(interval.high)})"
