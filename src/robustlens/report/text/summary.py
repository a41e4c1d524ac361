"""The summary under the title: sentences written from the data alone."""

from collections.abc import Callable, Iterable

from robustlens.config import BEST, Recipe, eps_text
from robustlens.report.data import ReportData
from robustlens.report.text.attacks import SEARCH
from robustlens.report.text.headline import EXPLAINED, state
from robustlens.report.text.wording import SPLITS, attack_name, names


def summary(data: ReportData) -> list[str]:
    """The paragraph under the title, sentence by sentence."""
    sentences = [_networks(data), _attacked(data), _missing(data)]
    return [sentence for sentence in sentences if sentence]


def _networks(data: ReportData) -> str:
    count = len(data.networks)
    images = str(data.study.data.get("name") or "") or _of_recipes(data, lambda recipe: recipe.data.name)
    model = str(data.study.model.get("name") or "") or _of_recipes(data, lambda recipe: recipe.model.name)
    seeds = sorted({len(network.runs) for network in data.networks})
    ends = seeds[:1] + seeds[-1:] if len(seeds) > 1 else seeds
    each = "one seed" if seeds == [1] else f"{' to '.join(map(str, ends))} seeds"
    subject = "One network" if count == 1 else f"{count} networks"
    listed = (
        names(network.label for network in data.networks)
        if count <= 12
        else names(dict.fromkeys(network.method for network in data.networks))
    )
    on = f" on {images}" if images else ""
    of = f" with the architecture {model}" if model else ""
    return f"{subject} ({listed}), trained{on}{of}, {each}{' each' if count > 1 else ''}."


def _attacked(data: ReportData) -> str:
    threat = data.first(lambda evaluation: evaluation.threat)
    if not data.columns or threat is None:
        return ""
    parts = [(name, part) for split, name in SPLITS.items() if (part := data.first_split(split))]
    images = names(f"{part.n:,} {name}" for name, part in parts)
    checkpoint = data.first(lambda evaluation: evaluation.provenance.checkpoint)
    chosen = f" ({_choice(data)})" if checkpoint == BEST else ""
    of = f", at the {checkpoint} checkpoint{chosen}" if checkpoint else ""
    attacks = names(_attack(name, members) for name, members in data.columns.items())
    return f"Attacked on {images} images within {threat.norm} eps = {eps_text(threat.eps)} by {attacks}{of}."


def _choice(data: ReportData) -> str:
    """How the best checkpoints were chosen; without validation images training takes the last epoch."""
    shares = {run.recipe.data.validation for run in data.runs if run.recipe and run.evaluation}
    if shares == {0.0}:
        return "the last epoch, as there were no validation images to choose on"
    return "chosen on validation images, never on test images"


def _attack(name: str, members: Iterable[str]) -> str:
    """An attack, or a suite and what it is made of."""
    if name == SEARCH:
        return "a minimum-norm search"
    listed = names(attack_name(member) for member in members)
    return f"the {name} suite ({listed})" if listed else attack_name(name)


def _missing(data: ReportData) -> str:
    missing = sum(run.evaluation is None and state(run) != EXPLAINED for run in data.runs)
    if not missing:
        return ""
    have = "has" if missing == 1 else "have"
    return f"{missing} of {len(data.runs)} runs {have} no evaluation yet; see the notes."


def _of_recipes(data: ReportData, read: Callable[[Recipe], str]) -> str:
    return ", ".join(dict.fromkeys(read(run.recipe) for run in data.runs if run.recipe))
