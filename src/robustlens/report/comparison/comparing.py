"""Reads two run or evaluation folders and compares them."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from robustlens.config import eps_text
from robustlens.errors import StateError
from robustlens.report.comparison.documents import (
    Comparison,
    FieldDifference,
    ImageComparison,
    QuantityChange,
    Side,
)
from robustlens.report.comparison.images import compare_images, compare_means, gap_changes, pair
from robustlens.report.text.key_numbers import KEY_NUMBERS, KeyNumber
from robustlens.report.text.wording import SPLITS, attack_name, flat, names
from robustlens.results import EvaluationResult, ExplanationResult, Measurement, Run, StudyFolder
from robustlens.results.same_weights import explanation_beside
from robustlens.stats.intervals import Inference, Interval

ONE_TRAINING = (
    "Intervals are 95 % and over images: they speak of these two networks. Another training seed can change "
    "either by more; a study with three seeds says by how much."
)


def compare(a: str | PathLike[str], b: str | PathLike[str]) -> Comparison:
    """Compare two runs, or two folders that `evaluate --out` or `explain --out` wrote.

    Every difference is b minus a, at the chosen checkpoints. Where both were evaluated on the
    same images the differences are image by image: Tango's score interval for accuracies (`stats.paired`),
    the normal one for losses. Images that only one was evaluated on are left out. Where none are the same,
    the intervals are those of independent samples (Newcombe 1998), and the comparison says so.

    Args:
        a: the run that the other is compared with.
        b: the other one.

    Raises:
        StateError: a folder is a study or holds no run; the two have neither an evaluation nor a measure in
            common; a file is damaged.
    """
    runs = _run(a), _run(b)
    evaluations = [run.evaluation() for run in runs]
    explanations = [
        explanation_beside(run, evaluation) or run.explanation()
        for run, evaluation in zip(runs, evaluations, strict=True)
    ]
    sides = _sides(runs, evaluations, explanations)
    notes = [ONE_TRAINING]
    accuracy: tuple[ImageComparison, ...] = ()
    gaps: tuple[QuantityChange, ...] = ()
    plans: tuple[FieldDifference, ...] = ()
    measures: dict[str, tuple[QuantityChange, ...]] = {}
    both = evaluations[0], evaluations[1]
    if both[0] and both[1]:
        plans = _differences(*(flat(one.provenance.plan) for one in both if one))
        accuracy = tuple(
            compare_images(name, both[0], both[1])
            for name in SPLITS
            if name in both[0].splits and name in both[1].splits
        )
        gaps = gap_changes(*accuracy) if len(accuracy) == 2 else ()
        notes += [*_pairing_notes(accuracy), *_evaluation_notes(sides, both[0], both[1])]
    checkpoints = [one.provenance.checkpoint for one in explanations if one]
    if None not in checkpoints and len(set(checkpoints)) == 2:
        of = " and ".join(
            f"the {one} one of {side.name}" for one, side in zip(checkpoints, sides, strict=True)
        )
        notes.append(f"Measures are not compared: they are of unlike checkpoints, {of}.")
    elif explanations[0] and explanations[1]:
        measures, unlike = _measures(explanations[0], explanations[1])
        if unlike:
            notes.append(
                f"{names(unlike)}: measured under other conditions or of nothing in common, so not compared."
            )
    if not accuracy and not measures:
        raise StateError(
            f"{a} and {b}: found no evaluation and no measure that both have; evaluate both first"
        )
    return Comparison(*sides, _recipes(*runs), plans, accuracy, gaps, measures, tuple(notes))


def _run(folder: str | PathLike[str]) -> Run:
    folder = Path(folder)
    if StudyFolder(folder).exists:
        raise StateError(f"{folder}: is a study; name two of its runs, or report on the study alone")
    run = Run(folder)
    if not run.exists:
        raise StateError(
            f"{folder}: no run and no evaluation here; name a run folder or what evaluate --out wrote"
        )
    return run


def _sides(
    runs: tuple[Run, Run],
    evaluations: list[EvaluationResult | None],
    explanations: list[ExplanationResult | None],
) -> tuple[Side, Side]:
    """Both, by the shortest ends of their paths that tell them apart."""
    paths = [run.folder.resolve() for run in runs]
    shown = [path.name for path in paths]
    while shown[0] == shown[1] and paths[0] != paths[1]:
        depth = 1 + shown[0].count("/") + 1
        shown = ["/".join(path.parts[-depth:]) for path in paths]
    sides = []
    for name, run, *results in zip(shown, runs, evaluations, explanations, strict=True):
        provenance = next((result.provenance for result in results if result), None)
        checkpoint = provenance.checkpoint if provenance else None
        recipe = run.recipe.hash() if run.has_recipe else None
        sides.append(Side(name, recipe, str(checkpoint) if checkpoint else None))
    return sides[0], sides[1]


def _recipes(a: Run, b: Run) -> tuple[FieldDifference, ...]:
    if not (a.has_recipe and b.has_recipe):
        return ()
    return _differences(*(flat(run.recipe.model_dump(mode="json")) for run in (a, b)))


def _differences(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[FieldDifference, ...]:
    """Fields whose values differ; a part that only one has ("awp") is named by its fields ("awp.gamma")."""
    every = dict.fromkeys([*a, *b])
    fields = [key for key in every if not any(other.startswith(f"{key}.") for other in every)]
    return tuple(FieldDifference(key, a.get(key), b.get(key)) for key in fields if a.get(key) != b.get(key))


def _pairing_notes(accuracy: tuple[ImageComparison, ...]) -> list[str]:
    notes = []
    for part in accuracy:
        if not part.paired:
            notes.append(
                f"Differences on {part.images} images are not image by image, because {part.why}; "
                "their intervals take the two samples as independent."
            )
        elif {part.n_a, part.n_b} != {part.shared}:
            notes.append(
                f"Numbers on {part.images} images are of the {part.shared:,} images that both were evaluated "
                f"on, of {part.n_a:,} and {part.n_b:,}."
            )
    return notes


def _evaluation_notes(sides: tuple[Side, Side], a: EvaluationResult, b: EvaluationResult) -> list[str]:
    notes = []
    if a.threat != b.threat:
        threats = [f"{one.threat.norm} eps = {eps_text(one.threat.eps)}" for one in (a, b)]
        notes.append(f"Robust accuracies are not compared: they are under {threats[0]} and {threats[1]}.")
    elif a.attacks != b.attacks:
        attacks = [names(map(attack_name, one.attacks)) or "nothing" for one in (a, b)]
        notes.append(
            f"The attacks are not the same ({sides[0].name}: {attacks[0]}; {sides[1].name}: {attacks[1]}): "
            "weaker attacks make a network look more robust."
        )
    for side, result in zip(sides, (a, b), strict=True):
        flags = {flag.name: None for split in result.splits.values() for flag in split.flags}
        if flags:
            notes.append(
                f"{side.name}: reliability flags {names(flags)}; see its report before believing a number."
            )
    return notes


def _measures(
    a: ExplanationResult, b: ExplanationResult
) -> tuple[dict[str, tuple[QuantityChange, ...]], list[str]]:
    """Key numbers of the measures that both have, and the measures that do not compare."""
    same_data = bool(a.provenance.data) and a.provenance.data == b.provenance.data
    compared, unlike = {}, []
    for name in (name for name in a.measures if name in b.measures):
        one, other = a.measures[name], b.measures[name]
        if dict(one.conditions) != dict(other.conditions):
            unlike.append(name)
            continue
        every = (_change(number, one, other, same_data) for number in KEY_NUMBERS.get(name, ()))
        changes = tuple(change for change in every if change)
        if changes:
            compared[name] = changes
        else:
            unlike.append(name)
    return compared, unlike


def _change(
    number: KeyNumber, one: Measurement, other: Measurement, same_data: bool
) -> QuantityChange | None:
    a, b = number.read(one), number.read(other)
    if a is None or b is None:
        return None
    if number.array and number.array in one.arrays and number.array in other.arrays:
        rows = pair(one.arrays, other.arrays, same_data=same_data, index=number.index)
        return compare_means(number.title, number.unit, _means(one, number), _means(other, number), rows)
    return QuantityChange(number.title, number.unit, Interval(a), Interval(b), Inference(b - a))


def _means(measurement: Measurement, number: KeyNumber) -> Any:
    return measurement.arrays[number.array]
