"""Five networks that are trained in seconds, for benches that attack with many attacks.

    python bench/tiny_networks.py [--folder robustlens-out/tiny-networks]

Two convolutions and two linear layers (26,650 parameters) on the 9,000 training images of the embedded
Fashion-MNIST: standard training, adversarial training at two strengths, the weaker one with BatchNorm, and
TRADES; Linf, PGD-5, seed 0. What is in the folder already is not trained again.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from torch import nn

import robustlens as rl
from robustlens import models
from robustlens.config import Recipe
from robustlens.models.layers import kaiming

FOLDER = Path("robustlens-out/tiny-networks")
METHODS: dict[str, tuple[str, float, bool]] = {
    "standard": ("standard", 0.0, False),
    "AT 0.03": ("at", 0.03, False),
    "AT 0.06": ("at", 0.06, False),
    "AT 0.03, BatchNorm": ("at", 0.03, True),
    "TRADES 0.06": ("trades", 0.06, False),
}
"""Networks by label: objective, eps, and whether there is BatchNorm."""


def tiny_cnn(*, num_classes: int, in_channels: int, batch_norm: bool = False) -> nn.Module:
    """A network for 28x28 images: 4x4 patches to 8 channels, 3x3 to 16, 32 hidden units."""
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, 8, 4, 4),
        "bn1": nn.BatchNorm2d(8) if batch_norm else nn.Identity(),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(8, 16, 3, padding=1),
        "bn2": nn.BatchNorm2d(16) if batch_norm else nn.Identity(),
        "relu2": nn.ReLU(),
        "flatten": nn.Flatten(),
        "linear1": nn.Linear(16 * 49, 32),
        "relu3": nn.ReLU(),
        "linear2": nn.Linear(32, num_classes),
    }
    kaiming(layers, "fan_in")
    return nn.Sequential(*layers.values())


def recipe(objective: str, eps: float, batch_norm: bool) -> Recipe:
    """How one of them is trained."""
    return Recipe.model_validate(
        {
            "data": {"name": "fashion-mnist-10k"},
            "model": {"name": "tiny_networks:tiny_cnn", "options": {"batch_norm": batch_norm}},
            "threat": {"norm": "Linf", "eps": eps},
            "objective": objective,
            "attack": {"steps": 5},
            "optimizer": {"lr": 0.05, "schedule": "one-cycle", "epochs": 6, "batch_size": 128},
            "monitor": {"examples": 100, "steps": 5},
            "seed": 0,
        }
    )


def trained(folder: Path = FOLDER, labels: Iterable[str] = METHODS) -> dict[str, nn.Module]:
    """Networks by label, in eval mode; those that `folder` lacks are trained first."""
    networks = {}
    for label in labels:
        objective, eps, batch_norm = METHODS[label]
        run = folder / "".join(sign if sign.isalnum() else "-" for sign in label.lower())
        if not (run / "best.safetensors").exists():
            rl.train(recipe(objective, eps, batch_norm), out=run)
        networks[label] = models.load(run, trust_code=True).eval()
    return networks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    test = rl.data.load("fashion-mnist-10k").test
    for label, network in trained(arguments.folder).items():
        right = float((network(test.x()).argmax(1) == test.labels).double().mean())
        print(f"{label}: {right:.1%} of {len(test.labels)} test images right")


if __name__ == "__main__":
    main()
