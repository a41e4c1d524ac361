"""The documentation as a site: it builds without a warning, and opens in a browser without a word of complaint."""

import re
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import run
from types import ModuleType
from typing import Any

import pytest

from helpers.browser import REASON, chromium, find_chromium
from helpers.measured_more import measure_more
from helpers.study_files import example_claims, write_study
from robustlens.report import write
from robustlens.report.figures import FIGURES

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.lasts(50)]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, with the report of a study made by hand: `make docs` trains one, which takes minutes."""
    pytest.importorskip("mkdocs")
    folder, study = (tmp_path_factory.mktemp("docs") / name for name in ("site", "study"))
    write(measure_more(write_study(study, claims=example_claims())), formats=["svg"])
    command = [sys.executable, "tools/build_docs.py", "--site", str(folder), "--sample", str(study)]
    done = run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pages(site: Path) -> list[str]:
    return [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]


def test_a_browser_opens_every_page_in_silence_and_asks_nobody_else(site: Path, address: str) -> None:
    if find_chromium() is None:
        pytest.skip(REASON)
    assert len(pages(site)) > 40
    said: list[str] = []
    asked: list[str] = []
    refused: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
        page.on("response", lambda answer: refused.extend([answer.url] * (answer.status >= 400)))
        page.on("request", lambda request: asked.append(request.url))
        for name in pages(site):
            page.goto(f"{address}/{name}")
        page.goto(f"{address}/index.html")
        page.keyboard.press("/")
        page.keyboard.type("gradient masking")
        page.wait_for_selector(".md-search-result__item a[href*='faq.html']", state="attached")
        browser.close()
    # What the browser says of the speed of its own drawing, in the sample report, is no fault of ours.
    assert [text for text in said if "Canvas2D" not in text and "GL Driver" not in text] == []
    assert refused == []
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()


def test_each_picture_is_drawn_from_the_sample_report(site: Path) -> None:
    page = (site / "pictures.html").read_text(encoding="utf-8")
    drawn = re.findall(r'<img[^>]*src="sample-report/figures/([a-z0-9-]+)\.svg"', page)
    assert len(drawn) == len(FIGURES)
    assert all((site / "sample-report" / "figures" / f"{name}.svg").stat().st_size > 1000 for name in drawn)


def test_the_reference_has_every_public_name(site: Path) -> None:
    import robustlens as rl

    for room in ("attacks", "objectives", "explain", "models", "data", "study", "report"):
        page = (site / "reference" / f"{room}.html").read_text(encoding="utf-8")
        for name in getattr(rl, room).__all__:
            if isinstance(getattr(getattr(rl, room), name), ModuleType):
                continue
            assert f"rl.{room}.{name}" in page, f"{room}.{name}"
