"""Adversarial weight perturbation in a Lightning Fabric loop, on one device or on several alike.

Run: python examples/awp_with_fabric.py, or on two devices: fabric run --devices 2 examples/awp_with_fabric.py
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from lightning_fabric import Fabric

import robustlens as rl


def main(images: int = 4000, epochs: int = 2, batch_size: int = 64) -> float:
    """Train a small CNN with AT and AWP; returns its robust accuracy on 200 test images."""
    fabric = Fabric()
    torch.manual_seed(0)  # the same weights on every rank
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=200)
    network = rl.models.get("small-cnn", num_classes=10, in_channels=1, mean=[0.29], std=[0.35])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    model, optimizer = fabric.setup(network, optimizer)
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", eps=0.05), steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(network, gamma=5e-3)

    for epoch in range(epochs):
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(epoch))
        for step, batch in enumerate(order.split(batch_size)):
            rows = batch[fabric.global_rank :: fabric.world_size]
            x = splits.train.x(rows).to(fabric.device)
            y = splits.train.labels[rows].to(fabric.device)
            x_adv = attack(network, x, y, generator=torch.Generator().manual_seed(step))

            # The ascent looks at the bare network: AWP averages over the ranks by itself.
            def climbed(x_adv: torch.Tensor = x_adv, y: torch.Tensor = y) -> torch.Tensor:
                return F.cross_entropy(network(x_adv), y)

            optimizer.zero_grad()
            with awp.perturbed(climbed):
                fabric.backward(F.cross_entropy(model(x_adv), y))
            optimizer.step()

    x, y = splits.test.x().to(fabric.device), splits.test.labels.to(fabric.device)
    evaluation = rl.evaluate(network, x, y, attack.threat, attacks=["pgd-10"])
    fabric.print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    return evaluation.interval().value


if __name__ == "__main__":
    main()
