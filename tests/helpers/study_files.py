"""A realistic study folder without training anything: what the report and the claims are tested on.

Every number comes from a seeded generator and a small story of what strength does to a network (`Story`):
logits are drawn per image, and accuracy, margins, losses, attacks and changes under attack all follow from
the same logits, so the files agree with one another as a real study's do. `reverse=True` tells it backwards.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.made_networks import (
    ATTACKS,
    EPS,
    LAYERS,
    REACH,
    SEARCH,
    SUITE,
    Member,
    Story,
    difference,
    epochs_of,
    images_of,
    landscape,
    margins,
    mean,
    network,
    rate,
    smoothness,
    spread,
)
from robustlens.config import AWPSpec, EvaluationPlan, ExplanationPlan, OptimizerSpec, Recipe, ThreatSpec
from robustlens.results.folders import Run, write_json

QUICKSTART = (
    Member("Standard", "standard", 0.0),
    Member("AT", "at", 0.05),
    Member("AT", "at", 0.1),
    Member("AT", "at", 0.2),
    Member("TRADES", "trades", 0.1),
    Member("AT+AWP", "at", 0.1, awp=True),
)


def story_of(member: Member, *, reverse: bool = False) -> Story:
    """The papers' story: strength narrows margins and spectra; AWP flattens and overfits less."""
    strength = member.eps / 0.2
    strength = 1 - strength if reverse else strength
    awp = 0.0 if not member.awp else (-1.0 if reverse else 1.0)
    trades = 1.0 if member.objective == "trades" else 0.0
    return Story(
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
    change: Callable[[Member, Story], Story] | None = None,
    claims: Iterable[dict[str, Any]] = (),
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
        suite: the evaluations have all that they have today: the standard suite, a minimum-norm search with
            every image's distance, times, notes; otherwise they are as the first version wrote them.
        change: alters the story of single members, e.g. `lambda m, s: replace(s, spread=0.5)`.
        claims: written to `claims.json`; without any the file is not written.
    """
    members = list(members)
    entries = []
    for member in members:
        story = story_of(member, reverse=reverse)
        story = change(member, story) if change else story
        for seed in range(seeds):
            name = f"{member.method}-{member.eps:g}-s{seed}".lower().replace("+", "-")
            entries.append(
                {
                    "id": name,
                    "folder": f"runs/{name}",
                    "method": member.method,
                    "objective": member.objective,
                    "awp": member.awp,
                    "eps": member.eps,
                    "seed": seed,
                    "label": member.label,
                }
            )
            write_run(
                folder / "runs" / name,
                member,
                story,
                seed,
                n=n,
                epochs=epochs,
                rng_seed=rng_seed,
                suite=suite,
            )
    study = {
        "format": 1,
        "name": "quickstart",
        "evaluation": EvaluationPlan().model_dump(mode="json"),
        "explanation": ExplanationPlan().model_dump(mode="json"),
        "data": {"name": "fashion-mnist-10k"},
        "model": {"name": "small-cnn", "options": {}},
        "strengths": sorted({member.eps for member in members}),
        "runs": entries,
    }
    write_json(folder / "study.json", study)
    if claims := list(claims):
        write_json(folder / "claims.json", {"format": 1, "claims": claims})
    return folder


def write_run(
    folder: Path,
    member: Member,
    story: Story,
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
    run.claim(recipe)
    images = {split: images_of(rng_seed, split, n) for split in ("train", "test")}
    # A network's own randomness: differs by method, strength and seed, never by the order of calls.
    own = np.random.default_rng(
        [rng_seed, seed, round(member.eps * 1e6), sum(map(ord, member.method)), int(member.awp)]
    )
    story = replace(
        story,
        scale=story.scale * (1 + 0.02 * own.standard_normal()),
        spread=story.spread * (1 + 0.02 * own.standard_normal()),
        curvature=story.curvature * (1 + 0.05 * own.standard_normal()),
    )
    nets = {split: network(story, images[split], split, own) for split in images}
    _write_evaluation(run, recipe, images, nets, own)
    if suite:
        _attack_again(run, nets)
    _write_explanation(run, recipe, story, images, nets, own)
    final = {
        split: (float(nets[split]["correct"].mean()), float((nets[split]["radius"] > member.eps).mean()))
        for split in nets
    }
    for epoch in epochs_of(final, epochs, member, own):
        run.append_metrics(epoch)
    environment = {"torch": "2.13.0+cpu", "python": "3.11.2", "device": "cpu"}
    run.update_status(
        status="done",
        epochs_done=epochs,
        train_seconds=sum(epoch["seconds"] for epoch in run.metrics()),
        environment=environment,
    )
    return run


def _write_evaluation(
    run: Run,
    recipe: Recipe,
    images: dict[str, dict[str, np.ndarray]],
    nets: dict[str, dict[str, np.ndarray]],
    own: np.random.Generator,
) -> None:
    plan = EvaluationPlan()
    radii = np.array([0.0, *(float(factor) * EPS for factor in plan.curve)])
    splits: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for split, net in nets.items():
        right = net["correct"]
        arrays |= {
            f"{split}/index": images[split]["index"],
            f"{split}/labels": images[split]["labels"].astype(np.int64),
            f"{split}/clean": right,
            f"{split}/loss": net["loss"].astype(np.float32),
            f"{split}/predictions": net["predictions"].astype(np.int64),
            f"{split}/curve": np.stack([net["correct"] & (net["radius"] > eps) for eps in radii]),
            f"{split}/curve_eps": radii,
        }
        for attack, weakness in ATTACKS.items():
            right = right & (net["radius"] * weakness > EPS)
            arrays[f"{split}/{attack}"] = right
        arrays[f"{split}/robust"] = right
        splits[split] = {
            "n": len(right),
            "clean": rate(net["correct"]),
            "by_attack": {attack: rate(arrays[f"{split}/{attack}"]) for attack in ATTACKS},
            "robust": rate(right),
            "loss": mean(net["loss"]),
            "curve": [
                {"eps": float(eps), **rate(mask)}
                for eps, mask in zip(radii, arrays[f"{split}/curve"], strict=True)
            ],
            "flags": [],
        }
    gaps = {
        "error": difference(~arrays["test/clean"], ~arrays["train/clean"]),
        "loss": difference(arrays["test/loss"], arrays["train/loss"]),
        "robust": difference(arrays["train/pgd-20"], arrays["test/pgd-20"]),
    }
    run.write_arrays("evaluation", arrays)
    run.write_json(
        "evaluation",
        {
            "format": 1,
            "recipe_hash": recipe.hash(),
            "plan": plan.model_dump(mode="json"),
            "checkpoint": "best",
            "threat": {"norm": "Linf", "eps": EPS, "bounds": [0.0, 1.0]},
            "attacks": list(ATTACKS),
            "splits": splits,
            "gaps": gaps,
            "seconds": 6.0 + float(own.random()),
        },
    )


def _attack_again(run: Run, nets: dict[str, dict[str, np.ndarray]]) -> None:
    """Add to an evaluation what it has today: the suite, a minimum-norm search, times and notes."""
    content = run.read_json("evaluation") or {}
    arrays = {key: run.array("evaluation", key) for key in run.array_names("evaluation")}
    for split, net in nets.items():
        nearest = net["radius"] * SEARCH["min-norm"]
        distance = np.where(nearest > REACH, np.inf, np.where(net["correct"], nearest, 0.0))
        found = content["splits"][split]
        right = arrays[f"{split}/robust"]
        for attack, weakness in {**SUITE, **SEARCH}.items():
            right = right & (net["radius"] * weakness > EPS)
            arrays[f"{split}/{attack}"] = right
            found["by_attack"][attack] = rate(right)
        curve = np.stack([distance > eps for eps in arrays[f"{split}/curve_eps"]])
        arrays |= {f"{split}/robust": right, f"{split}/distance": distance, f"{split}/curve": curve}
        found["robust"] = rate(right)
        found["curve"] = [
            {"eps": point["eps"], **rate(mask)} for point, mask in zip(found["curve"], curve, strict=True)
        ]
        found["seconds"] = {attack: 0.25 * place for place, attack in enumerate(found["by_attack"])}
        found["notes"] = ["apgd-t: 9 target classes"]
    content["attacks"] = [*ATTACKS, *SUITE, *SEARCH]
    content["suites"] = {"standard": list(SUITE)}
    content["gaps"]["robust"] = difference(arrays["train/robust"], arrays["test/robust"])
    run.write_result("evaluation", content, arrays)


def _write_explanation(
    run: Run,
    recipe: Recipe,
    story: Story,
    images: dict[str, dict[str, np.ndarray]],
    nets: dict[str, dict[str, np.ndarray]],
    own: np.random.Generator,
) -> None:
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, Any]] = {"spectrum": {"layers": {}}, "activations": {"layers": {}}}
    n = len(images["test"]["labels"])
    for depth, (layer, count) in enumerate(LAYERS.items()):
        sigma = np.sort(np.abs(1 + story.spread * own.standard_normal(count)))[::-1] * (1.5 - 0.1 * depth)
        norms = np.abs(1 + 0.6 * story.spread * own.standard_normal(n)) * story.scale * (depth + 2)
        arrays[f"spectrum/{layer}"] = sigma
        arrays[f"activations/{layer}"] = norms.astype(np.float32)
        values["spectrum"]["layers"][layer] = {
            **spread(sigma),
            "max": float(sigma.max()),
            "min": float(sigma.min()),
            "count": count,
            "shape": f"{count} values",
        }
        values["activations"]["layers"][layer] = spread(norms)
    values["margins"] = margins(arrays, images, nets)
    values["smoothness"] = smoothness(arrays, story, images["test"], nets["test"], own)
    values["landscape"] = landscape(arrays, story, nets, own)
    run.write_arrays("explanation", arrays)
    measures = {
        name: {"value": value, "unit": unit, "source": source, "what": what, "seconds": 1.5}
        for (name, value), (unit, source, what) in zip(
            values.items(),
            (
                (
                    "",
                    "Sedghi et al. 2019",
                    "Singular values of every layer (circular FFT).",
                ),
                ("L2 norm", "Wen et al. 2020, section 4", "Norms of every layer's output on test images."),
                ("logits, probability", "Wen et al. 2020", "Margins, confidence and indecisive errors."),
                ("logits, probability", "Wen et al. 2020", "Change of the margin under a fixed PGD."),
                ("nats", "Wu et al. 2020, section 3", "Adversarial weight-loss landscape, attacked anew."),
            ),
            strict=True,
        )
    }
    plan = ExplanationPlan().model_dump(mode="json")
    run.write_json(
        "explanation",
        {
            "format": 1,
            "recipe_hash": recipe.hash(),
            "plan": plan,
            "checkpoint": "best",
            "measures": measures,
        },
    )


def example_claims() -> list[dict[str, Any]]:
    """Three hand-written claims, one per verdict, in the form of `claims.json`."""
    values = [
        {"label": m.label, "eps": m.eps, "seed": 0, "value": story_of(m).spread} for m in QUICKSTART[:4]
    ]
    wen, awp = "Wen et al. 2020", "Wu et al. 2020"
    common = {"values": values, "seeds": 1, "note": "one seed: interval over examples"}
    claims = [
        {
            "id": "accuracy-falls",
            "paper": wen,
            "statement": "Clean accuracy falls as training strength grows.",
            "quantity": "clean test accuracy",
            "verdict": "supported",
            "why": "the interval of the fall excludes 0 and the order over strengths is monotone",
            "statistic": {"name": "Spearman over strengths", "value": -1.0},
            "effect": {
                "name": "strongest minus standard",
                "value": -12.5,
                "low": -18.0,
                "high": -7.0,
                "unit": "points",
            },
        },
        {
            "id": "error-gap-grows",
            "paper": wen,
            "statement": "The error gap grows with strength.",
            "quantity": "test error minus training error",
            "verdict": "not supported",
            "why": "the gap moved the other way and its interval excludes 0",
            "statistic": {"name": "Spearman over strengths", "value": None},
            "effect": {
                "name": "strongest minus standard",
                "value": -3.1,
                "low": -5.0,
                "high": -1.2,
                "unit": "points",
            },
        },
        {
            "id": "awp-flatter",
            "paper": awp,
            "statement": "AWP flattens the adversarial weight-loss landscape.",
            "quantity": "rise of the adversarial loss at alpha 0.5",
            "verdict": "inconclusive",
            "why": "the interval contains 0",
            "statistic": {"name": "paired difference", "value": 0.02},
            "effect": {"name": "AT+AWP minus AT", "value": -0.04, "low": -0.11, "high": 0.03, "unit": "nats"},
        },
    ]
    return [{**claim, **common} for claim in claims]


if __name__ == "__main__":
    print(write_study(Path(sys.argv[1]), claims=example_claims()))
