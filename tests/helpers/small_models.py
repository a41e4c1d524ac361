"""Small models with known properties, shared by the tests."""

from typing import Any

import torch
from torch import Tensor, nn


class NonEmpty(nn.Module):
    """The images themselves, of which there must be some: as InstanceNorm, which refuses an empty batch."""

    def forward(self, x):
        assert len(x), "a network is not called on no images"
        return x


class Everything(nn.Module):
    """A network with all that an attack must leave alone: BatchNorm, dropout, submodules in mixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


def everything(dtype: torch.dtype = torch.float32) -> Everything:
    """An `Everything` with warm BatchNorm statistics, a frozen BatchNorm inside a training network."""
    torch.manual_seed(1)
    model = Everything().to(dtype)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.rand(16, 3, 4, 4, dtype=dtype))
    model.norm.eval()
    model.conv.get_parameter("bias").requires_grad_(False)
    return model


def everything_in_training() -> Everything:
    """An `Everything` as in a training step: all modules in train mode, all parameters trainable, no dropout."""
    model = everything().train().requires_grad_(True)
    model.drop.p = 0.0
    return model


def trained(model: nn.Module) -> Any:
    """`model` with BatchNorms as after training, some of negative scale; in float64 and eval mode."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(norm.get_buffer("running_mean"))
            nn.init.uniform_(norm.get_buffer("running_var"), 0.2, 3.0)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return model.double().eval()


def images(n: int = 12, dtype: torch.dtype = torch.float32, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Images that reach the bounds of the box here and there, and labels."""
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(n, 3, 4, 4, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    return x, torch.randint(0, classes, (n,), generator=generator)


class Snapshot:
    """All state of a model, and the global random state, to compare before and after."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.flags = [module.training for module in model.modules()]
        self.wants = [p.requires_grad for p in model.parameters()]
        self.gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        self.random = torch.random.get_rng_state()

    def assert_unchanged(self) -> None:
        """Fail with the name of what changed."""
        for name, value in self.model.state_dict().items():
            assert torch.equal(value, self.state[name]), f"{name} changed"
        assert [module.training for module in self.model.modules()] == self.flags
        assert [p.requires_grad for p in self.model.parameters()] == self.wants
        for p, before in zip(self.model.parameters(), self.gradients, strict=True):
            assert (p.grad is None) == (before is None)
            assert p.grad is None or before is None or torch.equal(p.grad, before)
        assert torch.equal(torch.random.get_rng_state(), self.random), "the global random state moved"


def blobs(n: int = 160, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of three noisy patterns as uint8, and their labels: a few epochs show learning."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % classes
    x = (patterns[y] + 0.15 * torch.randn(n, 1, 8, 8, generator=generator)).clamp(0, 1)
    return (x * 255).to(torch.uint8), y


class Centred(nn.Module):
    """Subtracts a mean, expanded over rows and columns, which two modules know."""

    mean: Tensor

    def __init__(self, value: float = 0.5, num_classes: int = 3) -> None:
        super().__init__()
        x, _ = blobs()
        self.register_buffer("mean", torch.tensor(value).expand(x.shape[1:]))
        self.register_buffer("scale", torch.ones(2).expand(3, 2), persistent=False)
        self.again = nn.Module()
        self.again.register_buffer("mean", self.mean)
        self.fc = nn.Linear(x[0].numel(), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x - self.mean - self.again.get_buffer("mean")).flatten(1))
