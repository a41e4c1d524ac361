"""The page and the JSON file of a comparison."""

import base64
import hashlib
import json
from os import PathLike
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustlens.report.comparison import text
from robustlens.report.comparison.comparing import compare
from robustlens.report.comparison.documents import Comparison
from robustlens.results.files import write_atomic
from robustlens.results.values import plain

PAGE, DOCUMENT = "index.html", "comparison.json"


def write_comparison(a: str | PathLike[str], b: str | PathLike[str], out: Path | str) -> Path:
    """Compare two runs as `compare` does; write `index.html` and `comparison.json` in `out`; return the page.

    Raises:
        StateError: as `compare`. ResourceError: `out` cannot be written.
    """
    return write_pages(compare(a, b), Path(out))


def write_pages(comparison: Comparison, out: Path) -> Path:
    """Write both files of a comparison that was made, the page last."""
    content = json.dumps(plain(comparison), indent=1, allow_nan=False) + "\n"
    write_atomic(out / DOCUMENT, content.encode())
    write_atomic(out / PAGE, html(comparison).encode())
    return out / PAGE


def html(comparison: Comparison) -> str:
    """The page, whole in itself."""
    environment = Environment(
        loader=PackageLoader("robustlens.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = {name: _asset(f"{name}.js") for name in ("theme", "copy")}
    return environment.get_template("comparison.html").render(
        comparison=comparison,
        text=text,
        css=_asset("report.css"),
        scripts=scripts,
        # Only these scripts run, whatever a name says; nothing is fetched.
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts.values()),
    )


def _asset(name: str) -> Markup:
    return Markup((Path(__file__).parents[1] / "page" / name).read_text(encoding="utf-8"))


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
