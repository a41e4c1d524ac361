"""Networks that were never trained: logits per image drawn from a story, and what is measured of them.

The generator is seeded, so a network is the same however often it is made; the images are the same for all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

EPS = 0.1
ATTACKS = {"fgsm": 1.25, "pgd-20": 1.0, "cw-20": 0.94}
"""How much further than PGD-20 must move an image each attack would have to: its weakness."""
SUITE = {"apgd-ce": 0.96, "apgd-t": 0.9, "fab-t": 0.9, "square": 1.2}
"""The same for the attacks of the standard suite."""
SEARCH = {"min-norm": 0.88}
REACH = 2 * EPS
"""How far the minimum-norm search looks."""
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


def images_of(rng_seed: int, split: str, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([rng_seed, 7, len(split)])
    return {
        "index": np.sort(rng.choice(10 * n, n, replace=False)).astype(np.int64),
        "labels": rng.integers(0, CLASSES, n),
        # The same spread of difficulty in both splits: what differs is what training did, not the draw.
        "ease": norm.ppf((rng.permutation(n) + 0.5) / n),
    }


def network(
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
    found = outputs(logits, images["labels"])
    found["radius"] = found["margin_logit"] / story.slope * np.exp(0.1 * own.standard_normal(n))
    return found


def outputs(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
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


def wilson(successes: int, n: int) -> dict[str, float]:
    """Wilson's 95 % interval of a rate."""
    z = 1.959963984540054
    rate = successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": rate, "low": max(0.0, float(middle - half)), "high": min(1.0, float(middle + half))}


def rate(mask: np.ndarray) -> dict[str, float]:
    return wilson(int(mask.sum()), len(mask))


def mean(values: np.ndarray) -> dict[str, float]:
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values))
    return {"value": float(values.mean()), "low": values.mean() - half, "high": values.mean() + half}


def difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Mean of `a` minus mean of `b`, with the normal interval for independent samples."""
    a, b = a.astype(float), b.astype(float)
    value = float(a.mean() - b.mean())
    half = 1.96 * float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return {"value": value, "low": value - half, "high": value + half}


def spread(values: np.ndarray) -> dict[str, float]:
    mean, std = float(values.mean()), float(values.std())
    return {"mean": mean, "std": std, "std_over_mean": std / mean}


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that fits best, by search."""
    found = minimize_scalar(lambda t: outputs(logits / np.exp(t), labels)["loss"].mean(), bounds=(-5, 5))
    return float(np.exp(found.x))


def margins(
    arrays: dict[str, np.ndarray],
    images: dict[str, dict[str, np.ndarray]],
    nets: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any]:
    temperature = temperature_of(nets["test"]["logits"], images["test"]["labels"])
    arrays["margins/temperature"] = np.array([temperature])
    found: dict[str, Any] = {"matched": {"temperature": temperature}}
    for split, net in nets.items():
        calm = outputs(net["logits"] / temperature, images[split]["labels"])
        arrays |= {
            f"margins/{split}_label": images[split]["labels"].astype(np.int64),
            f"margins/{split}_loss": net["loss"].astype(np.float32),
            f"margins/{split}_matched_logit": calm["margin_logit"].astype(np.float32),
            f"margins/{split}_matched_probability": calm["margin_probability"].astype(np.float32),
            f"margins/{split}_matched_confidence": calm["confidence"].astype(np.float32),
            f"margins/{split}_matched_loss": calm["loss"].astype(np.float32),
        }
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


def smoothness(
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
    after = outputs(attacked, labels)
    temperature = temperature_of(net["logits"], labels)
    calm, calm_after = (outputs(logits / temperature, labels) for logits in (net["logits"], attacked))
    changes = {
        "margin": net["margin_logit"] - after["margin_logit"],
        "probability": net["margin_probability"] - after["margin_probability"],
        "confidence": net["confidence"] - after["confidence"],
        "matched_probability": calm["margin_probability"] - calm_after["margin_probability"],
        "matched_confidence": calm["confidence"] - calm_after["confidence"],
    }
    values: dict[str, Any] = {"eps": EPS, "steps": 10, "layers": {}}
    for kind, gain in (("attack", 1.0), ("noise", 0.2)):
        size = np.full(len(labels), 0.15)
        arrays[f"smoothness/{kind}_input"] = size.astype(np.float32)
        for depth, layer in enumerate(LAYERS):
            ratio = (
                gain
                * size
                * (1 + 0.1 * depth)
                * story.slope**0.3
                * np.exp(0.2 * own.standard_normal(len(labels)))
            )
            arrays[f"smoothness/{kind}/{layer}"] = ratio.astype(np.float32)
            means = {kind: float(ratio.mean()), f"{kind}_amplification": float((ratio / size).mean())}
            values["layers"].setdefault(layer, {}).update(means)
    arrays["smoothness/index"] = images["index"]
    for name, change in changes.items():
        arrays[f"smoothness/{name}_change"] = change.astype(np.float32)
        values |= {
            f"mean_{name}_change": float(change.mean()),
            f"std_{name}_change": float(change.std()),
        }
    return values


def landscape(
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


def epochs_of(
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
