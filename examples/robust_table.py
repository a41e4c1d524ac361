"""Tabular data: a multilayer perceptron on a few numbers an example, each with a unit of its own.

The numbers are measured from pictures of garments: area, height, width and so on. One radius serves all
columns once each is in its own standard deviation, and the network undoes nothing: it sees what is attacked.

Run: python examples/robust_table.py
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl


def measured(images: torch.Tensor) -> torch.Tensor:
    """Eight numbers an image (n, 1, 28, 28): brightness, contrast, area, height, width, centre, symmetry."""
    pixels = images[:, 0]
    rows, columns = pixels.mean(2), pixels.mean(1)
    place = torch.arange(28.0)
    mass = pixels.sum((1, 2)) + 1e-6
    return torch.stack(
        [
            pixels.mean((1, 2)),
            pixels.std((1, 2)),
            (pixels > 0.1).float().mean((1, 2)),
            (rows > 0.05).float().sum(1),
            (columns > 0.05).float().sum(1),
            (pixels.sum(2) * place).sum(1) / mass,
            (pixels.sum(1) * place).sum(1) / mass,
            (pixels - pixels.flip(2)).abs().mean((1, 2)),
        ],
        dim=1,
    )


def main(images: int = 4000, epochs: int = 10) -> float:
    """Train on the table and attack it; returns the robust accuracy on 300 test rows."""
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=300)
    table, y = measured(splits.train.x()), splits.train.labels
    mean, unit = table.mean(0), table.std(0)
    x = ((table - mean) / unit).clamp(-5, 5)
    test = ((measured(splits.test.x()) - mean) / unit).clamp(-5, 5)

    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    threat = rl.ThreatModel("Linf", eps=0.1, bounds=(-5.0, 5.0))  # a tenth of a standard deviation each
    attack = rl.attacks.PGD(threat, steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(model, gamma=5e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(64):
            x_adv = attack(model, x[rows], y[rows])

            def loss_fn(x_adv: torch.Tensor = x_adv, rows: torch.Tensor = rows) -> torch.Tensor:
                return F.cross_entropy(model(x_adv), y[rows])

            optimizer.zero_grad()
            with awp.perturbed(loss_fn):
                loss_fn().backward()
            optimizer.step()

    evaluation = rl.evaluate(model, test, splits.test.labels, threat, attacks=["pgd-20", "apgd-ce"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    for flag in evaluation.flags:
        print(flag.name, flag.message)
    return evaluation.interval().value


if __name__ == "__main__":
    main()
