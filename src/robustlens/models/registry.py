"""Architectures by name. To add one: a function that returns its named layers, and a line in `MODELS`."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from robustlens.errors import ModelError
from robustlens.factories import is_factory
from robustlens.models import external
from robustlens.models.normalize import Normalize
from robustlens.models.preact_resnet import preact_resnet18
from robustlens.models.resnet import resnet
from robustlens.models.small import small_cnn
from robustlens.models.tensors import make_writable
from robustlens.models.wide_resnet import wide_resnet
from robustlens.registry import Registry

Architecture = Callable[..., dict[str, nn.Module]]
"""`(*, num_classes, in_channels, **options) -> layers`, applied in order; normalisation goes before them."""

MODELS: Registry[Architecture] = Registry(
    "model",
    {
        "small-cnn": small_cnn,
        "small-cnn-bn": partial(small_cnn, batch_norm=True),
        "resnet8": partial(resnet, 8),
        "resnet20": partial(resnet, 20),
        "resnet56": partial(resnet, 56),
        "resnet110": partial(resnet, 110),
        "preactresnet18": preact_resnet18,
        "wrn-28-10": partial(wide_resnet, 28, 10),
        "wrn-34-10": partial(wide_resnet, 34, 10),
    },
    error=ModelError,
    hidden=("num_classes", "in_channels"),
    factories=True,
)
"""Architectures by name; their parameters are the options of a recipe, of the types that they declare."""

_FIELDS = ("name", "options", "num_classes", "in_channels", "mean", "std")


def get(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global random state; in train mode.

    It takes float images (n, in_channels, h, w) in [0, 1] and returns logits (n, num_classes). Its first
    layer is `normalize`, a `Normalize`.

    Args:
        name: one of `MODELS`; "hf:NAME" or "timm:NAME", an architecture of transformers or timm, with fresh
            weights; or "package.module:factory", a function of yours that returns an `nn.Module`. The factory
            gets the options, and of `num_classes` and `in_channels` those that it takes.
        num_classes: number of logits, at least 2.
        in_channels: channels of the images.
        mean: per-channel mean for the normalisation; None for 0. Beside a factory, None for both statistics
            leaves its model as it is.
        std: per-channel standard deviation; None for 1.
        options: options of the architecture, e.g. `width=32`.

    Raises:
        ModelError: unknown name or option, or values that no network can be built with.

    >>> model = get("small-cnn", num_classes=10, in_channels=1, width=4)
    >>> sum(parameter.numel() for parameter in model.parameters())
    41630
    """
    if num_classes < 2 or in_channels < 1:
        shown = f"num_classes={num_classes}, in_channels={in_channels}"
        raise ModelError(f"model {name!r}: found {shown}, expected at least 2 classes and 1 channel")
    if is_factory(name):
        shape = {"num_classes": num_classes, "in_channels": in_channels}
        model = external.build(name, optional=shape, options=options)
        make_writable(model)  # training writes to its buffers
        if mean is None and std is None:
            return model
        layers: dict[str, nn.Module] = {"model": model}
    elif external.is_named(name):
        shape = {"num_classes": num_classes, "in_channels": in_channels}
        layers = {"model": external.fresh(name, **shape, **options)}
        make_writable(layers["model"])
    else:
        layers = layers_of(name, num_classes=num_classes, in_channels=in_channels, **options)
    centre = [0.0] * in_channels if mean is None else mean
    scale = [1.0] * in_channels if std is None else std
    if not len(centre) == len(scale) == in_channels:
        shown = f"{len(centre)} means and {len(scale)} stds"
        raise ModelError(f"model {name!r}: found {shown}, expected {in_channels} of each, one a channel")
    return nn.Sequential(OrderedDict({"normalize": Normalize(centre, scale)} | layers))


def describe(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The call `get(...)` as plain values for JSON, as in a weights file; `build_from` is the way back."""
    statistics = {"mean": None if mean is None else list(mean), "std": None if std is None else list(std)}
    return {
        "name": name,
        "options": options,
        "num_classes": num_classes,
        "in_channels": in_channels,
    } | statistics


def build_from(description: Mapping[str, Any]) -> nn.Module:
    """Build the network that `describe` described, with fresh weights; raises `ModelError` as `get` does.

    >>> sorted(build_from(describe("resnet8", num_classes=2)).state_dict())[:3]
    ['bn1.bias', 'bn1.num_batches_tracked', 'bn1.running_mean']
    """
    unknown = sorted(set(description) - set(_FIELDS))
    missing = sorted({"name", "num_classes"} - set(description))
    if unknown or missing:
        shown = f"missing {missing}" if missing else f"unknown {unknown}"
        raise ModelError(f"model description: {shown}, expected the fields {', '.join(_FIELDS)}")
    values = dict(description)
    name, options = values.pop("name"), values.pop("options", {})
    refuse_fields(name, options)
    return get(name, **values, **options)


def refuse_fields(name: str, options: Mapping[str, Any]) -> None:
    """Raise `ModelError` where the options of an architecture hold what its description has outside them."""
    twice = sorted(set(options) & set(_FIELDS))
    if twice:
        raise ModelError(
            f"model {name!r}: found {twice[0]!r} among the options, expected it outside them: in a recipe it "
            "follows from the data"
        )


def check(name: str, options: Mapping[str, Any], *, num_classes: int = 10, in_channels: int = 3) -> None:
    """Build a registered architecture on the meta device, without memory, to see that its options fit.

    Raises:
        ModelError: unknown name or option, or values that no network can be built with. A factory's are not
            looked at: it would have to run.
    """
    check_name(name)
    refuse_fields(name, options)
    empty = [
        layer
        for layer, module in _without_memory(name, options, num_classes, in_channels).items()
        if any(not parameter.numel() for parameter in module.parameters())
    ]
    if empty:
        raise ModelError(f"model {name!r}: {empty[0]} has no weights with the options {dict(options)}")


def count_parameters(
    name: str, options: Mapping[str, Any], *, num_classes: int = 10, in_channels: int = 3
) -> int | None:
    """Number of the parameters of a registered architecture, which is not built; None for a factory's.

    Raises as `check` does.

    >>> count_parameters("small-cnn", {"width": 4}, in_channels=1)
    41630
    """
    if name not in MODELS:
        return None
    layers = _without_memory(name, options, num_classes, in_channels).values()
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def _without_memory(
    name: str, options: Mapping[str, Any], num_classes: int, in_channels: int
) -> dict[str, nn.Module]:
    """The layers of a registered architecture on the meta device; none of a factory's."""
    if name not in MODELS:
        return {}
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights, which `check` refuses
        return layers_of(name, num_classes=num_classes, in_channels=in_channels, **options)


def check_name(name: str) -> None:
    """Raise `ModelError` for what is no registered architecture, no factory and no "hf:" or "timm:" name."""
    if not (is_factory(name) or external.is_named(name)):
        MODELS.find(name)


def layers_of(name: str, **options: Any) -> dict[str, nn.Module]:
    """The layers of a registered architecture, without normalisation; raises `ModelError` as `get` does."""
    check_name(name)
    where = f"model {name!r}"
    arguments = {key: options.pop(key) for key in MODELS.hidden if key in options}
    arguments |= MODELS.checked(name, options, "model.options")
    return external.call(where, MODELS[name], arguments)
