"""Evaluate and explain a model that you already have.

Run: python examples/evaluate_and_explain.py
"""

import torch
from torch import nn

import robustlens as rl


def my_model() -> nn.Module:
    """Stands for your own network: images (n, 1, 28, 28) in [0, 1] in, logits (n, 10) out."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 12, 10))


def main(examples: int = 200) -> dict[str, float]:
    """Robust accuracy, spectra, margins and the landscape of `my_model`."""
    model, threat = my_model(), rl.ThreatModel("Linf", eps=0.1)
    splits = rl.data.load("fashion-mnist-10k", test_limit=examples)
    x, y = splits.test.x(), splits.test.labels

    evaluation = rl.evaluate(model, x, y, threat, attacks="fast", curve=(0.25, 0.5, 1))
    for name in ("clean", *evaluation.by_attack):
        interval = evaluation.interval(name)
        print(f"{name:8s} {interval.value:6.1%}  [{interval.low:.1%}, {interval.high:.1%}]")

    for layer, singular_values in rl.explain.spectrum(model, input_shape=(1, 28, 28)).items():
        print(f"layer {layer}: largest {singular_values[0]:.2f}, std {singular_values.std():.3f}")
    margins = rl.explain.margins(model, x, y)
    print(f"margin: mean {margins['logit'].mean():.2f}, confidence {margins['confidence'].mean():.1%}")
    landscape = rl.explain.landscape(model, x, y, threat, alphas=(-0.5, 0.5), steps=3)
    print(
        "adversarial loss at alpha",
        dict(zip(landscape["alpha"], landscape["loss"].mean((1, 2)), strict=True)),
    )
    return {"robust": evaluation.interval().value, "confidence": float(margins["confidence"].mean())}


if __name__ == "__main__":
    main()
