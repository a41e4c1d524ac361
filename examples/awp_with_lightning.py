"""Adversarial weight perturbation in a PyTorch Lightning module, with manual optimization.

Run: pip install -c constraints.txt pytorch-lightning, then: python examples/awp_with_lightning.py
"""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robustlens as rl


class AdversarialTraining(pl.LightningModule):
    """Every step is on adversarial images, at the worst weights nearby."""

    automatic_optimization = False  # the backward pass belongs inside the perturbation, the step outside

    def __init__(self, network: nn.Module, attack: rl.attacks.PGD, gamma: float) -> None:
        super().__init__()
        self.network, self.attack = network, attack
        self.awp = rl.AdversarialWeightPerturbation(network, gamma=gamma)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, as the field trains."""
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)

    def training_step(self, batch: list[torch.Tensor], number: int) -> None:
        """One step: Lightning moves the batch to the device, and may wrap the optimizer."""
        x, y = batch
        draws = torch.Generator().manual_seed(self.global_step)
        x_adv = self.attack(self.network, x, y, generator=draws)

        def loss_fn() -> torch.Tensor:
            return F.cross_entropy(self.network(x_adv), y)

        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)  # there is one
        optimizer.zero_grad()
        with self.awp.perturbed(
            loss_fn
        ):  # with precision="16-mixed": scaler=self.trainer.precision_plugin.scaler
            self.manual_backward(loss_fn())
        optimizer.step()


def main(images: int = 4000, epochs: int = 2) -> float:
    """Train a small CNN with AT and AWP; returns its robust accuracy on 200 test images."""
    pl.seed_everything(0, verbose=False)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=200)
    network = rl.models.get("small-cnn", num_classes=10, in_channels=1, mean=[0.29], std=[0.35])
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", eps=0.05), steps=5, keep="last")
    loader = DataLoader(TensorDataset(splits.train.x(), splits.train.labels), batch_size=64, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(AdversarialTraining(network, attack, gamma=5e-3), loader)
    evaluation = rl.evaluate(network, splits.test.x(), splits.test.labels, attack.threat, attacks=["pgd-10"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    return evaluation.interval().value


if __name__ == "__main__":
    main()
