"""Effects of robustness on the networks, in six sentences: the first screen of the report.

Every word of a sentence follows from the data: which networks are compared, which way a number went, and
whether its change is clear of its interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from robustlens.report import quantities
from robustlens.report.contrasts import Contrast, over_perturbation, over_strength
from robustlens.report.data import Network, ReportData
from robustlens.report.text.topics import NamedQuantity, Topic, topics
from robustlens.report.text.wording import names, sentence
from robustlens.stats.intervals import Interval, difference

STAYS, UNCLEAR = "stays", "shows no clear change"
KnownPair = tuple[Network, Network, Interval, Interval]
"""Networks before and after, and the quantity of each."""


@dataclass(frozen=True)
class EffectReport:
    """One topic, as it is in this study.

    Attributes:
        values: (network, interval of each drawn quantity), of networks that have one.
        sentence: its change, or its range where no two networks can be compared.
        aside: the same without and with a weight perturbation; empty where there is no such pair.
        emphasised: labels of the networks whose values the drawing writes out.
    """

    topic: Topic
    values: tuple[tuple[Network, tuple[Interval | None, ...]], ...]
    sentence: str
    aside: str
    emphasised: frozenset[str]


@dataclass(frozen=True)
class EffectsReport:
    """The strip under the title: `basis` says which networks its sentences compare."""

    title: str
    basis: str
    effects: tuple[EffectReport, ...]
    missing: tuple[str, ...]


def effects(data: ReportData) -> EffectsReport:
    """The effects that this study shows; of a study of many networks, those of its groups."""
    contrast, perturbed = over_strength(data), over_perturbation(data)
    main, aside = (contrast, perturbed) if contrast else (perturbed, None)
    shown, missing = [], []
    for topic in topics(data):
        effect = _effect(data, topic, main, aside)
        if effect:
            shown.append(effect)
        else:
            missing.append(topic.title)
    what = main.what if main and main.what else "robustness"
    title = f"What {what} did to these networks" if main else "What was measured"
    return EffectsReport(title, _basis(data, main), tuple(shown), tuple(missing))


def _effect(
    data: ReportData, topic: Topic, main: Contrast | None, aside: Contrast | None
) -> EffectReport | None:
    known = {
        named.subject: {
            network.label: value for network in data.networks if (value := named.of(network)) is not None
        }
        for named in topic.quantities
    }
    if not any(known.values()):
        return None
    clauses = [
        clause for named in topic.quantities if (clause := _clause(data, named, known[named.subject], main))
    ]
    drawn = topic.quantities[: topic.drawn]
    pairs = _pairs(known[drawn[-1].subject], aside)
    values = [
        (network, tuple(known[named.subject].get(network.label) for named in drawn))
        for network in data.networks
    ]
    return EffectReport(
        topic,
        tuple((network, intervals) for network, intervals in values if any(intervals)),
        sentence(names(clauses)),
        _aside(drawn, aside, pairs),
        _emphasised(known[drawn[0].subject], main),
    )


def _aside(drawn: Sequence[NamedQuantity], aside: Contrast | None, pairs: Sequence[KnownPair]) -> str:
    """The change of the last drawn quantity with a weight perturbation; named where several are drawn."""
    if aside is None or not pairs:
        return ""
    on = f" on {pairs[0][0].label}" if len(pairs) == 1 else ""
    subject = f"{drawn[-1].subject} " if len(drawn) > 1 else ""
    return f"{aside.what}{on}: {subject}{_change(drawn[-1], pairs)}."


def _clause(data: ReportData, named: NamedQuantity, known: dict[str, Interval], main: Contrast | None) -> str:
    """The change of a quantity over the contrast, or its range where that has no pair that is known."""
    if not known:
        return ""
    if pairs := _pairs(known, main):
        return f"{named.subject} {_change(named, pairs)}"
    low, high = (
        min(known, key=lambda label: known[label].value),
        max(known, key=lambda label: known[label].value),
    )
    least, most = named.write(known[low].value), named.write(known[high].value)
    if len(known) == 1:
        return f"{named.subject} is {least}" + (f" ({low} alone)" if len(data.networks) > 1 else "")
    if least == most:
        return f"{named.subject} is {least} in all {len(known)} networks"
    return f"{named.subject} lies between {least} ({low}) and {most} ({high})"


def _pairs(known: dict[str, Interval], contrast: Contrast | None) -> list[KnownPair]:
    """The pairs of a contrast of which both ends are known."""
    return [
        (before, after, known[before.label], known[after.label])
        for before, after in (contrast.pairs if contrast else ())
        if before.label in known and after.label in known
    ]


def _change(named: NamedQuantity, pairs: Sequence[KnownPair]) -> str:
    """The way a quantity went: from value to value, or in how many of several pairs."""
    ways = [_way(named, one, other) for _, _, one, other in pairs]
    before, after, one, other = pairs[0]
    ends = named.write(one.value), named.write(other.value)
    if len(pairs) > 1:
        counted = names(f"{way} in {ways.count(way)}" for way in dict.fromkeys(ways))
        return f"{counted} of {len(pairs)} pairs ({before.label}: {ends[0]} to {ends[1]})"
    if ways[0] == STAYS:
        return f"{STAYS} at {ends[0]}"
    if ways[0] == UNCLEAR:
        return f"{UNCLEAR} ({ends[0]} and {ends[1]})"
    in_layers = _in_layers(named, before, after, ways[0]) if named.layers else ""
    return f"{ways[0]} from {ends[0]} to {ends[1]}{in_layers}"


def _way(named: NamedQuantity, before: Interval, after: Interval) -> str:
    """Direction of a change in words; unclear where the interval of the difference holds zero."""
    if named.write(before.value) == named.write(after.value):
        return STAYS
    change = difference(after, before)
    if change.low is not None and change.high is not None and change.low <= 0 <= change.high:
        return UNCLEAR
    return "rises" if change.value > 0 else "falls"


def _in_layers(named: NamedQuantity, before: Network, after: Network, way: str) -> str:
    """Number of the layers, known of both networks, that went the same way as their mean."""
    one, other = (_layer_means(network, named.layers) for network in (before, after))
    shared = [layer for layer in one if layer in other]
    same = sum(
        (other[layer] > one[layer]) if way == "rises" else (other[layer] < one[layer]) for layer in shared
    )
    return f" ({same} of {len(shared)} layers)" if len(shared) > 1 else ""


def _layer_means(network: Network, measure: str) -> dict[str, float]:
    seeds = [spreads for run in network.runs if (spreads := quantities.layer_spreads(run, measure))]
    shared = [layer for layer in seeds[0] if all(layer in spreads for spreads in seeds)] if seeds else []
    return {layer: sum(spreads[layer] for spreads in seeds) / len(seeds) for layer in shared}


def _emphasised(known: dict[str, Interval], main: Contrast | None) -> frozenset[str]:
    if pairs := _pairs(known, main):
        return frozenset(network.label for network in pairs[0][:2])
    if not known:
        return frozenset()
    ordered = sorted(known, key=lambda label: known[label].value)
    return frozenset((ordered[0], ordered[-1]))


def _basis(data: ReportData, main: Contrast | None) -> str:
    """The networks that the sentences compare, and the seeds that they rest on."""
    if main is None:
        if len(data.networks) == 1:
            return f"One network, {_seeds(data.networks)}; there is nothing to compare it with."
        return "No two networks differ in strength or in weight perturbation alone, so these are ranges."
    before, after = main.pairs[0]
    if main.what and len(main.pairs) > 1:
        ends = [network for pair in main.pairs for network in pair]
        return f"{len(main.pairs)} pairs of networks that differ in {main.what} alone, {_seeds(ends)}."
    alone = f", which differ in {main.what} alone" if main.what else ""
    start = " (no standard network has results)" if not main.what and before.eps > 0 else ""
    return f"From {before.label} to {after.label}{start}{alone}, {_seeds((before, after))}."


def _seeds(networks: Sequence[Network]) -> str:
    """Number of seeds behind these networks, or of networks behind these groups."""
    counts = sorted({count for network in networks for count in _with_results(network) if count})
    if any(network.members for network in networks):
        members = sorted({len(network.members) for network in networks})
        return f"means of {names(map(str, members))} networks"
    if counts == [1]:
        each = " each" if len(networks) > 1 else ""
        these = "these networks" if len(networks) > 1 else "this network"
        return f"one seed{each}: this speaks of {these}, and another seed may differ"
    return f"means of {names(map(str, counts))} seeds"


def _with_results(network: Network) -> tuple[int, int]:
    """Number of the runs that were evaluated, and of those that were explained."""
    evaluated = sum(run.evaluation is not None for run in network.runs)
    return evaluated, sum(run.explanation is not None for run in network.runs)
