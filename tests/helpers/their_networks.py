"""Networks as other code builds them: their names of tensors, their forward passes; small, random weights.

Written from the facts of their layouts (RobustBench's model zoo, TRADES, DeepMind), not from their code.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class TheirBlock(nn.Module):
    """A block of PreActResNet: the shortcut is a `Sequential` of one, from the activation or from the input."""

    def __init__(self, inputs: int, outputs: int, stride: int, raw: bool) -> None:
        super().__init__()
        self.raw = raw
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        aside = self.shortcut(x if self.raw else h) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(h)))) + aside


class TheirPreAct(nn.Module):
    """PreActResNet-18 of kuangliu, Rice et al., Wong et al. and RobustBench; `last` names a final BatchNorm."""

    def __init__(
        self, *, raw: bool, last: str = "", width: int = 4, classes: int = 5, channels: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for stage in range(1, 5):
            inputs, outputs = sizes[stage - 1 : stage + 1]
            first = TheirBlock(inputs, outputs, 1 if stage == 1 else 2, raw)
            setattr(self, f"layer{stage}", nn.Sequential(first, TheirBlock(outputs, outputs, 1, raw)))
        self.last = last
        if last:
            setattr(self, last, nn.BatchNorm2d(sizes[-1]))
        self.linear = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        for stage in range(1, 5):
            h = self.get_submodule(f"layer{stage}")(h)
        if self.last:
            h = F.relu(getattr(self, self.last)(h))
        return self.linear(F.avg_pool2d(h, 4).flatten(1))


class TheirWideBlock(nn.Module):
    """A block of TRADES' WideResNet, in which every block has a convShortcut, or none where sizes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        aside = x if self.convShortcut is None else self.convShortcut(h)
        return aside + self.conv2(F.relu(self.bn2(self.conv1(h))))


class TheirStage(nn.Module):
    """Blocks in a `Sequential` called layer."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [TheirWideBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(TheirWideBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class TheirWide(nn.Module):
    """WideResNet of TRADES, the AWP authors and RobustBench, with or without the stage that nothing runs."""

    def __init__(self, depth: int = 10, widen: int = 1, *, unused: bool = False, classes: int = 10) -> None:
        super().__init__()
        blocks, sizes = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = TheirStage(blocks, sizes[0], sizes[1], 1)
        if unused:
            self.sub_block1 = TheirStage(blocks, sizes[0], sizes[1], 1)
        self.block2 = TheirStage(blocks, sizes[1], sizes[2], 2)
        self.block3 = TheirStage(blocks, sizes[2], sizes[3], 2)
        self.bn1 = nn.BatchNorm2d(sizes[3])
        self.fc = nn.Linear(sizes[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(h)), 8).flatten(1))


class DeepMindBlock(nn.Module):
    """A block of DeepMind's WideResNet: padding "same", which with stride 2 is at the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.relu_0 = activation()
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, 0, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.relu_1 = activation()
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu_0(self.batchnorm_0(x))
        aside = x if self.shortcut is None else self.shortcut(h)
        h = self.relu_1(self.batchnorm_1(self.conv_0(F.pad(h, self.padding))))
        return aside + self.conv_1(h)


class DeepMindStage(nn.Module):
    """Blocks in a `Sequential` called block."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int, kind: type[nn.Module]) -> None:
        super().__init__()
        rest = [DeepMindBlock(outputs, outputs, 1, kind) for _ in range(blocks - 1)]
        self.block = nn.Sequential(DeepMindBlock(inputs, outputs, stride, kind), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DeepMindWide(nn.Module):
    """WideResNet of DeepMind and of RobustBench, with mean and std inside."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, depth: int = 10, widen: int = 1, *, activation: type[nn.Module] = nn.SiLU, classes: int = 10
    ) -> None:
        super().__init__()
        blocks, sizes = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.init_conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.layer = nn.Sequential(
            DeepMindStage(blocks, sizes[0], sizes[1], 1, activation),
            DeepMindStage(blocks, sizes[1], sizes[2], 2, activation),
            DeepMindStage(blocks, sizes[2], sizes[3], 2, activation),
        )
        self.batchnorm = nn.BatchNorm2d(sizes[3])
        self.relu = activation()
        self.logits = nn.Linear(sizes[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.init_conv((x - self.mean) / self.std))
        return self.logits(F.avg_pool2d(self.relu(self.batchnorm(h)), 8).flatten(1))


class TheirResNetBlock(nn.Module):
    """A block of a CIFAR ResNet whose shortcut puts new channels of zeros before and behind the old ones."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(h + x)


class TheirResNet(nn.Module):
    """ResNet-20 of akamaster's pytorch_resnet_cifar10, at half its width."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, outputs in enumerate((width, 2 * width, 4 * width), start=1):
            first = TheirResNetBlock(inputs, outputs, 1 if stage == 1 else 2)
            rest = [TheirResNetBlock(outputs, outputs, 1) for _ in range(2)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 4):
            h = self.get_submodule(f"layer{stage}")(h)
        return self.linear(h.mean((2, 3)))


class Normalised(nn.Module):
    """Mean and standard deviation as buffers of given names beside a network of a given name."""

    def __init__(self, network: nn.Module, mean: str, std: str, name: str = "model") -> None:
        super().__init__()
        place, self.mean_key, self.std_key = nn.Module(), mean.rpartition(".")[2], std.rpartition(".")[2]
        place.register_buffer(self.mean_key, torch.tensor(MEAN).view(1, 3, 1, 1))
        place.register_buffer(self.std_key, torch.tensor(STD).view(1, 3, 1, 1))
        self.add_module(mean.rpartition(".")[0], place)
        self.add_module(name, network)

    def forward(self, x: Tensor) -> Tensor:
        place, network = self.children()
        return network((x - getattr(place, self.mean_key)) / getattr(place, self.std_key))


def with_buffers(network: Network, mean: str = "mu", std: str = "sigma") -> Network:
    """`network`, made to normalise with buffers of its own, as RobustBench's subclasses do."""
    network.register_buffer(mean, torch.tensor(MEAN).view(1, 3, 1, 1))
    network.register_buffer(std, torch.tensor(STD).view(1, 3, 1, 1))
    network.register_forward_pre_hook(
        lambda module, x: ((x[0] - getattr(module, mean)) / getattr(module, std),)
    )
    return network


def images(n: int, channels: int = 3) -> Tensor:
    """Images in [0, 1] of mean 0.5 that are smooth, as photographs are."""
    coarse = F.interpolate(torch.rand(n, channels, 6, 6), size=32, mode="bilinear")
    return (0.7 * coarse + 0.3 * torch.rand(n, channels, 32, 32)).clamp(0, 1)


def warm(network: Network, normalised: bool = False, channels: int = 3) -> Network:
    """Random scales and shifts of BatchNorm, and running statistics as after training; in eval mode.

    With `normalised`, the images were normalised outside of the network.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = None  # the mean over all batches
    network.train()
    for _ in range(2):
        x = images(32, channels)
        if normalised:
            x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.no_grad():
            network(x)
    return network.eval()
