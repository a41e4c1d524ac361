"""Adversarial weight perturbation under autocast: in bfloat16, or in float16 with a gradient scaler.

Run: python examples/awp_with_amp.py
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

import robustlens as rl


def main(images: int = 4000, epochs: int = 2, dtype: torch.dtype = torch.bfloat16) -> float:
    """Train a small CNN in mixed precision; returns its robust accuracy on 200 test images."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=200)
    model = rl.models.get("small-cnn", num_classes=10, in_channels=1, mean=[0.29], std=[0.35]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    threat = rl.ThreatModel("Linf", eps=0.05)
    attack = rl.attacks.PGD(threat, steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(model, gamma=5e-3)
    scaler = torch.amp.GradScaler(
        device, enabled=dtype == torch.float16
    )  # float16 needs it, bfloat16 does not

    for epoch in range(epochs):
        for rows in torch.randperm(len(splits.train)).split(64):
            x, y = splits.train.x(rows).to(device), splits.train.labels[rows].to(device)
            draws = torch.Generator().manual_seed(int(rows[0]) + epoch)
            x_adv = attack(model, x, y, generator=draws)  # in float32: in float16, gradients of images vanish

            def loss_fn(x_adv: torch.Tensor = x_adv, y: torch.Tensor = y) -> torch.Tensor:
                with torch.autocast(device, dtype):
                    return F.cross_entropy(model(x_adv), y)

            optimizer.zero_grad()
            with awp.perturbed(loss_fn, scaler=scaler):  # a step that overflows is skipped, as without AWP
                scaler.scale(loss_fn()).backward()
            scaler.step(optimizer)
            scaler.update()

    x, y = splits.test.x().to(device), splits.test.labels.to(device)
    evaluation = rl.evaluate(model, x, y, threat, attacks=["pgd-10"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    return evaluation.interval().value


if __name__ == "__main__":
    main()
