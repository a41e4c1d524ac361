"""Numbers on the page, against counts that a made study was given.

Every expected number is worked out here: shares by division, intervals over images by SciPy's Wilson, over seeds
by SciPy's Student. Nothing of `robustlens.stats` or of the report is used for it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from helpers.attacked_runs import curve_of
from robustlens.config import BEST
from robustlens.report.page.rendering import page
from robustlens.report.reading import read_study
from robustlens.report.text.headline import headline
from robustlens.results import (
    ClaimResult,
    ClaimValue,
    Effect,
    EpochRecord,
    EvaluationResult,
    Flag,
    Provenance,
    RunEntry,
    SplitResult,
    Statistic,
    StudyFolder,
    StudyRecord,
    ThreatRecord,
)
from robustlens.stats.intervals import Interval

N = {"test": 40, "train": 50}
ATTACKS = ("fgsm", "apgd-ce", "square", "min-norm")
SOFTMAX = Flag("softmax", "rows sum to one", "all rows sum to one", "gradients vanish", "return the logits")
Ends = tuple[float, float, float]
"""A value and the ends of its interval."""


@dataclass(frozen=True)
class Made:
    """One run. `test`, `train`: images right without attack and after each attack; `gaps`, `epochs` as given."""

    label: str
    eps: float
    seed: int
    test: tuple[int, ...]
    train: tuple[int, ...]
    gaps: Mapping[str, Ends]
    epochs: tuple[float, ...]
    seconds: tuple[float, ...] = (0.25, 30.0, 60.0, 4.0)
    flags: Mapping[str, tuple[Flag, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.label}-s{self.seed}".lower().replace(" ", "-")


def gaps_of(robust: Ends, error: Ends, loss: Ends) -> dict[str, Ends]:
    return {"robust": robust, "error": error, "loss": loss}


RUNS = (
    Made(
        "Standard", 0.0, 0, (38, 10, 2, 2, 1), (49, 11, 3, 3, 2),
        gaps_of((-0.0204, -0.12, 0.08), (0.0505, 0.01, 0.09), (0.1234, 0.05, 0.2)), (1.0, 2.0, 4.5),
    ),
    Made(
        "AT", 0.1, 0, (32, 20, 16, 16, 15), (48, 40, 36, 35, 35),
        gaps_of((0.10, 0.02, 0.18), (0.20, 0.1, 0.3), (0.5, 0.4, 0.6)), (10.0, 12.0),
        seconds=(0.25, 30.0, 90.0, 4.0),
    ),
    Made(
        "AT", 0.1, 1, (30, 22, 18, 17, 17), (48, 40, 36, 36, 36),
        gaps_of((0.13, 0.05, 0.21), (0.22, 0.1, 0.3), (0.6, 0.5, 0.7)), (14.0, 16.0),
        seconds=(0.5, 60.0, 30.0, 5.0), flags={"test": (SOFTMAX,)},
    ),
    Made(
        "AT", 0.1, 2, (31, 21, 17, 15, 13), (47, 40, 36, 34, 33),
        gaps_of((0.16, 0.08, 0.24), (0.24, 0.1, 0.4), (0.7, 0.6, 0.8)), (18.0, 20.0),
        seconds=(0.75, 90.0, 60.0, 6.0),
    ),
    Made(
        "TRADES", 0.1, 0, (28, 24, 20, 20, 20), (45, 41, 38, 37, 37),
        gaps_of((0.24, 0.1, 0.3), (0.2, 0.1, 0.3), (0.25, 0.2, 0.3)), (30.0,),
        flags={"test": (SOFTMAX,), "train": (SOFTMAX,)},
    ),
    Made(
        "TRADES", 0.1, 1, (32, 26, 22, 21, 21), (45, 41, 38, 38, 38),
        gaps_of((0.20, 0.05, 0.35), (0.1, -0.1, 0.3), (0.35, 0.3, 0.4)), (50.0,),
    ),
)  # fmt: skip
NETWORKS = {label: [run for run in RUNS if run.label == label] for label in ("Standard", "AT", "TRADES")}


# -- the study -----------------------------------------------------------------------------------------


def by_wilson(right: int, n: int) -> Ends:
    ends = stats.binomtest(right, n).proportion_ci(method="wilson")
    return right / n, float(ends.low), float(ends.high)


def split_result(run: Made, split: str) -> SplitResult:
    right, n = run.test if split == "test" else run.train, N[split]
    after = dict(zip(ATTACKS, right[1:], strict=True))
    return SplitResult(
        n=n,
        clean=Interval(*by_wilson(right[0], n)),
        robust=Interval(*by_wilson(right[-1], n)),
        loss=Interval(0.5),
        by_attack={name: Interval(*by_wilson(count, n)) for name, count in after.items()},
        seconds=dict(zip(ATTACKS, run.seconds, strict=True)),
        curve=curve_of((0.0, 0.1), [right[0], right[-1]], n),
        flags=run.flags.get(split, ()),
    )


def claim(name: str, verdict: str, seeds: int, **more: object) -> ClaimResult:
    fields = {"id": name, "paper": "Wen et al. 2020", "statement": name, "quantity": "", "verdict": verdict}
    return ClaimResult(**fields, seeds=seeds, **more)  # type: ignore[arg-type]


CLAIMS = (
    claim(
        "first", "supported", 3,
        effect=Effect("strongest minus standard", -12.54, -18.26, -6.82, "points"),
        statistic=Statistic("Spearman over strengths", -0.875),
        values=(
            ClaimValue("Standard", 0.0, 0, 0.9),
            *(ClaimValue("AT", 0.1, seed, value) for seed, value in enumerate((0.7, 0.5, 0.6))),
        ),
    ),
    claim("second", "supported", 3),
    claim("third", "not supported", 4),
    claim("fourth", "inconclusive", 3),
    *(claim(f"described {number}", "as claimed", 1) for number in range(5)),
    claim("opposite", "opposite", 2),
    *(claim(f"not tested {number}", "untested", 0) for number in range(6)),
)  # fmt: skip


def write_made_study(folder: Path) -> Path:
    """The study of `RUNS`, evaluated and with its claims."""
    study = StudyFolder(folder)
    entries = [
        RunEntry(run.name, f"runs/{run.name}", run.label, method=run.label, eps=run.eps, seed=run.seed)
        for run in RUNS
    ]
    data, model = {"name": "shapes"}, {"name": "tiny"}
    study.write_record(StudyRecord(name="made", data=data, model=model, runs=tuple(entries)))
    for run, source in zip(RUNS, study.runs(), strict=True):
        result = EvaluationResult(
            provenance=Provenance(None, "", "", BEST, {}),
            threat=ThreatRecord("Linf", 0.1),
            attacks=ATTACKS,
            suites={"standard": ("apgd-ce", "square")},
            splits={split: split_result(run, split) for split in N},
            gaps={name: Interval(*ends) for name, ends in run.gaps.items()},
        )
        source.write("evaluation", result)
        for number, seconds in enumerate(run.epochs, 1):
            # On a busy machine an epoch takes three times as long as its work.
            source.append_metrics(EpochRecord(number, seconds=3 * seconds, cpu_seconds=seconds))
        source.update(status="done", epochs_done=len(run.epochs))
    study.write_claims(CLAIMS)
    return folder


# -- the page ------------------------------------------------------------------------------------------


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: Mapping[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything in it, with single spaces."""
        parts = (part if isinstance(part, str) else part.text for part in self.children)
        return " ".join(" ".join(parts).split())

    def find(self, tag: str, **attributes: str) -> "Iterator[Element]":
        """Elements inside it of a tag, with these attributes (`class_` among its classes)."""
        for child in self.children:
            if isinstance(child, Element):
                own = {"class_": child.attributes.get("class", "").split(), **child.attributes}
                if child.tag == tag and all(value in own.get(name, ()) for name, value in attributes.items()):
                    yield child
                yield from child.find(tag, **attributes)


class Reader(HTMLParser):
    """Builds the tree of a page; elements without an end stay empty."""

    EMPTY = frozenset({"meta", "link", "br", "img", "path", "line", "circle", "rect", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in self.EMPTY:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Element:
    """The page of the made study, without its figures."""
    data = read_study(write_made_study(tmp_path_factory.mktemp("made")))
    reader = Reader()
    reader.feed(page(data, [], headline(data)))
    return reader.open[0]


def only(elements: Iterator[Element]) -> Element:
    (element,) = elements
    return element


# -- what is expected ----------------------------------------------------------------------------------


def over_runs(every: Sequence[Ends]) -> Ends:
    """The mean over seeds: of one its own ends, of two the outermost, of three Student's or the mean ends."""
    values, lows, highs = np.array(every).T
    mean = float(values.mean())
    if len(every) == 1:
        return every[0]
    if len(every) == 2:
        return mean, float(lows.min()), float(highs.max())
    low, high = stats.t.interval(0.95, len(every) - 1, loc=mean, scale=stats.sem(values))
    return mean, min(low, float(lows.mean())), max(high, float(highs.mean()))


def in_percent(share: float) -> str:
    text = f"{100 * share:.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def in_nats(value: float) -> str:
    return f"{value:.3f}"


def written(ends: Ends, text: Callable[[float], str] = in_percent) -> tuple[str, str]:
    value, low, high = (text(end) for end in ends)
    return value, f"{low} to {high}"


@pytest.mark.parametrize("label", NETWORKS)
def test_the_headline_table(shown: Element, label: str) -> None:
    runs = NETWORKS[label]
    table = only(shown.find("table", id="headline"))
    row = next(row for row in table.find("tr") if any(cell.text == label for cell in row.find("th")))
    cells = {cell.attributes["data-column"]: cell for cell in row.find("td")}

    def printed(column: str) -> tuple[str, str]:
        value, interval = (only(cells[column].find("span", class_=part)) for part in ("value", "interval"))
        return value.text, interval.text

    for column, place in {"clean": 0, "attack:fgsm": 1, "attack:standard": 3, "attack:min-norm": 4}.items():
        ends = over_runs([by_wilson(run.test[place], N["test"]) for run in runs])
        assert printed(column) == written(ends), column
        assert float(cells[column].attributes["data-value"]) == pytest.approx(ends[0])
    for gap, text in {"robust": in_percent, "error": in_percent, "loss": in_nats}.items():
        ends = over_runs([run.gaps[gap] for run in runs])
        assert printed(f"gap:{gap}") == written(ends, text), gap
    assert cells["seeds"].text == ", ".join(str(run.seed) for run in runs)
    assert cells["eps"].text == f"{runs[0].eps:g}"
    seconds = {
        "Standard": ("2.50", "1.00 to 4.50"),
        "AT": ("15.0", "10.0 to 20.0"),
        "TRADES": ("40.0", "30.0 to 50.0"),
    }
    assert printed("cpu_seconds") == seconds[label]


def test_the_headline_by_hand(shown: Element) -> None:
    """Numbers that need no formula, so that the ones above are seen to be those of the page."""
    table = only(shown.find("table", id="headline"))
    units = [unit.text for unit in table.find("span", class_="unit")]
    assert [unit for unit in units if unit] == ["%"] * 4 + ["points", "points", "nats", "CPU s/epoch"]
    text = " ".join(cell.text for cell in table.find("td"))
    assert "95.0" in text  # 38 of 40
    assert "77.5" in text  # 93 of 120
    assert "\N{MINUS SIGN}2.0 \N{MINUS SIGN}12.0 to 8.0" in text  # the robust gap of Standard
    assert "22.0 5.0 to 35.0" in text  # that of TRADES: the mean of 24 and 20, and the outermost ends


EXPECTED_LINES = {
    # network: of each line the images given, broken and still right (sums over seeds), and the time
    "Standard": [
        ("Clean", 40, 2, 38, ""),
        ("FGSM", 38, 28, 10, "0.25 s"),
        ("Standard suite", 10, 8, 2, "1.5 min"),
        ("APGD-CE", 10, 8, 2, "30.0 s"),
        ("Square", 2, 0, 2, "60.0 s"),
        ("Min-norm", 38, 1, 1, "4.0 s"),
    ],
    "AT": [
        ("Clean", 120, 27, 93, ""),
        ("FGSM", 93, 30, 63, "0.50 s"),
        ("Standard suite", 63, 15, 48, "2.0 min"),
        ("APGD-CE", 63, 12, 51, "60.0 s"),
        ("Square", 51, 3, 48, "60.0 s"),
        ("Min-norm", 93, 3, 45, "5.0 s"),
    ],
    "TRADES": [
        ("Clean", 80, 20, 60, ""),
        ("FGSM", 60, 10, 50, "0.25 s"),
        ("Standard suite", 50, 9, 41, "1.5 min"),
        ("APGD-CE", 50, 8, 42, "30.0 s"),
        ("Square", 42, 1, 41, "60.0 s"),
        ("Min-norm", 60, 0, 41, "4.0 s"),
    ],
}


@pytest.mark.parametrize("label", NETWORKS)
def test_the_table_of_attacks(shown: Element, label: str) -> None:
    test_images, _ = (block for block in shown.find("div", class_="attacked"))
    tables = {only(table.find("caption")).text: table for table in test_images.find("table")}
    seeds, n = len(NETWORKS[label]), N["test"]
    body = only(tables[label].find("tbody"))
    lines = list(body.find("tr"))
    assert len(lines) == len(EXPECTED_LINES[label])
    for line, (title, given, broken, right, time) in zip(lines, EXPECTED_LINES[label], strict=True):
        assert only(line.find("th")).text == title
        images, fell = (
            float(cell.text.replace(",", "")) for cell in list(line.find("td", class_="number"))[:2]
        )
        assert images == pytest.approx(given / seeds, abs=0.051), title
        assert fell == pytest.approx(broken / seeds, abs=0.051), title
        assert only(line.find("b")).text == in_percent(right / seeds / n), title
        assert list(line.find("td", class_="number"))[2].text == time, title
        before, after = (style_of(bar) for bar in only(line.find("td", class_="track")).find("i"))
        assert after == pytest.approx(100 * right / seeds / n, abs=0.01)
        assert before == pytest.approx(
            100 if title == "Clean" else 100 * bar_before(label, title) / seeds / n, abs=0.01
        )
    intervals = {
        only(line.find("th")).text: only(line.find("span", class_="interval")).text for line in lines
    }
    for title, place in {"Clean": 0, "FGSM": 1, "Standard suite": 3, "Square": 3, "Min-norm": 4}.items():
        ends = over_runs([by_wilson(run.test[place], n) for run in NETWORKS[label]])
        assert intervals[title] == written(ends)[1], title


def style_of(bar: Element) -> float:
    return float(re.findall(r"width:([\d.]+)%", bar.attributes["style"])[0])


def bar_before(label: str, title: str) -> int:
    """Images that were right before an attack: those that all before it left."""
    places = {"FGSM": 0, "Standard suite": 1, "APGD-CE": 1, "Square": 2, "Min-norm": 3}
    return sum(run.test[places[title]] for run in NETWORKS[label])


def test_training_images_have_a_table_of_their_own(shown: Element) -> None:
    _, train = (block for block in shown.find("div", class_="attacked"))
    tables = {only(table.find("caption")).text: table for table in train.find("table")}
    shares = [only(line.find("b")).text for line in only(tables["AT"].find("tbody")).find("tr")]
    # Of 150: 143, 120, then the suite and its attacks 105, 108, 105, and 104.
    assert shares == ["95.3", "80.0", "70.0", "72.0", "70.0", "69.3"]


def test_flags_are_counted_once_for_everyone_that_raised_them(shown: Element) -> None:
    flags = list(shown.find("div", class_="flag"))
    assert len(flags) == 1
    raised = [item.text.replace(" :", ":") for item in flags[0].find("li")]
    assert raised == [
        "AT, seed 1: rows sum to one (test images)",
        "TRADES, seed 0: rows sum to one (test and training images)",
    ]
    blocks = {
        (images, only(block.find("caption")).text): only(block.find("p", class_="flags"))
        for images, part in zip(N, shown.find("div", class_="attacked"), strict=True)
        for block in part.find("article")
    }
    linked = {place for place, flagged in blocks.items() if list(flagged.find("a"))}
    assert linked == {("test", "AT"), ("test", "TRADES"), ("train", "TRADES")}
    clear = {place for place, flagged in blocks.items() if "No reliability flag" in flagged.text}
    assert clear == set(blocks) - linked
    assert len(blocks) == 6


def test_the_sentences_under_the_title(shown: Element) -> None:
    lead = only(shown.find("p", class_="lead")).text
    assert lead.startswith(
        "3 networks (Standard, AT and TRADES), trained on shapes with the architecture tiny, 1 to 3"
    )
    assert "40 test and 50 training images within Linf eps = 0.1" in lead
    accuracy, robust = "Accuracy falls from 95.0 % to 77.5 %", "robust accuracy rises from 2.5 % to 37.5 %"
    (effect,) = shown.find("article", class_="effect")  # 38 and 1 of 40; 93 and 45 of 120
    assert only(effect.find("p", class_="says")).text == f"{accuracy} and {robust}."
    assert only(shown.find("p", class_="basis")).text == "From Standard to AT, means of 1 and 3 seeds."


def test_verdicts_are_counted_by_what_they_are(shown: Element) -> None:
    lead = next(only(shown.find("section", id="claims")).find("p", class_="look-for")).text
    counts = {"supported": 2, "not supported": 1, "inconclusive": 1, "as claimed": 5, "opposite": 1}
    for verdict, count in {**counts, "untested": 6}.items():
        assert len(re.findall(rf"\b{count}(?: is| are)? {verdict}\b", lead)) == 1, verdict
    assert re.findall(r"(\w+) claims? of the papers", lead) == [str(sum(counts.values()))]
    tally = only(shown.find("p", class_="tally"))
    assert only(tally.find("a", href="#claims")).text == "16 claims of 1 paper:"
    assert [span.text for span in tally.find("span")] == [
        "2 supported", "1 not supported", "1 inconclusive", "5 described: as claimed", "1 described: opposite",
        "6 untested",
    ]  # fmt: skip
    badges = [" ".join(badge.text.lower().split()) for badge in shown.find("span", class_="verdict")]
    assert badges == [
        *["supported"] * 2, "not supported", "inconclusive", *["described: as claimed"] * 5, "described: opposite",
    ]  # fmt: skip


def test_the_numbers_of_a_claim(shown: Element) -> None:
    block = only(shown.find("details", id="claim-first"))
    names = [name.text for name in block.find("dt")]
    facts = dict(zip(names, (fact.text for fact in block.find("dd")), strict=True))
    minus = "\N{MINUS SIGN}"
    effect = f"{minus}12.5 points [{minus}18.3, {minus}6.82]"
    assert facts["Strongest minus standard"].startswith(effect)
    assert only(only(block.find("summary")).find("span", class_="size")).text == effect
    assert facts["Spearman over strengths"].startswith(f"{minus}0.875")
    rows = list(only(block.find("table", class_="dots")).find("tr"))
    assert [(only(row.find("th")).text, only(row.find("td", class_="amount")).text) for row in rows] == [
        ("Standard", "0.9"),
        ("AT", "0.6"),
    ]
    # Between the least (0.5) and the greatest (0.9) of all.
    dots = [re.findall(r"left:([\d.]+)%", str([i.attributes for i in row.find("i")])) for row in rows]
    assert dots == [["100.00"], ["50.00", "0.00", "25.00"]]
