"""Runs that claims hold against each other: AWP and none, by some images or all, at random, early stopped."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustlens.claims.designs import Partner, matching
from robustlens.claims.evidence import RunData, StudyData
from robustlens.claims.hypothesis import checkpoints
from robustlens.config import LAST

USUAL_GAMMA = {"at": 0.01}
"""Gamma of the paper by objective; that of every other one is 0.005."""


def against_none(study: StudyData) -> list[Partner]:
    """Every run with AWP, and its partner without: the same objective, strength and seed.

    The paper's AWP alone counts: not one that takes the attack's gradient, and not one by some images only.
    Where a study has several of them for one partner, a ladder, the one nearest to the paper's settings does.
    """
    partners = _unperturbed(study)
    return [(run, partners.get(matching(run))) for run in _usual(awp_runs(study))]


def small_loss_against_none(study: StudyData) -> list[Partner]:
    """Every run with AWP by the images of small loss, and its partner without AWP."""
    partners = _unperturbed(study)
    return [(run, partners.get(matching(run))) for run in awp_runs(study, "small-loss")]


def small_loss_against_all(study: StudyData) -> list[Partner]:
    """Every run with AWP by the images of small loss, and the one by all images that is else alike."""
    return _alike(awp_runs(study, "small-loss"), awp_runs(study), "images", "loss_threshold")


def small_loss_against_large(study: StudyData) -> list[Partner]:
    """Every run with AWP by the images of small loss, and the one by all others."""
    return _alike(awp_runs(study, "small-loss"), awp_runs(study, "large-loss"), "images")


def against_random(study: StudyData) -> list[Partner]:
    """Every run with AWP that has a gamma, and the one with random perturbation of the same gamma.

    Empty in a study without random perturbation. Only AWP of one step has such a partner.
    """
    random = {(matching(run), _option(run, "gamma")): run for run in reversed(_runs(study, "rwp"))}
    adversarial = [run for run in awp_runs(study) if _option(run, "gamma") is not None and _is_one_step(run)]
    pairs = [(run, random.get((matching(run), _option(run, "gamma")))) for run in adversarial]
    return pairs if random else []


def against_early_stopping(study: StudyData) -> list[Partner]:
    """Every run with AWP at its last checkpoint, and its partner without at the best one.

    The best checkpoint, chosen on validation images, is what early stopping keeps (Rice, Wong and Kolter
    2020): a run with `patience` ends later and keeps the same one.
    """
    return [(run.at(LAST), partner) for run, partner in against_none(study)]


def ladders(study: StudyData, option: str) -> list[list[RunData]]:
    """Runs with AWP that differ in one option alone, ascending in it; two values or more of it each."""
    rungs: dict[object, dict[float, RunData]] = {}
    for run in awp_runs(study):
        value = _option(run, option)
        if value is not None:
            rungs.setdefault(_key(run, option), {}).setdefault(float(value), run)
    return [[own[value] for value in sorted(own)] for own in rungs.values() if len(own) > 1]


def awp_runs(study: StudyData, images: str = "all") -> list[RunData]:
    """Every adversarially trained run with AWP by these images, with a gradient of its own."""
    return [
        run
        for run in _runs(study, "awp")
        if not run.entry.from_attack and _options(run).get("images", "all") == images
    ]


def objectives(
    pairs_of: Callable[[StudyData], Sequence[Partner]],
    parts: Callable[[StudyData], Sequence[StudyData]] = checkpoints,
) -> Callable[[StudyData], list[StudyData]]:
    """Parts of a study: each of `parts`, then, where whole pairs are of several objectives, each of these."""

    def split(study: StudyData) -> list[StudyData]:
        chosen: list[StudyData] = []
        for part in parts(study):
            chosen.append(part)
            whole = [run for run, partner in pairs_of(part) if partner is not None]
            names = list(dict.fromkeys(run.entry.objective for run in whole))
            for name in names if len(names) > 1 else ():
                runs = [run for run in part.runs if run.entry.objective == name]
                setting = " ".join(filter(None, (f"for {name.upper()}", part.setting)))
                chosen.append(replace(part, runs=runs, setting=setting))
        return chosen

    return split


def without_awp_then_with(study: StudyData) -> list[StudyData]:
    """At every checkpoint the methods without AWP, and then all of them; one part where none has AWP."""
    chosen: list[StudyData] = []
    for part in checkpoints(study):
        without = [run for run in part.runs if run.entry.perturbation != "awp"]
        if len(without) == len(part.runs):
            chosen.append(part)
            continue
        for runs, name in ((without, "among methods without AWP"), (part.runs, "among all methods")):
            setting = " ".join(filter(None, (name, part.setting)))
            chosen.append(replace(part, runs=runs, setting=setting))
    return chosen


def _runs(study: StudyData, perturbation: str) -> list[RunData]:
    return [run for run in study.adversarial() if run.entry.perturbation == perturbation]


def _unperturbed(study: StudyData) -> dict[object, RunData]:
    return {matching(run): run for run in reversed(study.runs) if run.entry.perturbation is None}


def _alike(runs: Sequence[RunData], others: Sequence[RunData], *but: str) -> list[Partner]:
    """Each of `runs`, and the one of `others` whose options are the same, but for some."""
    partners = {_key(run, *but): run for run in reversed(others)}
    return [(run, partners.get(_key(run, *but))) for run in runs]


def _key(run: RunData, *but: str) -> object:
    options = {name: value for name, value in _options(run).items() if name not in but}
    return matching(run), run.entry.seed, tuple(sorted(options.items(), key=lambda item: item[0]))


def _options(run: RunData) -> Mapping[str, Any]:
    return run.entry.perturbation_options


def _option(run: RunData, name: str) -> Any:
    return _options(run).get(name)


def _is_one_step(run: RunData) -> bool:
    return int(_options(run).get("steps", 1)) * int(_options(run).get("alternations", 1)) == 1


def _usual(runs: Sequence[RunData]) -> list[RunData]:
    """Of the runs of one partner the one nearest to the paper's settings; all of those of older studies."""
    groups: dict[object, list[RunData]] = {}
    for run in runs:
        groups.setdefault(matching(run), []).append(run)
    chosen = {id(min(own, key=_distance)) for own in groups.values() if all(map(_options, own))}
    known = {id(run) for own in groups.values() if all(map(_options, own)) for run in own}
    return [run for run in runs if id(run) in chosen or id(run) not in known]


def _distance(run: RunData) -> tuple[int, float]:
    """Weight steps beyond the first, then the factor between gamma and the paper's."""
    gamma, usual = float(_option(run, "gamma") or 0.0), USUAL_GAMMA.get(run.entry.objective, 0.005)
    steps = int(_options(run).get("steps", 1)) * int(_options(run).get("alternations", 1))
    return steps - 1, abs(math.log(gamma / usual)) if gamma > 0 else math.inf
