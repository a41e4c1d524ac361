"""The report's files: one page that needs no network, and a folder of figures for papers."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.matplotlib import FORMATS, checked_formats, drawings
from robustlens.report.drawing.multiples import SmallMultiple, small_multiple
from robustlens.report.drawing.plotly import figure_json
from robustlens.report.drawing.spec import Figure
from robustlens.report.figures import figures
from robustlens.report.groups import MOST, caption, grouped
from robustlens.report.reading import read_run, read_study
from robustlens.report.results_document import results_bytes
from robustlens.report.text import attacks, details, flags
from robustlens.report.text import claims as claims_text
from robustlens.report.text.effects import EffectReport, effects
from robustlens.report.text.headline import Headline, headline, interval_caption, notices
from robustlens.report.text.latex import claims_table, headline_table
from robustlens.report.text.summary import summary
from robustlens.report.text.wording import count, duration, minus, points, sentence
from robustlens.results import ClaimResult
from robustlens.results.files import write_atomic
from robustlens.results.leftovers import report_folder

HERE = Path(__file__).parent


def write(
    study_folder: str | PathLike[str],
    out: Path | str | None = None,
    claims: tuple[ClaimResult, ...] | None = None,
    *,
    formats: Sequence[str] | None = None,
) -> Path:
    """Write the report of a study and return the path of its page.

    Runs that failed or are unfinished are shown as such; a measure that no run has is named as missing.

    Args:
        study_folder: the folder that holds `study.json`; a `StudyFolder`, too.
        out: where `index.html` and `figures/` go; None for `report/` in the study's folder.
        claims: to show; None for those that the study's folder has.
        formats: of the drawings: "pdf", "svg", "png", or none; None for all three, and for none where
            networks are too many for a line each.

    Raises:
        ConfigError: an unknown format.
        StateError: there is no readable `study.json`. ResourceError: `out` cannot be written.
    """
    folder = Path(study_folder)
    return _write(read_study(folder, claims), report_folder(folder, out), formats)


def write_run(
    run_folder: str | PathLike[str], out: Path | str | None = None, *, formats: Sequence[str] | None = None
) -> Path:
    """Write the same page for one run alone and return its path.

    Args:
        run_folder: a run folder, evaluated or explained; a `Run`, too.
        out: where `index.html` and `figures/` go; None for `report/` in the run's folder.
        formats: as for `write`.

    Raises:
        ConfigError: an unknown format.
        StateError: there is no run in the folder. ResourceError: `out` cannot be written.
    """
    folder = Path(run_folder)
    return _write(read_run(folder), report_folder(folder, out), formats)


def page(data: ReportData, drawn: Sequence[Figure], table: Headline, formats: Sequence[str] = FORMATS) -> str:
    """The page as HTML: these figures under this table, with everything else that `data` says.

    The figures are those of `grouped(data)`; `formats` are those of their drawings beside the page.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        filter_.__name__: filter_ for filter_ in (count, duration, minus, points, sentence)
    }
    scripts = {
        "theme": _asset("theme.js"),
        "copying": _asset("copy.js"),
        "plotly": Markup(get_plotlyjs()),
        "report": _asset("report.js"),
    }
    template, plotted = environment.get_template("template.html"), grouped(data)
    strip = effects(plotted)
    return template.render(
        report=data,
        plotted=plotted,
        groups_caption=caption(data),
        table=table,
        summary=summary(data),
        effects=strip,
        strip=[(effect, _small_multiple(effect)) for effect in strip.effects],
        keys=_keys(plotted),
        interval_caption=interval_caption(data),
        notices=notices(data),
        flags=flags.explained(data),
        attacks=attacks.by_split(plotted),
        several_seeds=any(len(network.runs) > 1 for network in data.networks),
        papers=claims_text.by_paper(data),
        claims=claims_text,
        sections=_sections([figure for figure in drawn if figure.views]),
        missing=_missing(drawn),
        formats=formats,
        details=details,
        css=_asset("report.css"),
        embedded=_embedded(plotted, drawn),
        scripts=scripts,
        # Only these scripts run, whatever a label says; nothing is fetched.
        policy=" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values()),
    )


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV, numbers in full precision; empty cells where there is no interval."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writerow({key: _cell(key) for key in rows[0]})
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _write(data: ReportData, out: Path, formats: Sequence[str] | None) -> Path:
    usual = FORMATS if len(data.networks) <= MOST else ()
    kinds = usual if formats is None else checked_formats(formats)
    plotted = grouped(data)
    drawn, table = figures(plotted), headline(data)
    for figure in drawn:
        if figure.views:
            write_atomic(out / "figures" / f"{figure.name}.csv", csv_bytes(figure.rows()))
        for view in figure.views:
            if name := figure.file_of(view):
                for kind, content in drawings(figure, view, plotted.networks, kinds).items():
                    write_atomic(out / "figures" / f"{name}.{kind}", content)
    write_atomic(out / "figures" / "headline.csv", csv_bytes(table.csv_rows()))
    write_atomic(out / "figures" / "attacks.csv", csv_bytes(attacks.csv_rows(data)))
    write_atomic(out / "headline.tex", headline_table(table).encode())
    write_atomic(out / "claims.tex", claims_table(data.claims).encode())
    write_atomic(out / "results.json", results_bytes(data, table))
    # The page comes last: where there is a page, the figures that it links to are there.
    write_atomic(out / "index.html", page(data, drawn, table, kinds).encode())
    return out / "index.html"


def _cell(value: Any) -> Any:
    """A cell; text that a spreadsheet would run as a formula is quoted."""
    return "'" + value if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n") else value


def _sections(drawn: Sequence[Figure]) -> list[tuple[str, list[Figure]]]:
    titles = dict.fromkeys(figure.section for figure in drawn)
    return [(title, [figure for figure in drawn if figure.section == title]) for title in titles]


def _missing(drawn: Sequence[Figure]) -> list[tuple[str, list[str]]]:
    """Reasons for which there are no figures, and the titles of the figures that each leaves out."""
    reasons: dict[str, list[str]] = {}
    for figure in drawn:
        if not figure.views:
            reasons.setdefault(figure.missing, []).append(figure.title)
    return list(reasons.items())


def _small_multiple(effect: EffectReport) -> SmallMultiple | None:
    """The drawing beside a sentence; None where it is of quantities that are not drawn."""
    if not effect.values:
        return None
    return small_multiple(effect.values, effect.topic.quantities[0].write, effect.emphasised)


def _keys(data: ReportData) -> list[tuple[Network, str]]:
    """The strongest network of every method, whose mark stands for the method, and the method's name."""
    strongest: dict[str, Network] = {}
    for network in data.networks:
        if network.method not in strongest or network.eps > strongest[network.method].eps:
            strongest[network.method] = network
    return [(network, method) for method, network in strongest.items()]


def _embedded(data: ReportData, drawn: Sequence[Figure]) -> Markup:
    """Data that the page's script draws from, safe inside a script element."""
    content: dict[str, Any] = {
        "styles": [[network.style.light, network.style.dark] for network in data.networks],
        "figures": {figure.name: figure_json(figure, data.networks) for figure in drawn},
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _asset(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
