"""The networks that a report compares first: standard and strongest, and those without and with AWP."""

from collections import Counter
from dataclasses import dataclass

from robustlens.report.data import Network, ReportData

Pair = tuple[Network, Network]
"""The network before and after one thing changed."""


@dataclass(frozen=True)
class Contrast:
    """Pairs of networks that differ in one thing: the strength of training, or a weight perturbation.

    Attributes:
        pairs: before and after.
        what: the perturbation as papers write it; empty where the strength differs.
    """

    pairs: tuple[Pair, ...]
    what: str = ""


def over_strength(data: ReportData) -> Contrast | None:
    """The weakest and the strongest network of one method, all else equal; None without two strengths.

    Networks without a weight perturbation count, of the most common setting and the method with the most
    strengths, which standard training starts. Where a study has no other, perturbed ones do.
    """
    results = [network for network in data.networks if _has_results(network)]
    plain = [network for network in results if not perturbation(network)]
    return _sweep(plain) or _sweep(results)


def over_perturbation(data: ReportData) -> Contrast | None:
    """Networks without and with the first weight perturbation of the study; None without such a pair."""
    results = [network for network in data.networks if _has_results(network)]
    perturbed = [(network, what) for network in results if (what := perturbation(network))]
    pairs = [
        (what, (before, network)) for network, what in perturbed if (before := _unperturbed(network, results))
    ]
    if not pairs:
        return None
    first = pairs[0][0]
    return Contrast(tuple(pair for what, pair in pairs if what == first), first)


def perturbation(network: Network) -> str:
    """Weight perturbation of a network's training, as papers write it; empty for none."""
    run = network.runs[0]
    if run.source.entry:
        return (run.source.entry.perturbation or "").upper()
    return "+".join(name.upper() for name in run.recipe.perturbations) if run.recipe else ""


def _has_results(network: Network) -> bool:
    return any(run.evaluation or run.explanation for run in network.runs)


def _sweep(networks: list[Network]) -> Contrast | None:
    common = Counter(network.runs[0].setting for network in networks).most_common(1)
    alike = [network for network in networks if common and network.runs[0].setting == common[0][0]]
    standard = [network for network in alike if network.eps == 0][:1]
    methods: dict[str, list[Network]] = {}
    for network in alike:
        if network.eps > 0:
            methods.setdefault(network.method, []).append(network)
    sweeps = [[*standard, *sorted(own, key=lambda network: network.eps)] for own in methods.values()]
    swept = max(sweeps, key=lambda own: len({network.eps for network in own}), default=[])
    if not swept or swept[0].eps == swept[-1].eps:
        return None
    return Contrast(((swept[0], swept[-1]),))


def _unperturbed(network: Network, networks: list[Network]) -> Network | None:
    """The network that was trained alike without the perturbation."""
    return next((other for other in networks if not perturbation(other) and _alike(network, other)), None)


def _alike(network: Network, other: Network) -> bool:
    """Whether nothing but the perturbation differs: by hash, or in older files by objective and strength."""
    run, entry, against = network.runs[0], network.runs[0].source.entry, other.runs[0].source.entry
    if entry and against and entry.unperturbed:
        hashes = {one.source.entry.unperturbed for one in other.runs if one.source.entry}
        return entry.unperturbed in hashes
    same = (run.objective, network.eps, run.setting)
    return network.eps > 0 and same == (other.runs[0].objective, other.eps, other.runs[0].setting)
