"""Adversarial training with weight perturbation in a Hugging Face Trainer: a subclass with one method.

Run: pip install -c constraints.txt transformers accelerate, then: python examples/awp_with_transformers.py
"""

import tempfile
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import robustlens as rl


class Logits(nn.Module):
    """What attacks take: images in [0, 1] in, logits out. The model's own normalisation goes here."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes)."""
        return self.model(pixel_values=(x - 0.29) / 0.35).logits


class AdversarialTrainer(Trainer):
    """A Trainer whose every step is on adversarial images, at the worst weights nearby."""

    def __init__(self, *args: Any, attack: rl.attacks.PGD, gamma: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attack, self.gamma = attack, gamma

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
        """The Trainer's own step, inside the perturbation; it steps the optimizer afterwards, at w."""
        inputs = self._prepare_inputs(inputs)
        network, x, y = Logits(model), inputs["pixel_values"], inputs["labels"]
        draws = torch.Generator().manual_seed(self.state.global_step)
        x_adv = self.attack(network, x, y, generator=draws)
        awp = rl.AdversarialWeightPerturbation(model, gamma=self.gamma)
        model.train()
        with awp.perturbed(lambda: F.cross_entropy(network(x_adv), y)):
            moved = {"pixel_values": (x_adv - 0.29) / 0.35, "labels": y}
            return super().training_step(model, moved, *more, **options)


def main(images: int = 1000, steps: int = 40) -> float:
    """Train a tiny ViT on Fashion-MNIST; returns its robust accuracy on 100 test images."""
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=100)
    shape: dict[str, Any] = {"image_size": 28, "patch_size": 7, "num_channels": 1, "num_labels": 10}
    size: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    model = ViTForImageClassification(ViTConfig(**shape, **size))
    threat = rl.ThreatModel("Linf", eps=0.03)
    pairs = zip(splits.train.x(), splits.train.labels, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = AdversarialTrainer(
            model,
            TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=64,
                learning_rate=2e-3,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=[{"pixel_values": image, "labels": label} for image, label in pairs],
            attack=rl.attacks.PGD(threat, steps=3, keep="last"),
            gamma=5e-3,
        )
        trainer.train()
    network = Logits(model).eval()
    x, y = (part.to(trainer.args.device) for part in (splits.test.x(), splits.test.labels))
    evaluation = rl.evaluate(network, x, y, threat, attacks=["pgd-10"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    return evaluation.interval().value


if __name__ == "__main__":
    main()
