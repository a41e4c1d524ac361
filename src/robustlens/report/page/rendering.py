"""Writes the report: one page that needs no network, and a folder of figures for papers."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from robustlens.report import data as collect
from robustlens.report.data import ReportData
from robustlens.report.drawing import matplotlib as files
from robustlens.report.drawing import plotly as plotly_json
from robustlens.report.drawing.spec import Figure
from robustlens.report.figures import figures
from robustlens.report.text import attacks as by_attack
from robustlens.report.text import details, flags, headline
from robustlens.report.text import summary as prose
from robustlens.report.text.wording import count, duration, minus, points, sentence
from robustlens.results.folders import write_atomic

HERE = Path(__file__).parent


def write(study_folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a study and return the path of its page.

    Runs that failed or are unfinished are shown as such; a measure that no run has is named as missing.

    Args:
        study_folder: the folder that holds `study.json`.
        out: where `index.html` and `figures/` go; None for `report/` in the study's folder.

    Raises:
        StateError: there is no readable `study.json`. ResourceError: `out` cannot be written.
    """
    folder = Path(study_folder)
    return _write(collect.study(folder), Path(out) if out is not None else folder / "report")


def write_run(run_folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the same page for one run alone and return its path.

    Args:
        run_folder: a run folder, evaluated or explained.
        out: where `index.html` and `figures/` go; None for `report/` in the run's folder.

    Raises:
        StateError: there is no run in the folder. ResourceError: `out` cannot be written.
    """
    folder = Path(run_folder)
    return _write(collect.single(folder), Path(out) if out is not None else folder / "report")


def _write(study: ReportData, out: Path) -> Path:
    drawn = figures(study)
    for figure in drawn:
        if figure.views:
            write_atomic(out / "figures" / f"{figure.name}.csv", files.csv_bytes(figure.rows()))
        for view in figure.views:
            if name := figure.file_of(view):
                for kind, content in files.drawings(figure, view, study.groups).items():
                    write_atomic(out / "figures" / f"{name}.{kind}", content)
    table = headline.headline(study)
    write_atomic(out / "figures" / "headline.csv", files.csv_bytes(table.csv_rows()))
    write_atomic(out / "figures" / "attacks.csv", files.csv_bytes(by_attack.csv_rows(study)))
    # The page comes last: where there is a page, the figures that it links to are there.
    write_atomic(out / "index.html", _page(study, drawn, table).encode())
    return out / "index.html"


def _page(study: ReportData, drawn: list[Figure], table: headline.Table) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {found.__name__: found for found in (count, duration, minus, points, sentence)}
    scripts = {"theme": _asset("theme.js"), "plotly": Markup(get_plotlyjs()), "report": _asset("report.js")}
    template = environment.get_template("template.html")
    return template.render(
        study=study,
        table=table,
        summary=prose.summary(study),
        notices=headline.notices(study),
        flags=flags.explained(study),
        attacks=by_attack.by_split(study),
        several_seeds=any(len(group.records) > 1 for group in study.groups),
        claims=prose.claims_by_paper(study),
        sections=_sections(drawn),
        details=details,
        css=_asset("report.css"),
        data=_embedded(study, drawn),
        # Only these scripts run, whatever a label says; nothing is fetched.
        policy=" ".join(f"'sha256-{_digest(text)}'" for text in scripts.values()),
        **scripts,
    )


def _sections(drawn: list[Figure]) -> list[tuple[str, list[Figure]]]:
    titles = dict.fromkeys(figure.section for figure in drawn)
    return [(title, [figure for figure in drawn if figure.section == title]) for title in titles]


def _embedded(study: ReportData, drawn: list[Figure]) -> Markup:
    """What the page's script draws from, safe inside a script element."""
    data: dict[str, Any] = {
        "looks": [[group.style.light, group.style.dark] for group in study.groups],
        "figures": {figure.name: plotly_json.figure_json(figure, study.groups) for figure in drawn},
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _asset(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
