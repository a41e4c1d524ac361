"""A realistic study folder without training anything: what the report and the claims are tested on.

Every number comes from a seeded generator and from what strength does to a network (`Traits`): logits are
drawn per image, and accuracy, margins, losses, attacks and changes under attack all follow from the same
logits, so the files agree with one another as a real study's do. `reverse=True` turns the papers' claims round.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers.made_measures import Splits, explained
from helpers.made_networks import (
    ATTACKS,
    EPS,
    SEARCH,
    SEARCH_RADIUS,
    SUITE,
    Arrays,
    Member,
    Traits,
    difference,
    epochs_of,
    images_of,
    mean,
    network,
    rate,
)
from robustlens.config import (
    BEST,
    AWPSpec,
    EvaluationPlan,
    ExplanationPlan,
    OptimizerSpec,
    Plan,
    Recipe,
    ThreatSpec,
)
from robustlens.results import (
    ClaimResult,
    ClaimValue,
    CurvePoint,
    Effect,
    EvaluationResult,
    ExplanationResult,
    Provenance,
    Run,
    RunEntry,
    SplitResult,
    Statistic,
    StudyFolder,
    StudyRecord,
    ThreatRecord,
)
from robustlens.version import __version__

QUICKSTART = (
    Member("Standard", "standard", 0.0),
    Member("AT", "at", 0.05),
    Member("AT", "at", 0.1),
    Member("AT", "at", 0.2),
    Member("TRADES", "trades", 0.1),
    Member("AT+AWP", "at", 0.1, awp=True),
)


def traits_of(member: Member, *, reverse: bool = False) -> Traits:
    """Traits that the papers expect: strength narrows margins and spectra; AWP flattens and overfits less."""
    strength = member.eps / 0.2
    strength = 1 - strength if reverse else strength
    awp = 0.0 if not member.awp else (-1.0 if reverse else 1.0)
    trades = 1.0 if member.objective == "trades" else 0.0
    return Traits(
        scale=14.0 - 12.6 * strength - 0.6 * awp - 0.7 * trades,
        centre=1.7 - 0.8 * strength - 0.05 * awp,
        centre_train=2.2 - 1.07 * strength - 0.22 * awp,
        slope=400.0 * np.exp(-8.0 * strength) + 4.0 + 2.0 * trades - 1.0 * awp,
        spread=0.62 - 0.30 * strength,
        curvature=2.4 - 1.3 * strength - 0.7 * awp,
    )


def write_study(
    folder: Path,
    *,
    seeds: int = 1,
    members: Iterable[Member] = QUICKSTART,
    n: int = 200,
    epochs: int = 8,
    rng_seed: int = 0,
    reverse: bool = False,
    suite: bool = False,
    change: Callable[[Member, Traits], Traits] | None = None,
    claims: Iterable[ClaimResult] = (),
) -> Path:
    """Write a whole study (`study.json`, `runs/`, `claims.json`) and return `folder`.

    Args:
        folder: where; created.
        seeds: training seeds per member; the images stay the same, the networks differ a little.
        members: methods and strengths; the first with eps 0 is the standard network.
        n: images per split in evaluation and explanation (index i is the same image in every run).
        epochs: epochs in `metrics.jsonl`.
        rng_seed: another seed, another study.
        reverse: strength does the opposite of what the papers say, and AWP as well.
        suite: the evaluations have all that they may have: the standard suite, a minimum-norm search with
            every image's distance, counts, times, notes.
        change: alters the traits of single members, e.g. `lambda m, t: replace(t, spread=0.5)`.
        claims: written to `claims.json`; without any the file is not written.
    """
    members = list(members)
    entries = []
    for member in members:
        traits = traits_of(member, reverse=reverse)
        traits = change(member, traits) if change else traits
        for seed in range(seeds):
            name = f"{member.method}-{member.eps:g}-s{seed}".lower().replace("+", "-")
            entries.append(_entry(name, member, seed))
            write_run(
                folder / "runs" / name,
                member,
                traits,
                seed,
                n=n,
                epochs=epochs,
                rng_seed=rng_seed,
                suite=suite,
            )
    study = StudyFolder(folder)
    study.write_record(
        StudyRecord(
            name="quickstart",
            evaluation=EvaluationPlan().model_dump(mode="json"),
            explanation=ExplanationPlan().model_dump(mode="json"),
            data={"name": "fashion-mnist-10k"},
            model={"name": "small-cnn", "options": {}},
            strengths=tuple(sorted({member.eps for member in members})),
            runs=tuple(entries),
        )
    )
    if claims := tuple(claims):
        study.write_claims(claims)
    return folder


def _entry(name: str, member: Member, seed: int) -> RunEntry:
    return RunEntry(
        id=name,
        folder=f"runs/{name}",
        label=member.label,
        method=member.method,
        objective=member.objective,
        perturbation="awp" if member.awp else None,
        eps=member.eps,
        seed=seed,
    )


def write_run(
    folder: Path,
    member: Member,
    traits: Traits,
    seed: int = 0,
    *,
    n: int = 200,
    epochs: int = 8,
    rng_seed: int = 0,
    suite: bool = False,
) -> Run:
    """Write one finished run folder (without weights)."""
    run = Run(folder)
    recipe = Recipe(
        threat=ThreatSpec(eps=member.eps),
        objective=member.objective,
        objective_options={"beta": 6.0} if member.objective == "trades" else {},
        awp=AWPSpec(gamma=0.01, warmup_epochs=1) if member.awp else None,
        optimizer=OptimizerSpec(lr=0.1, epochs=epochs, schedule="one-cycle"),
        seed=seed,
    )
    run.bind(recipe)
    images = {split: images_of(rng_seed, split, n) for split in ("train", "test")}
    # A network's own randomness: differs by method, strength and seed, never by the order of calls.
    rng = np.random.default_rng(
        [rng_seed, seed, round(member.eps * 1e6), sum(map(ord, member.method)), int(member.awp)]
    )
    traits = replace(
        traits,
        scale=traits.scale * (1 + 0.02 * rng.standard_normal()),
        spread=traits.spread * (1 + 0.02 * rng.standard_normal()),
        curvature=traits.curvature * (1 + 0.05 * rng.standard_normal()),
    )
    nets = {split: network(traits, images[split], split, rng) for split in images}
    run.write("evaluation", _evaluation(recipe, images, nets, 6.0 + float(rng.random()), suite))
    measures = explained(traits, images, nets, rng)
    threat = ThreatRecord("Linf", EPS)
    run.write("explanation", ExplanationResult(_provenance(recipe, ExplanationPlan()), threat, measures))
    final = {
        split: (float(nets[split]["correct"].mean()), float((nets[split]["radius"] > member.eps).mean()))
        for split in nets
    }
    for epoch in epochs_of(final, epochs, member, rng):
        run.append_metrics(epoch)
    run.update(
        status="done",
        epochs_done=epochs,
        train_seconds=sum(epoch.seconds for epoch in run.metrics()),
        data="made",
        environment={"torch": "2.13.0+cpu", "python": "3.11.2", "device": "cpu"},
    )
    return run


def _provenance(recipe: Recipe, plan: Plan) -> Provenance:
    return Provenance(
        recipe=recipe.hash(),
        weights="",
        data="made",
        checkpoint=BEST,
        plan=plan.model_dump(mode="json"),
        version=__version__,
    )


def _evaluation(
    recipe: Recipe, images: Splits, nets: Splits, seconds: float, suite: bool
) -> EvaluationResult:
    plan = EvaluationPlan()
    splits = {split: _split(plan, images[split], net, suite) for split, net in nets.items()}
    test, train = splits["test"].arrays, splits["train"].arrays
    compared = "robust" if suite else "pgd-20"
    return EvaluationResult(
        provenance=_provenance(recipe, plan),
        threat=ThreatRecord("Linf", EPS),
        attacks=(*ATTACKS, *SUITE, *SEARCH) if suite else tuple(ATTACKS),
        splits=splits,
        gaps={
            "error": difference(~test["clean"], ~train["clean"]),
            "loss": difference(test["loss"], train["loss"]),
            "robust": difference(train[compared], test[compared]),
        },
        suites={"standard": tuple(SUITE)} if suite else {},
        seconds=seconds,
    )


def _split(plan: EvaluationPlan, images: Arrays, net: Arrays, suite: bool) -> SplitResult:
    """One split under attack; `suite` as in `write_study`."""
    radii = np.array([0.0, *(float(factor) * EPS for factor in plan.curve)])
    attacks = {**ATTACKS, **SUITE, **SEARCH} if suite else ATTACKS
    right_after, counts = _attacked(net, attacks)
    robust = list(right_after.values())[-1]
    nearest = net["radius"] * SEARCH["min-norm"]
    distance = np.where(nearest > SEARCH_RADIUS, np.inf, np.where(net["correct"], nearest, 0.0))
    curve = np.stack([distance > eps if suite else net["correct"] & (net["radius"] > eps) for eps in radii])
    return SplitResult(
        n=len(robust),
        clean=rate(net["correct"]),
        robust=rate(robust),
        loss=mean(net["loss"]),
        by_attack={attack: rate(right) for attack, right in right_after.items()},
        attacked={attack: given for attack, (given, _) in counts.items()} if suite else {},
        broken={attack: broken for attack, (_, broken) in counts.items()} if suite else {},
        seconds={attack: 0.25 * place for place, attack in enumerate(attacks)} if suite else {},
        curve=tuple(
            CurvePoint(float(eps), point.value, point.low, point.high)
            for eps, point in zip(radii, map(rate, curve), strict=True)
        ),
        notes=("apgd-t: 9 target classes",) if suite else (),
        arrays={
            "index": images["index"],
            "labels": images["labels"].astype(np.int64),
            "clean": net["correct"],
            "loss": net["loss"].astype(np.float32),
            "predictions": net["predictions"].astype(np.int64),
            "curve": curve,
            "curve_eps": radii,
            **right_after,
            "robust": robust,
            **({"distance": distance} if suite else {}),
        },
    )


def _attacked(net: Arrays, attacks: dict[str, float]) -> tuple[Arrays, dict[str, tuple[int, int]]]:
    """Images still right after each attack, and how many each was given and broke; the search gets all."""
    right = net["correct"]
    masks: Arrays = {}
    counts: dict[str, tuple[int, int]] = {}
    for attack, weakness in attacks.items():
        given = net["correct"] if attack in SEARCH else right
        after = right & (net["radius"] * weakness > EPS)
        counts[attack] = int(given.sum()), int((right & ~after).sum())
        masks[attack] = right = after
    return masks, counts


def example_claims() -> tuple[ClaimResult, ...]:
    """Three hand-written claims, one per description: the study has one seed."""
    values = tuple(
        ClaimValue(label=m.label, eps=m.eps, seed=0, value=traits_of(m).spread) for m in QUICKSTART[:4]
    )
    wen, awp, note = "Wen et al. 2020", "Wu et al. 2020", "one seed: interval over examples"
    return (
        ClaimResult(
            id="accuracy-falls",
            paper=wen,
            statement="Clean accuracy falls as training strength grows.",
            quantity="clean test accuracy",
            verdict="as claimed",
            why="the interval of the fall excludes 0 and the order over strengths is monotone",
            statistic=Statistic("Spearman over strengths", -1.0),
            effect=Effect("strongest minus standard", -12.5, -18.0, -7.0, "points"),
            values=values,
            seeds=1,
            note=note,
        ),
        ClaimResult(
            id="error-gap-grows",
            paper=wen,
            statement="The error gap grows with strength.",
            quantity="test error minus training error",
            verdict="opposite",
            why="the gap moved the other way and its interval excludes 0",
            statistic=Statistic("Spearman over strengths"),
            effect=Effect("strongest minus standard", -3.1, -5.0, -1.2, "points"),
            values=values,
            seeds=1,
            note=note,
        ),
        ClaimResult(
            id="awp-flatter",
            paper=awp,
            statement="AWP flattens the adversarial weight-loss landscape.",
            quantity="rise of the adversarial loss at alpha 0.5",
            verdict="unclear",
            why="the interval contains 0",
            statistic=Statistic("paired difference", 0.02),
            effect=Effect("AT+AWP minus AT", -0.04, -0.11, 0.03, "nats"),
            values=values,
            seeds=1,
            note=note,
        ),
    )


if __name__ == "__main__":
    print(write_study(Path(sys.argv[1]), claims=example_claims()))
