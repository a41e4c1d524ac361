"""Measures of networks that were never trained: `explained` makes those of the default plan."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.made_networks import CLASSES, EPS, LAYERS, Arrays, Traits, outputs, temperature_of
from robustlens.results import Measurement

TAUS = (0.1, 0.2, 0.3, 0.4, 0.5)
ALPHA = np.linspace(-1, 1, 11)
DRAWS = 2
SECONDS = 1.5

Splits = Mapping[str, Arrays]


def explained(
    traits: Traits, images: Splits, nets: Splits, rng: np.random.Generator
) -> dict[str, Measurement]:
    """The measures of the default plan, by name."""
    spectrum, activations = layers(traits, images["test"], rng)
    return {
        "spectrum": spectrum,
        "activations": activations,
        "margins": margins(images, nets),
        "smoothness": smoothness(traits, images["test"], nets["test"], rng),
        "gallery": gallery(traits),
        "landscape": landscape(traits, nets, rng),
    }


def layers(traits: Traits, images: Arrays, rng: np.random.Generator) -> tuple[Measurement, Measurement]:
    """Singular values, and activation norms of the images, of every layer."""
    n = len(images["labels"])
    sigmas: Arrays = {}
    norms: Arrays = {}
    for depth, (layer, count) in enumerate(LAYERS.items()):
        raw = np.sort(np.abs(1 + traits.spread * rng.standard_normal(count)))[::-1]
        sigmas[layer] = raw * (1.5 - 0.1 * depth)
        norms[layer] = np.abs(1 + 0.6 * traits.spread * rng.standard_normal(n)) * traits.scale * (depth + 2)
    extremes = {
        layer: {
            **spread(sigma),
            "max": float(sigma.max()),
            "min": float(sigma.min()),
            "count": len(sigma),
            "shape": f"{len(sigma)} values",
        }
        for layer, sigma in sigmas.items()
    }
    return (
        Measurement(
            {"layers": extremes},
            "",
            "Singular values of every layer (circular FFT).",
            "Sedghi et al. 2019",
            seconds=SECONDS,
            arrays=sigmas,
        ),
        Measurement(
            {"layers": {layer: spread(values) for layer, values in norms.items()}},
            "L2 norm",
            "Norms of every layer's output on test images.",
            "Wen et al. 2020, section 4",
            seconds=SECONDS,
            arrays=_activation_arrays(norms, images),
        ),
    )


def _activation_arrays(norms: Arrays, images: Arrays) -> Arrays:
    """What the layers read and what the non-linearities before them wrote, alike here, and the labels."""
    single = {layer: values.astype(np.float32) for layer, values in norms.items()}
    written = {f"post-activation/{layer}": values for layer, values in single.items()}
    logits = next(reversed(single.values())) / 2
    return {**single, **written, "logits": logits, "label": images["labels"], "index": images["index"]}


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation and their ratio."""
    mean, std = float(values.mean()), float(values.std())
    return {"mean": mean, "std": std, "std_over_mean": std / mean}


def margins(images: Splits, nets: Splits) -> Measurement:
    """Margins and confidence of both splits, as they are and at matched temperature."""
    temperature = temperature_of(nets["test"]["logits"], images["test"]["labels"])
    arrays: Arrays = {"temperature": np.array([temperature])}
    value: dict[str, Any] = {"matched": {"temperature": temperature}}
    for split, net in nets.items():
        arrays |= _margin_arrays(split, net, images[split], temperature)
        value[split] = _margin_numbers(net)
    value["wasserstein_train_test"] = {
        kind: float(
            np.abs(np.sort(nets["train"][f"margin_{kind}"]) - np.sort(nets["test"][f"margin_{kind}"])).mean()
        )
        for kind in ("logit", "probability")
    }
    return Measurement(
        value,
        "logits, probability",
        "Margins, confidence and indecisive errors.",
        "Wen et al. 2020",
        seconds=SECONDS,
        arrays=arrays,
    )


def _margin_arrays(split: str, net: Arrays, images: Arrays, temperature: float) -> Arrays:
    matched = outputs(net["logits"] / temperature, images["labels"])
    return {
        f"{split}_label": images["labels"].astype(np.int64),
        f"{split}_loss": net["loss"].astype(np.float32),
        f"{split}_matched_logit": matched["margin_logit"].astype(np.float32),
        f"{split}_matched_probability": matched["margin_probability"].astype(np.float32),
        f"{split}_matched_confidence": matched["confidence"].astype(np.float32),
        f"{split}_matched_loss": matched["loss"].astype(np.float32),
        f"{split}_logit": net["margin_logit"].astype(np.float32),
        f"{split}_probability": net["margin_probability"].astype(np.float32),
        f"{split}_confidence": net["confidence"].astype(np.float32),
        f"{split}_correct": net["correct"],
        f"{split}_index": images["index"],
    }


def _margin_numbers(net: Arrays) -> dict[str, Any]:
    logit, probability, wrong = net["margin_logit"], net["margin_probability"], ~net["correct"]
    indecisive = {str(tau): float((wrong & (-probability < tau)).mean()) for tau in TAUS}
    return {
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


def smoothness(traits: Traits, images: Arrays, net: Arrays, rng: np.random.Generator) -> Measurement:
    """Change of outputs and of features under one fixed perturbation."""
    labels = images["labels"]
    rows = np.arange(len(labels))
    lost = traits.slope * EPS * np.exp(0.2 * rng.standard_normal(len(labels)))
    attacked = net["logits"].copy()
    rival = np.where(np.arange(CLASSES) == labels[:, None], -np.inf, attacked).argmax(1)
    attacked[rows, labels] -= lost / 2
    attacked[rows, rival] += lost / 2
    after = outputs(attacked, labels)
    temperature = temperature_of(net["logits"], labels)
    matched, matched_after = (outputs(logits / temperature, labels) for logits in (net["logits"], attacked))
    changes = {
        "margin": net["margin_logit"] - after["margin_logit"],
        "probability": net["margin_probability"] - after["margin_probability"],
        "confidence": net["confidence"] - after["confidence"],
        "matched_probability": matched["margin_probability"] - matched_after["margin_probability"],
        "matched_confidence": matched["confidence"] - matched_after["confidence"],
    }
    conditions = {"eps": EPS, "steps": 10}
    arrays, by_layer = _feature_changes(traits, len(labels), rng)
    value: dict[str, Any] = {**conditions, "layers": by_layer}
    arrays["index"] = images["index"]
    for name, change in changes.items():
        arrays[f"{name}_change"] = change.astype(np.float32)
        value |= {f"mean_{name}_change": float(change.mean()), f"std_{name}_change": float(change.std())}
    return Measurement(
        value,
        "logits, probability",
        "Change of the margin under a fixed PGD.",
        "Wen et al. 2020",
        conditions,
        SECONDS,
        arrays,
    )


def _feature_changes(
    traits: Traits, n: int, rng: np.random.Generator
) -> tuple[Arrays, dict[str, dict[str, float]]]:
    """Relative changes of what every layer reads, image by image, and their means."""
    arrays: Arrays = {}
    by_layer: dict[str, dict[str, float]] = {}
    for kind, gain in (("attack", 1.0), ("noise", 0.2)):
        size = np.full(n, 0.15)
        arrays[f"{kind}_input"] = size.astype(np.float32)
        for depth, layer in enumerate(LAYERS):
            noise = np.exp(0.2 * rng.standard_normal(n))
            ratio = gain * size * (1 + 0.1 * depth) * traits.slope**0.3 * noise
            arrays[f"{kind}/{layer}"] = ratio.astype(np.float32)
            means = {kind: float(ratio.mean()), f"{kind}_amplification": float((ratio / size).mean())}
            by_layer.setdefault(layer, {}).update(means)
    return arrays, by_layer


def landscape(traits: Traits, nets: Splits, rng: np.random.Generator) -> Measurement:
    """Adversarial loss along random directions in weight space: (alphas, draws, images)."""
    arrays: Arrays = {"alpha": ALPHA}
    for split, net in nets.items():
        n = len(net["loss"])
        drop = traits.slope * EPS
        base = np.log1p(np.exp(np.clip(drop - net["margin_logit"], -30, 30)))
        steep = np.exp(0.2 * rng.standard_normal((DRAWS, n)) + 0.1 * rng.standard_normal((DRAWS, 1)))
        rise = traits.curvature * ALPHA[:, None, None] ** 2 * steep
        loss = base + rise
        arrays |= {
            f"{split}_loss": loss.astype(np.float32),
            f"{split}_matched": (0.4 * loss + 0.5).astype(np.float32),
            f"{split}_error": net["margin_logit"] - drop < traits.scale * 0.4 * rise,
        }
    value = {
        name: _rises(arrays[f"test_{key}"])
        for name, key in (("rise", "loss"), ("matched_rise", "matched"), ("error_rise", "error"))
    }
    return Measurement(
        value,
        "nats",
        "Adversarial weight-loss landscape, attacked anew.",
        "Wu et al. 2020, section 3",
        seconds=SECONDS,
        arrays=arrays,
    )


def gallery(traits: Traits, n: int = 4, shape: tuple[int, ...] = (1, 8, 8)) -> Measurement:
    """The same noise for every network, and adversarial images that all of them are wrong on."""
    names = [f"class {number}" for number in range(n)]
    images = np.random.default_rng(5).random((n, *shape))
    sign = np.sign(np.random.default_rng(round(1e6 * traits.scale)).standard_normal((n, *shape)))
    moved = np.clip(images + EPS * sign, 0, 1)
    labels = np.arange(n)
    confidence = np.full(n, 1 / (1 + np.exp(-traits.scale)), np.float32)
    arrays: Arrays = {
        "x": images.astype(np.float32),
        "x_adv": moved.astype(np.float32),
        "gradient": sign.astype(np.float16),
        "label": labels,
        "prediction": labels,
        "adversarial_prediction": (labels + 1) % n,
        "confidence": confidence,
        "adversarial_confidence": confidence / 2,
        "index": 10 * labels,
    }
    return Measurement(
        {
            "right": n,
            "right_under_attack": 0,
            "labels": names,
            "predictions": names,
            "adversarial_predictions": [*names[1:], names[0]],
        },
        "images",
        "A few test images, attacked.",
        "Tsipras et al. 2019",
        {"split": "test", "examples": n, "eps": EPS, "steps": 20},
        SECONDS,
        {f"test_{name}": array for name, array in arrays.items()},
    )


def _rises(heights: np.ndarray) -> dict[str, float]:
    """Mean height at either side of alpha = 0, over that at 0."""
    means = heights.astype(float).mean((1, 2))
    middle = means[len(ALPHA) // 2]
    return {
        str(alpha): float((np.interp(alpha, ALPHA, means) + np.interp(-alpha, ALPHA, means)) / 2 - middle)
        for alpha in (0.25, 0.5, 1)
    }
