"""1-D signals: a convolutional network on (n, channels, time), trained, attacked and explained.

The signals are outlines of garments: how bright each row (one channel) and each column (another) is.

Run: python examples/robust_signals.py
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl


def outlines(images: torch.Tensor) -> torch.Tensor:
    """Mean brightness of rows and of columns of images (n, 1, 28, 28): signals (n, 2, 28) in [0, 1]."""
    return torch.stack([images[:, 0].mean(2), images[:, 0].mean(1)], dim=1)


def main(images: int = 4000, epochs: int = 6) -> float:
    """Train on signals and attack them; returns the robust accuracy on 300 test signals."""
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=300)
    x, y = outlines(splits.train.x()), splits.train.labels
    model = nn.Sequential(
        nn.Conv1d(2, 32, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 14, 10),
    )
    threat = rl.ThreatModel("Linf", eps=0.02)
    attack = rl.attacks.PGD(threat, steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(model, gamma=5e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(64):
            x_adv = attack(model, x[rows], y[rows])

            def loss_fn(x_adv: torch.Tensor = x_adv, rows: torch.Tensor = rows) -> torch.Tensor:
                return F.cross_entropy(model(x_adv), y[rows])

            optimizer.zero_grad()
            with awp.perturbed(loss_fn):
                loss_fn().backward()
            optimizer.step()

    test, labels = outlines(splits.test.x()), splits.test.labels
    evaluation = rl.evaluate(model, test, labels, threat, attacks=["pgd-20", "apgd-ce"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    for flag in evaluation.flags:
        print(flag.name, flag.message)
    for layer, values in rl.explain.spectrum(model, input_shape=(2, 28)).items():
        print(f"{layer}: largest singular value {values.max():.2f}, spread {values.std():.2f}")
    return evaluation.interval().value


if __name__ == "__main__":
    main()
