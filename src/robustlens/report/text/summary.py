"""What the page says in words, from the data alone: the summary and the claims."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from robustlens.config import eps_text
from robustlens.report.data import ReportData, dig
from robustlens.report.text.attacks import SEARCH
from robustlens.report.text.wording import attack_name, names, number, points, sentence
from robustlens.stats.intervals import Interval


def summary(study: ReportData) -> list[str]:
    """The paragraph under the title, written from the data."""
    sentences = [_who(study), _how(study), *_range_of_results(study), _verdicts(study)]
    short = sum(not record.evaluation for record in study.records)
    if short:
        total = len(study.records)
        sentences.append(
            f"{short} of {total} runs {'has' if short == 1 else 'have'} no evaluation yet; see the notes."
        )
    return [sentence for sentence in sentences if sentence]


def verdict(claim: Mapping[str, Any]) -> str:
    """One of the three verdicts; anything else counts as inconclusive."""
    found = str(claim.get("verdict"))
    return found if found in ("supported", "not supported", "inconclusive") else "inconclusive"


@dataclass(frozen=True)
class Dots:
    """One network's values of a claim's quantity, placed between the least and the greatest (%)."""

    label: str
    look: int | None
    text: str
    places: tuple[float, ...]


@dataclass(frozen=True)
class Fact:
    """A number of a claim. `bar` places its interval on a bar with zero in the middle (%)."""

    name: str
    text: str
    bar: Mapping[str, float]


def claims_by_paper(study: ReportData) -> list[tuple[str, list[dict[str, Any]]]]:
    """Claims grouped by paper, with texts for their effect, statistic and values."""
    papers: dict[str, list[dict[str, Any]]] = {}
    for claim in study.claims:
        shown = {
            "id": str(claim.get("id", "")),
            "setting": str(claim.get("setting") or ""),
            "statement": str(claim.get("statement", "")),
            "quantity": str(claim.get("quantity", "")),
            "verdict": verdict(claim),
            "why": sentence(str(claim.get("why", ""))),
            "note": str(claim.get("note") or ""),
            "facts": [fact for key in ("effect", "statistic") if (fact := _fact(claim.get(key)))],
            "dots": _dots(claim.get("values") or (), study),
        }
        papers.setdefault(str(claim.get("paper", "")), []).append(shown)
    return list(papers.items())


def _fact(found: Any) -> Fact | None:
    """An effect or a statistic in words, with its interval drawn around zero in the middle."""
    value, low, high, p = (dig(found, key) for key in ("value", "low", "high", "p"))
    if not isinstance(value, int | float):
        return None
    unit = str(dig(found, "unit") or "")
    text = f"{number(value)} {unit}".strip()
    bar: dict[str, float] = {}
    if isinstance(low, int | float) and isinstance(high, int | float):
        text += f" [{number(low)}, {number(high)}]"
        reach = 1.15 * max(abs(low), abs(high), abs(value)) or 1.0
        bar = {"low": 50 + 50 * low / reach, "value": 50 + 50 * value / reach, "high": 50 + 50 * high / reach}
    if isinstance(p, int | float):
        text += f", p = {number(p, 2)}"
    name = str(dig(found, "name") or "")
    return Fact(f"{name[:1].upper()}{name[1:]}", text, bar)


def _dots(values: Iterable[Any], study: ReportData) -> list[Dots]:
    every: dict[str, list[float]] = {}
    for entry in values:
        if isinstance(value := dig(entry, "value"), int | float):
            every.setdefault(str(dig(entry, "label")), []).append(float(value))
    numbers = [value for found in every.values() for value in found]
    if not numbers:
        return []
    low, width = min(numbers), max(numbers) - min(numbers)
    looks = {group.label: place for place, group in enumerate(study.groups)}
    return [
        Dots(
            label,
            looks.get(label),
            number(sum(found) / len(found)),
            tuple(100 * (value - low) / width if width else 50.0 for value in found),
        )
        for label, found in every.items()
    ]


# -- pieces -------------------------------------------------------------------------------------------


def _who(study: ReportData) -> str:
    count = len(study.groups)
    data = dig(study.meta, "data", "name") or _recipe(study, "data", "name")
    model = dig(study.meta, "model", "name") or _recipe(study, "model", "name")
    seeds = sorted({len(group.records) for group in study.groups})
    each = (
        "one seed"
        if seeds == [1]
        else f"{' to '.join(map(str, (seeds[:1] + seeds[-1:]) if len(seeds) > 1 else seeds))} seeds"
    )
    what = "One network" if count == 1 else f"{count} networks"
    listed = (
        names(group.label for group in study.groups)
        if count <= 12
        else names({g.method: 0 for g in study.groups})
    )
    on = f" on {data}" if data else ""
    of = f" with the architecture {model}" if model else ""
    return f"{what} ({listed}), trained{on}{of}, {each}{' each' if count > 1 else ''}."


def _how(study: ReportData) -> str:
    eps, norm = study.first("threat", "eps"), study.first("threat", "norm")
    counts = [study.first("splits", split, "n") for split in ("test", "train")]
    if not study.columns or eps is None:
        return ""
    images = names(f"{n:,} {split}" for n, split in zip(counts, ("test", "training"), strict=True) if n)
    checkpoint = study.first("checkpoint")
    chosen = " (chosen on validation images, never on test images)" if checkpoint == "best" else ""
    of = f", at the {checkpoint} checkpoint{chosen}" if checkpoint else ""
    attacks = names(_attack(name, parts) for name, parts in study.columns.items())
    return f"Attacked on {images} images within {norm} eps = {eps_text(float(eps))} by {attacks}{of}."


def _attack(name: str, parts: Iterable[str]) -> str:
    """An attack, or a suite and what it is made of."""
    if name == SEARCH:
        return "a minimum-norm search"
    listed = names(attack_name(part) for part in parts)
    return f"the {name} suite ({listed})" if listed else attack_name(name)


def _range_of_results(study: ReportData) -> list[str]:
    found = [
        (group, clean, robust)
        for group in study.groups
        if (clean := group.interval("splits", "test", "clean"))
        and (robust := group.interval("splits", "test", "robust"))
    ]
    if not found:
        return []
    if len(found) == 1:
        _, clean, robust = found[0]
        return [f"It is right on {_of(clean)} of the test images, and on {_of(robust)} under every attack."]
    best = max(found, key=lambda row: row[2].value)
    worst = min(found, key=lambda row: row[2].value)
    cleanest = max(found, key=lambda row: row[1].value)
    return [
        f"Under every attack, {best[0].label} keeps {_of(best[2])} of the test images and {worst[0].label} "
        f"{_of(worst[2])}; without attack, {cleanest[0].label} is most accurate with {_of(cleanest[1])}."
    ]


def _of(found: Interval) -> str:
    between = (
        f" ({points(found.low)} to {points(found.high)})"
        if found.low is not None and found.high is not None
        else ""
    )
    return f"{points(found.value)} %{between}"


def _verdicts(study: ReportData) -> str:
    if not study.claims:
        return ""
    count: dict[str, int] = {}
    for claim in study.claims:
        count[verdict(claim)] = count.get(verdict(claim), 0) + 1
    told_ = names(f"{n} {'is' if n == 1 else 'are'} {v}" for v, n in sorted(count.items(), reverse=True))
    return f"Of {len(study.claims)} claims of the papers that were checked, {told_}."


def _recipe(study: ReportData, *path: str) -> str:
    found = dict.fromkeys(str(value) for r in study.records if (value := dig(r.recipe, *path)) is not None)
    return ", ".join(found)
