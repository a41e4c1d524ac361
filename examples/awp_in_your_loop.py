"""Adversarial weight perturbation in a plain PyTorch loop: the two lines are marked.

Run: python examples/awp_in_your_loop.py
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

import robustlens as rl


def main(images: int = 4000, epochs: int = 2) -> float:
    """Train a small CNN with AT and AWP; returns its robust accuracy on 200 test images."""
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=200)
    model = rl.models.get("small-cnn", num_classes=10, in_channels=1, mean=[0.29], std=[0.35])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    threat = rl.ThreatModel("Linf", eps=0.05)
    attack = rl.attacks.PGD(threat, steps=5, keep="last")

    awp = rl.AdversarialWeightPerturbation(
        model, gamma=5e-3
    )  # line one; 0.01 without warm-up holds this small network at chance
    for epoch in range(epochs):
        for rows in torch.randperm(len(splits.train)).split(64):
            x, y = splits.train.x(rows), splits.train.labels[rows]
            x_adv = attack(model, x, y, generator=torch.Generator().manual_seed(int(rows[0]) + epoch))

            def loss_fn(x_adv=x_adv, y=y) -> torch.Tensor:
                return F.cross_entropy(model(x_adv), y)

            optimizer.zero_grad()
            with awp.perturbed(loss_fn):  # line two: weights are at w + v inside
                loss_fn().backward()
            optimizer.step()  # weights are back at w, bit for bit

    evaluation = rl.evaluate(model, splits.test.x(), splits.test.labels, threat, attacks=["pgd-10"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    for flag in evaluation.flags:
        print(flag.name, flag.message)
    return evaluation.interval().value


if __name__ == "__main__":
    main()
