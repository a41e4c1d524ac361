"""The model card of a run: what it is, how accurate under which attacks, and why not to believe it.

Every number is read from the run's documents; what was not measured is said to be so.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from robustlens.config import LAST, Checkpoint, Recipe, eps_text
from robustlens.config.names import names_path
from robustlens.report.text.key_numbers import KEY_NUMBERS
from robustlens.report.text.wording import (
    SPLITS,
    attack_name,
    method_name,
    names,
    number,
    points,
    sentence,
    short,
)
from robustlens.results import EvaluationResult, Measurement, Run
from robustlens.sharing.markdown import code, table, text
from robustlens.sharing.metadata import columns, data_name, front_matter
from robustlens.stats.intervals import Interval
from robustlens.version import __version__

_ABOUT = {
    "README.md": "this card",
    "recipe.json": "everything that determines the training; its hash names the run",
    "run.json": "state of the run, its network, versions and device",
    "metrics.jsonl": "each epoch of training",
    "best.safetensors": "weights of the epoch that was best on validation images",
    "last.safetensors": "weights of the last epoch",
    "evaluation": "accuracies, attacks and flags; image by image in the arrays",
    "explanation": "what robustness did to the network; the curves in the arrays",
}


def model_card(run: Run, files: Sequence[str], *, load_as: str, license_id: str | None = None) -> str:
    """The card as Markdown, with the metadata that the Hub reads before it.

    Args:
        run: the run.
        files: names of its files beside the card.
        load_as: what `rl.models.load` takes.
        license_id: as the Hub names licences; None where the owner named none.

    Raises:
        StateError: a document of the run is damaged.
    """
    recipe, evaluations = run.recipe, _evaluations(run)
    front = front_matter(recipe, evaluations.get(None), license_id)
    sections = (
        _title(run, recipe),
        *_accuracy(evaluations, load_as),
        *_explained(run),
        *_loading(load_as, recipe),
        *_data(run, recipe, evaluations),
        *_files(files),
        _license(license_id),
        f"Written by robustlens {__version__} from the files of the run.",
    )
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


# -- sections ------------------------------------------------------------------------------------------


def _title(run: Run, recipe: Recipe) -> str:
    method, done = text(method_name(recipe)), run.record.epochs_done
    against = (
        "" if recipe.threat.eps == 0 else f" against {recipe.threat.norm} eps {eps_text(recipe.threat.eps)}"
    )
    return (
        f"# {text(recipe.model.name)}, {method}\n\n"
        f"{code(recipe.model.name)} trained on {code(data_name(recipe))} with {method}{against}, "
        f"{done} epochs, seed {recipe.seed}. Recipe {code(recipe.hash())}."
    )


def _accuracy(evaluations: dict[Checkpoint | None, EvaluationResult], load_as: str) -> Iterator[str]:
    yield "## Accuracy"
    if not evaluations:
        yield (
            "**Not evaluated.** Nothing is known of its accuracy, clean or under attack. To measure it: "
            f"{code(f'robustlens evaluate {load_as} --attacks standard --out evaluation')}."
        )
        return
    for other, result in evaluations.items():
        if len(evaluations) > 1:
            yield f"### Checkpoint {text(str(result.provenance.checkpoint or other))}"
        yield _accuracy_table(result)
        yield _threat(result)
        yield from _gaps(result)
        yield from _flags(result, "###" if len(evaluations) == 1 else "####")


def _accuracy_table(result: EvaluationResult) -> str:
    titles = columns(result)
    heads = ["images", "n", "clean", *(text(title) for title in titles.values())]
    rows = [
        [f"{SPLITS.get(name, name)}", str(part.n), _rate(part.clean)]
        + [_rate(result.after(column, name)) for column in titles]
        for name, part in result.splits.items()
    ]
    return table(heads, rows)


def _threat(result: EvaluationResult) -> str:
    threat = result.threat
    low, high = threat.bounds
    attacks = names(text(attack_name(name)) for name in result.attacks)
    return (
        f"Threat: {threat.norm}, eps {eps_text(threat.eps)}, on pixels in [{low:g}, {high:g}]. "
        f"Attacks, each on the survivors of those before it: {attacks}. An image that is wrong "
        "without an attack is not robust. Intervals are 95 %, over images; another training seed may "
        "differ by more."
    )


def _gaps(result: EvaluationResult) -> Iterator[str]:
    if not result.gaps:
        return
    shown = (f"{name} {number(gap.value)}{_ends(gap)}" for name, gap in result.gaps.items())
    yield (
        "Gaps between training and test images (shares, loss in nats; positive where training looks better): "
        f"{'; '.join(shown)}."
    )


def _flags(result: EvaluationResult, level: str) -> Iterator[str]:
    """Reasons not to believe the accuracies, each with what it means."""
    yield f"{level} Reasons not to believe these numbers"
    raised = [(name, flag) for name, part in result.splits.items() for flag in part.flags]
    if raised:
        yield "\n".join(
            f"- **{text(flag.name)}** ({SPLITS.get(name, name)} images): {text(sentence(flag.message))}"
            for name, flag in raised
        )
    else:
        yield "None of the reliability flags of robustlens is up."
    notes = dict.fromkeys(note for part in result.splits.values() for note in part.notes)
    if notes:
        yield "\n".join(f"- {text(sentence(note))}" for note in notes)


def _explained(run: Run) -> Iterator[str]:
    explanation = run.explanation()
    if explanation is None:
        return
    yield "## What robustness did to it"
    threat = explanation.threat
    yield f"Measured under {threat.norm}, eps {eps_text(threat.eps)}, where a measure attacks."
    rows = [row for name, measure in explanation.measures.items() for row in _key_numbers(name, measure)]
    yield table(["measure", "quantity", "value"], rows)


def _key_numbers(name: str, measure: Measurement) -> Iterator[list[str]]:
    values = [(key, key.read(measure)) for key in KEY_NUMBERS.get(name, ())]
    known = [(key, value) for key, value in values if value is not None]
    for key, value in known:
        yield [text(name), text(key.title), text(f"{number(value)} {key.unit}".rstrip())]
    if not known:
        yield [text(name), text(measure.what), ""]


def _loading(load_as: str, recipe: Recipe) -> Iterator[str]:
    yield "## How to load it"
    trusted = ", trust_code=True" if recipe.names_code else ""
    yield (
        "```python\nimport robustlens as rl\n\n"
        f"model = rl.models.load({load_as!r}{trusted})  # images in [0, 1] in, logits out\n```"
    )
    option = " --trust-code" if recipe.names_code else ""
    data = " --data ..." if names_path(recipe.data.name) else ""
    yield f"```sh\nrobustlens evaluate {load_as}{data} --attacks standard{option} --out evaluation\n```"
    if recipe.names_code:
        yield (
            "Its recipe names code that is not in this repository (package.module:factory); trust it only if "
            "you know it."
        )


def _data(run: Run, recipe: Recipe, evaluations: dict[Checkpoint | None, EvaluationResult]) -> Iterator[str]:
    yield "## Data and training"
    spec = recipe.data
    limits = f", of these {spec.train_limit} training images" if spec.train_limit else ""
    held = (
        f" {spec.validation:.0%} of the training images were held out for validation."
        if spec.validation
        else ""
    )
    measured = (
        ", ".join(f"{part.n} {SPLITS.get(name, name)} images" for name, part in result.splits.items())
        for result in list(evaluations.values())[:1]
    )
    numbers = "".join(f" Accuracies were measured on {counts}." for counts in measured)
    known = f"fingerprint {code(run.record.data or 'unknown')}"
    yield f"Images: {code(data_name(recipe))}{limits} ({known}).{held}{numbers}"
    yield table(["field", "value"], [[code(field), text(value)] for field, value in _recipe_rows(recipe)])


def _recipe_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """The fields of the recipe that say most; `recipe.json` has all."""
    optimizer, attack = recipe.optimizer, recipe.attack
    rows = [("objective", recipe.objective)]
    if recipe.threat.eps > 0:
        rows.append(("threat", f"{recipe.threat.norm}, eps {eps_text(recipe.threat.eps)}"))
        rows.append(("attack", f"{attack.steps} steps, crafted in {attack.model_mode} mode"))
    rows += [
        (name, ", ".join(f"{key} {short(value)}" for key, value in spec.model_dump().items()))
        for name, spec in recipe.perturbations.items()
    ]
    rows.append(("optimizer", f"{optimizer.name}, lr {optimizer.lr:g}, batches of {optimizer.batch_size}"))
    rows.append(("epochs", f"{optimizer.epochs}"))
    return [*rows, ("precision", recipe.precision)]


def _files(files: Sequence[str]) -> Iterator[str]:
    yield "## Files"
    yield table(["file", "what it is"], [[code(name), _about(name)] for name in ("README.md", *files)])
    yield (
        "Every file of the run carries its SHA-256, which loading checks, and `robustlens verify FOLDER` in "
        "all files: that finds damage, and does not say who made the files. No file holds code."
    )


def _about(name: str) -> str:
    stem = name.partition(".")[0]
    about = _ABOUT.get(name) or _ABOUT[stem.partition("-")[0]]
    return about + (", of the last epoch" if stem.endswith(f"-{LAST}") else "")


def _license(license_id: str | None) -> str:
    if license_id is None:
        return "Its owner named no licence: ask before using it for more than looking."
    return f"Licence: {code(license_id)}."


# -- pieces --------------------------------------------------------------------------------------------


def _evaluations(run: Run) -> dict[Checkpoint | None, EvaluationResult]:
    """The evaluation of the primary checkpoint, and of the last one where both were evaluated."""
    both = {other: run.evaluation(other) for other in (None, LAST)}
    return {other: result for other, result in both.items() if result is not None}


def _rate(interval: Interval | None) -> str:
    return "" if interval is None else f"{points(interval.value)} %{_ends(interval, points)}"


def _ends(interval: Interval, written: Any = number) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" ({written(interval.low)} to {written(interval.high)})"
