"""Groups of networks, which stand for them in the plots of a study too large for a line each."""

from collections.abc import Callable
from dataclasses import replace

from robustlens.config import eps_text
from robustlens.report.data import Network, ReportData
from robustlens.report.drawing.palette import styles
from robustlens.report.text.wording import method_name

MOST = 50
"""Networks of which each has a line of its own in every plot."""

Key = tuple[str, float | None]


def grouped(data: ReportData) -> ReportData:
    """The report's data with groups of networks for networks, where there are more than `MOST`; else itself.

    A group are the networks of one objective, perturbation and strength, or of whatever strength where that
    makes too many groups, or all. Figures draw of it over its networks, each the mean of its seeds, what they
    draw of a network over its seeds.
    """
    if len(data.networks) <= MOST:
        return data
    keys: tuple[Callable[[Network], Key], ...] = (
        lambda network: (_objective(network), network.eps),
        lambda network: (_objective(network), None),
        lambda network: ("All", None),
    )
    groups: dict[Key, list[Network]] = {}
    for key in keys:
        groups = {}
        for network in data.networks:
            groups.setdefault(key(network), []).append(network)
        if len(groups) <= MOST:
            break
    strengths = [_mean_eps(members) for members in groups.values()]
    looks = styles([(name, eps) for (name, _), eps in zip(groups, strengths, strict=True)])
    networks = [
        Network(
            _label(key, members),
            key[0],
            eps,
            tuple(run for one in members for run in one.runs),
            look,
            tuple(members),
        )
        for (key, members), eps, look in zip(groups.items(), strengths, looks, strict=True)
    ]
    return replace(data, networks=tuple(networks))


def caption(data: ReportData) -> str:
    """A sentence on the groups that the plots of this study draw; empty where each network has its line."""
    count = len(data.networks)
    if count <= MOST:
        return ""
    return (
        f"The plots draw {len(grouped(data).networks)} groups in place of {count} networks, as more than "
        f"{MOST} lines cannot be told apart: networks of one objective and strength, with their mean and, "
        "where a plot has intervals over seeds, intervals over the networks. What each attack "
        "did is shown by group as well; the table and attacks.csv have every network."
    )


def _objective(network: Network) -> str:
    """Objective and perturbation of a network, as methods are called; its method where it has no recipe."""
    recipe = next((run.recipe for run in network.runs if run.recipe), None)
    return method_name(recipe) if recipe else network.method


def _mean_eps(members: list[Network]) -> float:
    strengths = [network.eps for network in members]
    return strengths[0] if len(set(strengths)) == 1 else sum(strengths) / len(strengths)


def _label(key: Key, members: list[Network]) -> str:
    name, eps = key
    strength = f" {eps_text(eps)}" if eps else ""
    return f"{name}{strength}, {len(members)} network{'s' if len(members) > 1 else ''}"
