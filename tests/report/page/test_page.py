"""The page in a real browser: quiet, drawn, sortable, themed, readable on a phone, deaf to hostile texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import REASON, chromium, find_chromium
from helpers.measured_more import measure_more
from helpers.study_files import example_claims, write_study
from helpers.troubled_study import MARKUP, NASTY, NASTY_IMAGE, write_troubled_study
from robustlens.report import write
from robustlens.report.data import ReportData
from robustlens.report.figures import figures
from robustlens.report.page import rendering
from robustlens.report.reading import read_study

pytestmark = pytest.mark.lasts(100)


def _reported(folder: Path) -> Path:
    """Write the report without drawing its figures for papers, which is slow and tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "drawings", lambda *given: dict.fromkeys(given[-1], b""))
        write(folder)
    return folder


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study") / "quick", suite=True, claims=example_claims())
    return _reported(measure_more(folder))


@pytest.fixture(scope="module")
def study(study_folder: Path) -> ReportData:
    return read_study(study_folder)


@pytest.fixture(scope="module")
def troubled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _reported(write_troubled_study(tmp_path_factory.mktemp("study") / "troubled"))


def evaluation_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "evaluation.json").read_text())


class Visit:
    """An open page, and everything that it said or asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.set_default_timeout(120_000)  # a busy machine draws slowly, and that is no failure
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def _note(self, message: Any) -> None:
        # What the browser says of the speed of its own drawing, in space and on canvases, is no fault of ours.
        if not any(driver in message.text for driver in ("Canvas2D", "GL Driver Message")):
            self.said.append(f"{message.type}: {message.text}")

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]")

    def js(self, code: str, value: Any = None) -> Any:
        return self.page.evaluate(code, value)

    def order(self) -> list[str]:
        return self.js("[...document.querySelectorAll('#headline tbody th')].map(cell => cell.dataset.value)")

    def column(self, key: str) -> dict[str, str]:
        cells = self.js(
            """key => [...document.querySelectorAll('#headline tbody tr')].map(row => [
                row.querySelector('th').dataset.value,
                row.querySelector(`[data-column='${key}']`)?.dataset.value])""",
            key,
        )
        return dict(cells)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if find_chromium() is None:
        pytest.skip(REASON)
    with chromium() as running:
        yield running


def _visited(browser: Any, folder: Path, **options: Any) -> Iterator[Visit]:
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
    visit = Visit(context.new_page())
    visit.page.add_init_script("window.alert = () => { window.attacked = true; }")
    visit.open(page_of(folder))
    yield visit
    context.close()


@pytest.fixture(scope="module")
def laptop(browser: Any, study_folder: Path) -> Iterator[Visit]:
    """One open page for all tests that leave it unchanged."""
    yield from _visited(browser, study_folder)


@pytest.fixture(scope="module")
def troubled(browser: Any, troubled_folder: Path) -> Iterator[Visit]:
    yield from _visited(browser, troubled_folder)


@pytest.fixture
def dark(browser: Any, study_folder: Path) -> Iterator[Visit]:
    yield from _visited(browser, study_folder, color_scheme="dark")


@pytest.fixture(scope="module")
def phone(browser: Any, study_folder: Path) -> Iterator[Visit]:
    size = {"width": 390, "height": 844}
    yield from _visited(browser, study_folder, viewport=size, is_mobile=True, has_touch=True)


def page_of(folder: Path) -> Path:
    return folder / "report" / "index.html"


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"


DRAWN = """() => [...document.querySelectorAll('.plot')].map(plot => ({
    name: plot.getAttribute('aria-label'),
    wanted: plot.data.filter(trace => trace.visible !== false).length,
    drawn: plot.querySelectorAll('.scatterlayer .trace, .contourlayer .contour, .gl-container canvas').length,
    ink: plot.querySelectorAll('.scatterlayer path, .contourlayer path').length,
    width: plot.querySelector('svg').getBoundingClientRect().width, room: plot.clientWidth,
}))"""


SHOWN = """() => [...new Set([...document.querySelectorAll('.plot')].flatMap(
    plot => plot.data.filter(trace => trace.visible !== false).map(trace => trace.name)))]"""


def test_every_plot_is_drawn_without_a_word_on_the_console_or_a_request(
    laptop: Visit, study: ReportData, study_folder: Path
) -> None:
    plots = laptop.js(DRAWN)
    assert len(plots) == sum(len(drawn.views[0].panels) for drawn in figures(study) if not drawn.gallery)
    for plot in plots:
        assert plot["drawn"] == plot["wanted"] > 0, plot["name"]
        assert plot["ink"] > 0, plot["name"]
        assert abs(plot["width"] - plot["room"]) < 2, plot["name"]
    buttons = "[...new Set([...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title))]"
    assert laptop.js(buttons) == ["Download plot", "Zoom", "Pan", "Reset axes"]  # and no "Share chart"
    assert laptop.said == []
    assert laptop.asked == [page_of(study_folder).as_uri()]
    assert page_of(study_folder).stat().st_size < 7e6


CHOOSE = """option => [...document.querySelectorAll('article.card select')].filter(
    select => option < select.options.length).map(select => {
        select.value = option;
        select.dispatchEvent(new Event('change', {bubbles: true}));
        const titles = select.closest('article').querySelectorAll('.panels figcaption');
        return [...titles].map(title => title.textContent);
    })"""


def test_every_choice_of_every_selector_draws(laptop: Visit, study: ReportData) -> None:
    chosen = [drawn.views for drawn in figures(study) if len(drawn.views) > 1]
    options = laptop.js("[...document.querySelectorAll('article.card select')].map(s => s.options.length)")
    assert options == [len(views) for views in chosen]
    for option in reversed(range(max(options))):
        shown = laptop.js(CHOOSE, option)  # by hand, as in other tests, it takes half as long again
        wanted = [[panel.title for panel in views[option].panels] for views in chosen if option < len(views)]
        assert shown == wanted
        assert all(plot["drawn"] == plot["wanted"] > 0 for plot in laptop.js(DRAWN))
    assert laptop.said == []


def test_the_links_to_the_drawings_lead_to_files(laptop: Visit, study_folder: Path) -> None:
    margins = laptop.page.locator("[data-figure=margins]")
    margins.locator("select").select_option("1")
    links = laptop.js(
        "[...document.querySelectorAll('.files a')].filter(a => !a.parentNode.hidden).map(a => a.href)"
    )
    beside = [link.removeprefix((study_folder / "report").as_uri() + "/") for link in links]
    assert "figures/margins-logit-margin-histogram.pdf" in beside
    assert [link for link in beside if not (study_folder / "report" / link).is_file()] == []
    margins.locator("select").select_option("3")
    assert not margins.locator("a[data-kind=pdf]").is_visible()
    margins.locator("select").select_option("0")


def test_the_table_shows_the_numbers_of_the_files(
    laptop: Visit, study: ReportData, study_folder: Path
) -> None:
    shown = laptop.column("attack:pgd-20")
    for network in study.networks:
        content = evaluation_of(study_folder, network.runs[0].name)
        share = content["splits"]["test"]["by_attack"]["pgd-20"]
        value, low, high = (100 * share[end] for end in ("value", "low", "high"))
        assert float(shown[network.label]) == share["value"]
        cell = f"#headline tr:has(th[data-value='{network.label}']) [data-column='attack:pgd-20']"
        assert laptop.page.locator(f"{cell} .value").inner_text() == f"{value:.1f}"
        assert laptop.page.locator(f"{cell} .interval").inner_text() == f"{low:.1f} to {high:.1f}"


BLOCK = """label => {
    const block = [...document.querySelectorAll('.attacked:not([hidden]) .block')].find(
        one => one.querySelector('caption').textContent.trim() === label);
    const rows = [...block.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.innerText));
    return {rows: rows, flags: block.querySelector('.flags').innerText, notes: [...block.querySelectorAll('.note')].map(
        note => note.innerText)};
}"""


def test_each_network_shows_what_each_attack_did_on_the_images_that_are_chosen(
    laptop: Visit, study_folder: Path
) -> None:
    for place, split in enumerate(("test", "train")):
        laptop.page.locator("#images").select_option(str(place))
        shown = laptop.js(BLOCK, "AT 0.2")
        content = evaluation_of(study_folder, "at-0.2-s0")["splits"][split]
        assert [row[0] for row in shown["rows"]] == [
            "Clean", "FGSM", "PGD-20", "CW-20", "Standard suite", "APGD-CE", "APGD-T", "FAB-T", "Square", "Min-norm",
        ]  # fmt: skip
        after = [100 * content["by_attack"][name]["value"] for name in ("cw-20", "square")]
        assert shown["rows"][4][3].startswith(f"{after[1]:.1f} ")
        assert float(shown["rows"][4][1]) == pytest.approx(2 * after[0])  # of 200 images
        assert float(shown["rows"][4][2]) == pytest.approx(2 * (after[0] - after[1]))
        assert shown["rows"][4][5] == "4.5 s"
        assert shown["flags"] == "No reliability flag"
        assert shown["notes"] == ["apgd-t: 9 target classes"]
    laptop.page.locator("#images").select_option("0")
    assert laptop.js("document.querySelectorAll('.block').length") == 12
    assert laptop.js("document.querySelectorAll('.attacked[hidden]').length") == 1


def test_bars_of_survivors_are_as_long_as_their_shares(laptop: Visit, study_folder: Path) -> None:
    content = evaluation_of(study_folder, "standard-0-s0")["splits"]["test"]
    widths = laptop.js(
        """() => [...document.querySelectorAll('.attacked .block')[0].querySelectorAll('tbody tr')].map(row => {
            const whole = row.querySelector('.track span').getBoundingClientRect().width;
            return [...row.querySelectorAll('.track i')].map(bar => bar.getBoundingClientRect().width / whole);
        })"""
    )
    before, right = content["clean"]["value"], content["by_attack"]["fgsm"]["value"]
    assert widths[1] == pytest.approx([before, right], abs=0.01)


def test_the_table_sorts_by_click_and_by_key(laptop: Visit) -> None:
    values = {label: float(value) for label, value in laptop.column("gap:robust").items()}
    largest_first = sorted(values.values(), reverse=True)
    head = laptop.page.locator("th[data-key='gap:robust']")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [values[label] for label in laptop.order()] == largest_first
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [values[label] for label in laptop.order()] == largest_first[::-1]
    laptop.page.locator("th[data-key=method] button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert laptop.order() == ["AT 0.05", "AT 0.1", "AT 0.2", "AT+AWP 0.1", "Standard", "TRADES 0.1"]


def test_the_theme_follows_the_system_and_the_button_and_printing_is_light(
    dark: Visit, study: ReportData
) -> None:
    theme = "document.documentElement.dataset.theme"
    page_colour = "getComputedStyle(document.body).backgroundColor"
    line = "document.querySelector('.plot').data.filter(t => t.name === 'AT 0.2')[1].line.color"
    before = dark.js(page_colour)
    assert dark.js(theme) == "dark"
    assert dark.js(line) == study.networks[3].style.dark
    bar = "getComputedStyle(document.querySelectorAll('.block')[3].querySelector('.track i')).backgroundColor"
    assert dark.js(bar) == rgb(study.networks[3].style.dark)
    dark.page.locator("#theme").click()
    assert dark.js(bar) == rgb(study.networks[3].style.light)
    assert dark.js(theme) == "light"
    assert dark.js(line) == study.networks[3].style.light
    assert dark.js(page_colour) != before
    dark.page.locator("#theme").click()
    dark.js("dispatchEvent(new Event('beforeprint'))")
    assert dark.js(theme) == "light"
    assert dark.js("document.querySelectorAll('details.claim:not([open])').length") == 0
    assert dark.js("document.getElementById('headline').scrollWidth") <= 700
    assert all(abs(plot["width"] - plot["room"]) < 2 and plot["room"] <= 700 for plot in dark.js(DRAWN))
    dark.js("dispatchEvent(new Event('afterprint'))")
    assert dark.js(theme) == "dark"
    assert dark.js("document.querySelectorAll('details[open]').length") == 0
    assert dark.said == []


def test_one_legend_hides_a_network_in_every_plot(laptop: Visit) -> None:
    chip = laptop.page.locator(".chip", has_text="TRADES 0.1")
    everyone = laptop.js(SHOWN)
    assert "TRADES 0.1" in everyone
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert set(laptop.js(SHOWN)) == set(everyone) - {"TRADES 0.1"}
    assert all(plot["drawn"] == plot["wanted"] for plot in laptop.js(DRAWN))
    select = laptop.page.locator("[data-figure=margins] select")
    select.select_option("2")
    assert "TRADES 0.1" not in laptop.js(SHOWN)
    laptop.page.locator("#show-all").click()
    assert set(laptop.js(SHOWN)) == set(everyone)
    chip.dblclick()
    assert laptop.js(SHOWN) == ["TRADES 0.1"]
    laptop.page.locator("#show-all").click()
    select.select_option("0")
    assert laptop.said == []


def test_a_phone_never_scrolls_sideways_and_keeps_the_first_column(phone: Visit) -> None:
    assert phone.js("document.documentElement.scrollWidth") <= 390
    assert all(plot["room"] <= 390 for plot in phone.js(DRAWN))
    spill = "[...document.querySelectorAll('.block')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert phone.js(spill) == 0
    assert phone.js("document.querySelector('.plot')._fullLayout.dragmode") is False
    phone.js("document.querySelector('.scroll').scrollLeft = 300")
    assert phone.js("document.querySelector('#headline tbody th').getBoundingClientRect().left") < 40
    assert phone.said == []


def test_hostile_texts_are_shown_as_they_are_and_nothing_runs(troubled: Visit) -> None:
    assert f"{NASTY} 0.1" in troubled.order()
    assert troubled.page.locator(".legend").get_by_text(f"{NASTY} 0.1").is_visible()
    assert troubled.page.locator(".claim h4").first.inner_text() == NASTY
    assert NASTY_IMAGE in troubled.page.locator(".notices").inner_text()
    shown = troubled.page.locator(".notices .flag").inner_text()
    assert all(
        words in shown for words in (NASTY, f"seen {NASTY}", f"Nothing good {NASTY}.", f"Look {NASTY_IMAGE}.")
    )
    assert NASTY in troubled.js(BLOCK, "AT 0.05")["flags"]
    assert troubled.js(BLOCK, "AT 0.05")["notes"] == [NASTY_IMAGE]
    assert NASTY in troubled.page.locator("[data-figure=spectrum-spread] select").inner_text()
    troubled.js(
        """() => {
            const plot = document.querySelector('.plot');
            const isLine = trace => trace.name.includes('alpha') && trace.meta.role === 'line';
            Plotly.Fx.hover(plot, [{curveNumber: plot.data.findIndex(isLine), pointNumber: 1}]);
        }"""
    )
    assert f"{MARKUP} 0.1" in troubled.js("document.querySelector('.plot .hoverlayer').textContent")
    assert troubled.js("window.attacked") is None
    assert troubled.js("document.querySelectorAll('img:not(.gallery img), .plot a').length") == 0
    assert all(plot["drawn"] == plot["wanted"] for plot in troubled.js(DRAWN))
    assert troubled.said == []
    assert len(troubled.asked) == 1


def test_a_script_that_is_not_ours_would_not_run(troubled: Visit) -> None:
    troubled.js(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.attacked = true';
            document.body.append(script);
        }"""
    )
    assert troubled.js("window.attacked") is None
    assert "Content Security Policy" in troubled.said.pop()


def test_rows_without_numbers_sort_to_the_end(troubled: Visit) -> None:
    button = troubled.page.locator("th[data-key=clean] button")
    for _ in range(2):
        button.click()
        assert set(troubled.order()[-3:]) == {"Failed 0.1", "New 0.1", "Damaged 0.1"}
    assert "loss became NaN" in troubled.page.locator("#headline").inner_text()


# -- the first screen ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_screen_says_what_robustness_did_and_counts_the_verdicts(
    browser: Any, study_folder: Path
) -> None:
    for visit in _visited(browser, study_folder, viewport={"width": 1400, "height": 900}):
        effects = visit.js(
            """() => [...document.querySelectorAll('.effect')].map(one => ({
                says: one.querySelector('.says').innerText, marks: one.querySelectorAll('.mark').length,
                bottom: one.getBoundingClientRect().bottom}))"""
        )
        assert len(effects) == 6
        assert max(effect["bottom"] for effect in effects) < 900
        assert effects[0]["says"].startswith("Accuracy falls from ")
        assert [effect["marks"] for effect in effects] == [12, 6, 6, 6, 6, 6]
        assert visit.js("document.querySelector('.tally').getBoundingClientRect().bottom") < 900
        outside = """[...document.querySelectorAll('.multiple text, .multiple .mark')].filter(one => {
            const box = one.getBoundingClientRect(), frame = one.closest('.effect').getBoundingClientRect();
            return box.left < frame.left || box.right > frame.right || box.bottom > frame.bottom; }).length"""
        assert visit.js(outside) == 0


@pytest.mark.slow
def test_a_claim_is_a_row_that_opens_by_click_and_by_link(laptop: Visit) -> None:
    claim = laptop.page.locator("#claim-accuracy-falls")
    assert claim.evaluate("one => one.getBoundingClientRect().height") < 60
    assert not claim.locator(".evidence").is_visible()
    claim.locator("summary").click()
    assert "The interval of the fall excludes 0" in claim.locator(".evidence").inner_text()
    claim.locator("summary").click()
    laptop.js("location.hash = '#claim-awp-flatter'")
    laptop.page.wait_for_selector("#claim-awp-flatter[open]")
    laptop.js("document.getElementById('claim-awp-flatter').open = false")


@pytest.mark.slow
def test_a_phone_has_a_contents_menu_and_one_column(phone: Visit) -> None:
    nav = phone.page.locator("#contents")
    assert not nav.is_visible()
    phone.page.locator("#menu").click()
    assert phone.page.locator("#menu").get_attribute("aria-expanded") == "true"
    nav.get_by_text("Margins").click()
    assert not nav.is_visible()
    columns = """selector => new Set([...document.querySelectorAll(selector)].filter(
        one => one.offsetParent).map(one => Math.round(one.getBoundingClientRect().left))).size"""
    fold = phone.page.locator("#figure-margins .fold")
    fold.click()
    assert [phone.js(columns, selector) for selector in (".effect", ".panel", ".block")] == [1, 1, 1]
    fold.click()


@pytest.mark.slow
def test_no_table_is_cut_off(laptop: Visit) -> None:
    laptop.js("document.querySelectorAll('details').forEach(one => (one.open = true))")
    cut = """[...document.querySelectorAll('table')].filter(one => one.offsetParent && one.scrollWidth >
        one.parentElement.clientWidth + 1 && !['auto', 'scroll'].includes(getComputedStyle(one.parentElement).overflowX)
    ).length"""
    assert laptop.js(cut) == 0
    laptop.js("document.querySelectorAll('details').forEach(one => (one.open = false))")


def test_a_phone_shows_figures_by_their_titles_until_they_are_opened(phone: Visit) -> None:
    card = phone.page.locator("#figure-spectrum")
    fold = card.locator(".fold")
    assert fold.get_attribute("aria-expanded") == "false"
    assert not card.locator(".plot").first.is_visible()
    fold.click()
    assert fold.get_attribute("aria-expanded") == "true"
    phone.page.wait_for_function(
        "document.querySelector('#figure-spectrum .main-svg').getBoundingClientRect().width > 250"
    )
    fold.click()
    assert not card.locator(".plot").first.is_visible()
    phone.js("location.hash = '#figure-margins'")
    phone.page.locator("#figure-margins .plot").first.wait_for(state="visible")
    assert phone.said == []


def test_a_wide_page_folds_nothing(laptop: Visit) -> None:
    assert laptop.js("document.querySelectorAll('.fold').length") == 0
