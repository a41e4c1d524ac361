"""Parts of the report by name: a figure, and a series of one of its panels."""

from robustlens.report.data import ReportData
from robustlens.report.drawing.spec import Figure, Series
from robustlens.report.figures import FIGURES


def figure(data: ReportData, name: str) -> Figure:
    """The figure called `name`."""
    return next(drawn for draw in FIGURES if (drawn := draw(data)).name == name)


def series(figure: Figure, panel: str, label: str, view: int | str = 0) -> Series:
    """A network's series in a panel of a view, which is called by its place or its name."""
    names = [chosen.name for chosen in figure.views]
    chosen = figure.views[names.index(view) if isinstance(view, str) else view]
    shown = next(one for one in chosen.panels if one.title == panel)
    return next(line for line in shown.series if line.label == label and line.mark != "thread")
