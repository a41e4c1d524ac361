"""A realistic study folder without training anything: what the report and the claims are tested on.

Every number comes from a seeded generator and a small story of what strength does to a network (`Story`):
logits are drawn per image, and accuracy, margins, losses, attacks and changes under attack all follow from
the same logits, so the files agree with one another as a real study's do. `reverse=True` tells it backwards.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from robustlens.recipe import (
    AWPSpec,
    EvaluationPlan,
    ExplanationPlan,
    OptimizerSpec,
    Recipe,
    ThreatSpec,
)
from robustlens.runs import Run, write_json

EPS = 0.1
ATTACKS = {"fgsm": 1.25, "pgd-20": 1.0, "cw-20": 0.94}
"""How much further than PGD-20 must move an image each attack would have to: its weakness."""
LAYERS = {"conv1": 9 * 196, "conv2": 16 * 196, "conv3": 32 * 49, "conv4": 32 * 49, "fc1": 128, "fc2": 10}
"""Layers of the small CNN and how many singular values each has here."""
TAUS = (0.1, 0.2, 0.3, 0.4, 0.5)
ALPHA = np.linspace(-1, 1, 11)
DRAWS = 2
CLASSES = 10


@dataclass(frozen=True)
class Member:
    """One method at one strength."""

    method: str
    objective: str
    eps: float
    awp: bool = False

    @property
    def label(self) -> str:
        """As the study shows it."""
        return self.method if self.eps == 0 else f"{self.method} {self.eps:g}"


@dataclass(frozen=True)
class Story:
    """What training did to one network; all the files follow from these numbers."""

    scale: float
    """Typical logit margin."""
    centre: float
    """Mean margin on test images, in units of `scale`."""
    centre_train: float
    """The same on training images: their difference is the overfitting."""
    slope: float
    """Loss of margin per unit of eps under attack."""
    spread: float
    """std/mean of singular values and of activation norms."""
    curvature: float
    """Rise of the adversarial loss at alpha = 1."""


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
            write_run(folder / "runs" / name, member, story, seed, n=n, epochs=epochs, rng_seed=rng_seed)
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
    images = {split: _images(rng_seed, split, n) for split in ("train", "test")}
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
    nets = {split: _network(story, images[split], split, own) for split in images}
    _write_evaluation(run, recipe, story, images, nets, own)
    _write_explanation(run, recipe, story, images, nets, own)
    final = {
        split: (float(nets[split]["correct"].mean()), float((nets[split]["radius"] > member.eps).mean()))
        for split in nets
    }
    for epoch in _epochs(final, epochs, member, own):
        run.append_metrics(epoch)
    environment = {"torch": "2.13.0+cpu", "python": "3.11.2", "device": "cpu"}
    run.update_status(
        status="done",
        epochs_done=epochs,
        train_seconds=sum(epoch["seconds"] for epoch in run.metrics()),
        environment=environment,
    )
    return run


# -- one network on fixed images -----------------------------------------------------------------------


def _images(rng_seed: int, split: str, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([rng_seed, 7, len(split)])
    return {
        "index": np.sort(rng.choice(10 * n, n, replace=False)).astype(np.int64),
        "labels": rng.integers(0, CLASSES, n),
        # The same spread of difficulty in both splits: what differs is what training did, not the draw.
        "ease": norm.ppf((rng.permutation(n) + 0.5) / n),
    }


def _network(
    story: Story, images: dict[str, np.ndarray], split: str, own: np.random.Generator
) -> dict[str, np.ndarray]:
    """Logits, and everything that follows from them."""
    n = len(images["labels"])
    centre = story.centre_train if split == "train" else story.centre
    margin = story.scale * (centre + 0.95 * images["ease"] + 0.3 * own.standard_normal(n))
    others = 0.25 * story.scale * own.standard_normal((n, CLASSES))
    rows = np.arange(n)
    others[rows, images["labels"]] = -np.inf
    logits = others.copy()
    logits[rows, images["labels"]] = others.max(1) + margin
    found = _measures(logits, images["labels"])
    found["radius"] = found["margin_logit"] / story.slope * np.exp(0.1 * own.standard_normal(n))
    return found


def _measures(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.arange(len(labels))
    shifted = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    found: dict[str, np.ndarray] = {"logits": logits, "confidence": probabilities.max(1)}
    for name, values in (("logit", logits), ("probability", probabilities)):
        rest = values.copy()
        rest[rows, labels] = -np.inf
        found[f"margin_{name}"] = values[rows, labels] - rest.max(1)
    found["correct"] = logits.argmax(1) == labels
    found["predictions"] = logits.argmax(1)
    found["loss"] = np.log(np.exp(shifted).sum(1)) - shifted[rows, labels]
    return found


# -- the files -----------------------------------------------------------------------------------------


def wilson(successes: int, n: int) -> dict[str, float]:
    """Wilson's 95 % interval of a rate."""
    z = 1.959963984540054
    rate = successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": rate, "low": max(0.0, float(middle - half)), "high": min(1.0, float(middle + half))}


def _rate(mask: np.ndarray) -> dict[str, float]:
    return wilson(int(mask.sum()), len(mask))


def _mean(values: np.ndarray) -> dict[str, float]:
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values))
    return {"value": float(values.mean()), "low": values.mean() - half, "high": values.mean() + half}


def _difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Mean of `a` minus mean of `b`, with the normal interval for independent samples."""
    a, b = a.astype(float), b.astype(float)
    value = float(a.mean() - b.mean())
    half = 1.96 * float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return {"value": value, "low": value - half, "high": value + half}


def _write_evaluation(
    run: Run,
    recipe: Recipe,
    story: Story,
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
            "clean": _rate(net["correct"]),
            "by_attack": {attack: _rate(arrays[f"{split}/{attack}"]) for attack in ATTACKS},
            "robust": _rate(right),
            "loss": _mean(net["loss"]),
            "curve": [
                {"eps": float(eps), **_rate(mask)}
                for eps, mask in zip(radii, arrays[f"{split}/curve"], strict=True)
            ],
            "flags": [],
        }
    gaps = {
        "error": _difference(~arrays["test/clean"], ~arrays["train/clean"]),
        "loss": _difference(arrays["test/loss"], arrays["train/loss"]),
        "robust": _difference(arrays["train/pgd-20"], arrays["test/pgd-20"]),
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
            **_spread(sigma),
            "max": float(sigma.max()),
            "min": float(sigma.min()),
            "count": count,
            "shape": f"{count} values",
        }
        values["activations"]["layers"][layer] = _spread(norms)
    values["margins"] = _margins(arrays, images, nets)
    values["smoothness"] = _smoothness(arrays, story, images["test"], nets["test"], own)
    values["landscape"] = _landscape(arrays, story, nets, own)
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


def _spread(values: np.ndarray) -> dict[str, float]:
    mean, std = float(values.mean()), float(values.std())
    return {"mean": mean, "std": std, "std_over_mean": std / mean}


def _margins(
    arrays: dict[str, np.ndarray],
    images: dict[str, dict[str, np.ndarray]],
    nets: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split, net in nets.items():
        logit, probability, wrong = net["margin_logit"], net["margin_probability"], ~net["correct"]
        arrays |= {
            f"margins/{split}_logit": logit.astype(np.float32),
            f"margins/{split}_probability": probability.astype(np.float32),
            f"margins/{split}_confidence": net["confidence"].astype(np.float32),
            f"margins/{split}_correct": net["correct"],
            f"margins/{split}_index": images[split]["index"],
        }
        indecisive = {str(tau): float((wrong & (-probability < tau)).mean()) for tau in TAUS}
        found[split] = {
            "mean_logit": float(logit.mean()),
            "std_logit": float(logit.std()),
            "iqr_logit": float(np.subtract(*np.quantile(logit, [0.75, 0.25]))),
            "mean_probability": float(probability.mean()),
            "std_probability": float(probability.std()),
            "within": {str(tau): float((np.abs(probability) < tau).mean()) for tau in TAUS},
            "confidence": float(net["confidence"].mean()),
            "error": float(wrong.mean()),
            "indecisive_errors": indecisive,
            "indecisive_share": {tau: share / max(wrong.mean(), 1e-9) for tau, share in indecisive.items()},
        }
    found["wasserstein_train_test"] = {
        kind: float(
            np.abs(np.sort(nets["train"][f"margin_{kind}"]) - np.sort(nets["test"][f"margin_{kind}"])).mean()
        )
        for kind in ("logit", "probability")
    }
    return found


def _smoothness(
    arrays: dict[str, np.ndarray],
    story: Story,
    images: dict[str, np.ndarray],
    net: dict[str, np.ndarray],
    own: np.random.Generator,
) -> dict[str, Any]:
    labels = images["labels"]
    rows = np.arange(len(labels))
    lost = story.slope * EPS * np.exp(0.2 * own.standard_normal(len(labels)))
    attacked = net["logits"].copy()
    rival = np.where(np.arange(CLASSES) == labels[:, None], -np.inf, attacked).argmax(1)
    attacked[rows, labels] -= lost / 2
    attacked[rows, rival] += lost / 2
    after = _measures(attacked, labels)
    changes = {
        "margin": net["margin_logit"] - after["margin_logit"],
        "probability": net["margin_probability"] - after["margin_probability"],
        "confidence": net["confidence"] - after["confidence"],
    }
    values: dict[str, Any] = {"eps": EPS, "steps": 10}
    arrays["smoothness/index"] = images["index"]
    for name, change in changes.items():
        arrays[f"smoothness/{name}_change"] = change.astype(np.float32)
        values |= {
            f"mean_{name}_change": float(change.mean()),
            f"std_{name}_change": float(change.std()),
        }
    return values


def _landscape(
    arrays: dict[str, np.ndarray],
    story: Story,
    nets: dict[str, dict[str, np.ndarray]],
    own: np.random.Generator,
) -> dict[str, Any]:
    arrays["landscape/alpha"] = ALPHA
    for split, net in nets.items():
        n = len(net["loss"])
        drop = story.slope * EPS
        base = np.log1p(np.exp(np.clip(drop - net["margin_logit"], -30, 30)))
        steep = np.exp(0.2 * own.standard_normal((DRAWS, n)) + 0.1 * own.standard_normal((DRAWS, 1)))
        rise = story.curvature * ALPHA[:, None, None] ** 2 * steep
        loss = base + rise
        arrays |= {
            f"landscape/{split}_loss": loss.astype(np.float32),
            f"landscape/{split}_matched": (0.4 * loss + 0.5).astype(np.float32),
            f"landscape/{split}_error": net["margin_logit"] - drop < story.scale * 0.4 * rise,
        }
    middle = len(ALPHA) // 2
    found: dict[str, Any] = {}
    for name, key in (("rise", "loss"), ("matched_rise", "matched"), ("error_rise", "error")):
        means = arrays[f"landscape/test_{key}"].astype(float).mean((1, 2))
        found[name] = {
            str(alpha): float(
                (np.interp(alpha, ALPHA, means) + np.interp(-alpha, ALPHA, means)) / 2 - means[middle]
            )
            for alpha in (0.25, 0.5, 1)
        }
    return found


def _epochs(
    final: dict[str, tuple[float, float]], epochs: int, member: Member, own: np.random.Generator
) -> list[dict[str, Any]]:
    cost = 2.0 if member.eps == 0 else 9.0 + 0.8 * member.awp + 2.0 * (member.objective == "trades")
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        done = 1 - np.exp(-4 * epoch / epochs)
        noise = 0.01 * own.standard_normal(4)
        rates = [
            {
                "n": 512,
                "clean": float(np.clip(final[split][0] * done + noise[2 * i], 0, 1)),
                "robust": float(np.clip(final[split][1] * done + noise[2 * i + 1], 0, 1)),
            }
            for i, split in enumerate(("train", "test"))
        ]
        lines.append(
            {
                "epoch": epoch,
                "lr": float(0.1 * np.sin(np.pi * epoch / (epochs + 1))),
                "seconds": float(cost + 0.2 * own.random()),
                "loss": float(2.3 * (1 - 0.8 * done)),
                "awp": member.awp and epoch > 1,
                "train": {**rates[0], "measured": "at w, eval mode, no augmentation"},
                "validation": rates[1],
                "best": False,
            }
        )
    best = -1.0
    for line in lines:
        score = line["validation"]["robust"] if member.eps else line["validation"]["clean"]
        line["best"], best = score > best, max(best, score)
    return lines


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


def main() -> None:
    """Write an example study into the folder named on the command line."""
    import sys

    print(json.dumps(str(write_study(Path(sys.argv[1]), claims=example_claims()))))


if __name__ == "__main__":
    main()
