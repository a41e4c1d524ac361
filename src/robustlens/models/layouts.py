"""Names that other code gives the tensors of our architectures, and options that they leave open."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustlens.models.registry import MODELS


@dataclass(frozen=True)
class Layout:
    """The names that a family of code gives the tensors of our architectures.

    Attributes:
        architectures: names of `MODELS`.
        head: pattern for the weight of the last layer, by their name.
        rules: (pattern, replacement) in turn, from their names to ours; None drops a tensor that their
            forward pass does not use, or that is there a second time.
    """

    architectures: tuple[str, ...]
    head: str
    rules: tuple[tuple[str, str | None], ...] = ()

    def ours(self, name: str) -> str | None:
        """Our name of a tensor that they call `name`; None for one to drop."""
        for pattern, replacement in self.rules:
            if replacement is not None:
                name = re.sub(pattern, replacement, name)
            elif re.search(pattern, name):
                return None
        return name

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """Prefixes of the names of a network: "", "module.", "module.model.", "_orig_mod.", ..."""
        heads = (re.fullmatch(rf"((?:.*\.)?){self.head}", name) for name in names)
        return [head[1] for head in heads if head]


_WIDE = ("wrn-28-10", "wrn-34-10")

LAYOUTS = {
    "ours": Layout(tuple(MODELS), r"linear2?\.weight"),
    # kuangliu's pytorch-cifar, and from there Rice et al. 2020, AT-AWP, Wong et al. 2020, RobustBench, and
    # Andriushchenko and Flammarion 2020, who say bn_out and have the first layers a second time.
    "PreActResNet": Layout(
        ("preactresnet18",),
        r"linear\.weight",
        ((r"\.shortcut\.0\.", ".shortcut."), (r"^bn_out\.", "bn."), (r"^model_preact_hl1\.", None)),
    ),
    # TRADES, and from there TRADES-AWP, MART, RST, RobustBench. The stage sub_block1 is made and never run.
    "WideResNet": Layout(
        _WIDE,
        r"fc\.weight",
        (
            (r"^(block\d)\.layer\.", r"\1."),
            (r"\.convShortcut\.", ".shortcut."),
            (r"^bn1\.", "bn."),
            (r"^fc\.", "linear."),
            (r"^sub_block1\.", None),
        ),
    ),
    # DeepMind's (Gowal et al. 2020), and from there Rade, Pang, Wang et al., RobustBench.
    "DMWideResNet": Layout(
        _WIDE,
        r"logits\.weight",
        (
            (r"^init_conv\.", "conv1."),
            (r"^layer\.0\.block\.", "block1."),
            (r"^layer\.1\.block\.", "block2."),
            (r"^layer\.2\.block\.", "block3."),
            (r"^(block[23]\.0)\.conv_0\.", r"\1.conv1.conv."),  # with stride 2, padded at one side
            (r"\.conv_0\.", ".conv1."),
            (r"\.conv_1\.", ".conv2."),
            (r"\.batchnorm_0\.", ".bn1."),
            (r"\.batchnorm_1\.", ".bn2."),
            (r"^batchnorm\.", "bn."),
            (r"^logits\.", "linear."),
        ),
    ),
}

NORMALISATIONS = (("mean", "std"), ("mu", "sigma"), ("mu", "std"), ("new_mean", "new_std"))
"""Names of the buffers that hold mean and standard deviation of the images, without their prefix."""

AMBIGUOUS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "preactresnet18": ("raw_shortcut", (False, True)),
    "resnet": ("centred", (False, True)),
    "wrn": ("activation", ("relu", "silu")),
}
"""Start of an architecture's name: its option that changes the computation and no tensor, and the values."""

UNSUPPORTED = {
    r"(.*\.)?layer_0\.0\.conv_2d_1\.weight": "DeepMind's PreActResNet, whose shortcuts are 3x3 convolutions",
    r"(.*\.)?layer2\.0\.(shortcut|downsample)\.1\.weight": "a ResNet with BatchNorm in its shortcuts",
}
"""A tensor of a network that resembles ours, and the network that it belongs to."""


def options_from_tensors(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of an architecture that follow from the names and shapes of its tensors."""
    width = {"width": len(tensors["conv1.weight"])} if "conv1.weight" in tensors else {}
    if name == "preactresnet18":
        return width | {"final_norm": "bn.weight" in tensors}
    if name.startswith("wrn"):
        return {"same_padding": "block2.0.conv1.conv.weight" in tensors}
    if name.startswith("resnet"):
        return width
    if name.startswith("small-cnn"):
        return width | ({"hidden": len(tensors["linear1.weight"])} if "linear1.weight" in tensors else {})
    return {}


def ambiguous_option(name: str) -> tuple[str, tuple[Any, ...]]:
    """The option of an architecture that no name or shape decides, and its values; "" and () without one."""
    return next((option for start, option in AMBIGUOUS.items() if name.startswith(start)), ("", ()))
