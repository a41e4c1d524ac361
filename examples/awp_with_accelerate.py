"""Adversarial weight perturbation in a Hugging Face Accelerate loop, on one device or on several.

Run: pip install -c constraints.txt accelerate, then: accelerate launch examples/awp_with_accelerate.py
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import robustlens as rl


def main(images: int = 4000, epochs: int = 2) -> float:
    """Train a small CNN with AT and AWP; returns its robust accuracy on 200 test images."""
    accelerator = Accelerator()
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=200)
    network = rl.models.get("small-cnn", num_classes=10, in_channels=1, mean=[0.29], std=[0.35])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(TensorDataset(splits.train.x(), splits.train.labels), batch_size=64, shuffle=True)
    model, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    network = accelerator.unwrap_model(model)
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", eps=0.05), steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(network, gamma=5e-3)

    for epoch in range(epochs):
        for step, (x, y) in enumerate(loader):
            draws = torch.Generator().manual_seed(epoch * len(loader) + step)
            x_adv = attack(network, x, y, generator=draws)

            # The ascent looks at the bare network: AWP averages over the processes by itself.
            def ascended(x_adv: torch.Tensor = x_adv, y: torch.Tensor = y) -> torch.Tensor:
                with accelerator.autocast():
                    return F.cross_entropy(network(x_adv), y)

            optimizer.zero_grad()
            with awp.perturbed(ascended, scaler=accelerator.scaler):  # None but with mixed_precision="fp16"
                with accelerator.autocast():
                    loss = F.cross_entropy(model(x_adv), y)
                accelerator.backward(loss)
            optimizer.step()

    x, y = splits.test.x().to(accelerator.device), splits.test.labels.to(accelerator.device)
    evaluation = rl.evaluate(network, x, y, attack.threat, attacks=["pgd-10"])
    accelerator.print(
        f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}"
    )
    return evaluation.interval().value


if __name__ == "__main__":
    main()
