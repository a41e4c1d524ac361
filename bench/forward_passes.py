"""Do running statistics tell which forward pass trained a network, and whether its images were normalised?

    python bench/forward_passes.py [--epochs 4] [--images 3000] [--seeds 2] [--robust]

Trains small networks on Fashion-MNIST in each of the forms that share their tensors, on raw or on normalised
images, and gives their bare state dicts to `models.load` after each epoch without a word about either. Prints
a Markdown table: "right", or what the loader asks for. `--robust` trains on PGD-2 examples at eps 0.1. Exit 1
if it ever took one form for another.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

import robustlens as rl
from robustlens.errors import ModelError
from robustlens.models.wide_resnet import wide_resnet

MEAN, STD = 0.286, 0.353
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("preactresnet18", {"width": 8, "raw_shortcut": False}),
    ("preactresnet18", {"width": 8, "raw_shortcut": True}),
    ("resnet8", {"centred": False}),
    ("resnet8", {"centred": True}),
    ("wrn-28-10", {"activation": "relu"}),
    ("wrn-28-10", {"activation": "silu"}),
]


def small_wide(**options: Any) -> dict[str, nn.Module]:
    """Takes the place of WRN-28-10, which is too large for this."""
    return wide_resnet(10, 2, **options)


def train(
    model: nn.Module, x: Tensor, y: Tensor, epochs: int, attack: rl.attacks.PGD | None, seed: int
) -> Any:
    """SGD with a linear decay; gives the model after each epoch."""
    steps = epochs * -(-len(x) // 128)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(x), generator=generator).split(128):
            batch = x[rows] if attack is None else attack(model, x[rows], y[rows])
            model.train()
            loss = F.cross_entropy(model(batch), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch, model.eval()


def verdict(state: dict[str, Tensor], name: str, options: dict[str, Any], normalised: bool) -> str:
    """What the loader makes of a bare state dict: "right", "WRONG", or what it asks for."""
    option = next(key for key in options if key != "width")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.pt"
        torch.save(state, path)
        try:
            rl.models.load(path)
            found = "no normalisation"
        except ModelError as error:
            found = "normalisation" if "no pixels" in str(error) else "asks"
        if found == ("no normalisation" if normalised else "normalisation"):
            return "WRONG"
        given: dict[str, Any] = (
            {"mean": [MEAN], "std": [STD]} if normalised else {"mean": [0.0], "std": [1.0]}
        )
        try:
            model = rl.models.load(path, **given)
        except ModelError:
            return "asks"
    expected = rl.models.get(name, num_classes=10, in_channels=1, **given, **options).eval()
    expected.load_state_dict(model.state_dict())
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        same = torch.equal(model(x), expected(x))
    if not same:
        return "WRONG"
    return "right" if found != "asks" else f"right about {option}, asks for mean and std"


def main() -> None:
    """Train, load, compare; one row per form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--robust", action="store_true")
    chosen = parser.parse_args()
    rl.models.MODELS["wrn-28-10"] = small_wide
    split = rl.data.load("fashion-mnist-10k", train_limit=chosen.images).train
    x, y = split.x(), split.labels
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", eps=0.1), steps=2) if chosen.robust else None
    print(
        "| architecture | form | images | seed |",
        " | ".join(f"epoch {k + 1}" for k in range(chosen.epochs)),
        "|",
    )
    print("|---" * (4 + chosen.epochs) + "|")
    wrong = False
    for number, (name, options) in enumerate(FORMS):
        for seed in range(chosen.seeds):
            normalised = bool((number + seed) % 2)
            torch.manual_seed(seed)
            given = {"mean": [MEAN], "std": [STD]} if normalised else {}
            model = rl.models.get(name, num_classes=10, in_channels=1, **given, **options)
            row = []
            for _, trained in train(model, x, y, chosen.epochs, attack, seed):
                bare = {k: t for k, t in trained.state_dict().items() if not k.startswith("normalize")}
                row.append(verdict(bare, name, options, normalised))
            wrong |= "WRONG" in row
            form = ", ".join(f"{k}={v}" for k, v in options.items() if k != "width")
            print(
                f"| {name} | {form} | {'normalised' if normalised else 'raw'} | {seed} |",
                " | ".join(row),
                "|",
                flush=True,
            )
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
