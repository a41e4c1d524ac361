"""Layers whose gradient is useless, found by how they respond, and a copy of the network around them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustlens.errors import StoppedError
from robustlens.models.hooks import hooked, tensors_in
from robustlens.models.inference import preserved_state
from robustlens.reliability.functional import FunctionCall, operations_of, with_replaced
from robustlens.reliability.responses import useless_gradient
from robustlens.reliability.surrogates import MeanOverDraws, surrogate_of
from robustlens.results import ReplacedLayer

_IMAGES = 8


@dataclass(frozen=True, eq=False)
class Found:
    """A part of a network whose gradient is useless.

    Attributes:
        name: of the module, and of the operation in its forward pass if it is one; "the network" as a whole.
        kind: as `responses.useless_gradient` says.
        path: of the module. x: an input that it was observed at. operation: None for the module as a whole.
    """

    name: str
    kind: str
    path: str
    x: Tensor
    operation: FunctionCall | None = None


@dataclass(frozen=True, eq=False)
class AdaptiveCopy:
    """A network that answers as the original, with gradients that attacks can follow.

    Attributes:
        network: the original itself where nothing is replaced.
        replaced: layers whose backward pass is another one, by name.
        note: what was replaced, or why nothing was, in a sentence.
    """

    network: nn.Module
    replaced: tuple[ReplacedLayer, ...]
    note: str | None = None


def find(model: nn.Module, x: Float[Tensor, "n ..."]) -> tuple[Found, ...]:
    """The innermost parts of a network whose gradient is useless, by behaviour and not by name.

    Each module that turns one tensor into one is asked alone, at inputs that it got for eight images. Where
    a module fails whose parts do not, the cause lies in its own forward pass: if torch.fx can trace it, the
    operations there are asked one by one; else it counts as a whole. A module around one that is found is not
    asked, since it has to fail, too, but its own operations are.

    Args:
        model: in eval mode; its buffers and the random state are left as they were.
        x: some images on its device.
    """
    inputs = _observed(model, x[:_IMAGES])
    layers: list[Found] = []
    with preserved_state(model):
        for path, module in reversed(list(model.named_modules())):  # parts before the whole
            if path in inputs:
                inside = [each for each in layers if _contains(path, each.path)]
                layers += _useless_in(path, module, inputs[path], inside)
    return tuple(reversed(layers))


def adaptive_copy(model: nn.Module, x: Float[Tensor, "n ..."]) -> AdaptiveCopy:
    """A copy with the same answers, through which attacks search: see `surrogates`.

    A network that draws random numbers answers with its mean over draws there. Verdicts are the original's.

    Args:
        model: in eval mode; left as it was.
        x: some images on its device.
    """
    model = getattr(model, "_orig_mod", model)
    useless = find(model, x)
    if not useless:
        return AdaptiveCopy(model, (), "adaptive: no gradient is useless, and attacks are as without")
    names = ", ".join(each.name for each in useless)
    try:
        network = copy.deepcopy(model).requires_grad_(False)
    except StoppedError:
        raise
    except Exception:  # whatever a network's own __deepcopy__ or its parts raise
        return AdaptiveCopy(model, (), f"adaptive: {names} stay as they are: the network cannot be copied")
    surrogates: dict[str, str] = {}
    for each in reversed(useless):  # parts before the whole, which may be traced with them inside
        if each.kind != "random":
            network, surrogates[each.name] = _replaced(network, each)
    if any(each.kind == "random" for each in useless):
        network = MeanOverDraws(network)
    replaced = [
        ReplacedLayer(each.name, each.kind, surrogates.get(each.name, MeanOverDraws.surrogate))
        for each in useless
    ]
    around = "; ".join(f"{each.name} ({each.kind}, {each.surrogate})" for each in replaced)
    return AdaptiveCopy(network.eval(), tuple(replaced), f"adaptive: attacks go around {around}")


def _useless_in(path: str, module: nn.Module, x: Tensor, inside: list[Found]) -> list[Found]:
    """What is found in a module beside what was found inside it."""
    name = path or "the network"
    has_parts = next(module.children(), None) is not None
    if any(each.kind == "random" for each in inside):
        return []
    kind = None if inside else _kind(module, x)
    if kind is None and not inside:
        return []
    if has_parts and kind != "random":
        own = []
        for operation in operations_of(module, x):
            of_kind = _kind(operation.function, operation.x)
            if of_kind == "zero" or (of_kind == "missing" and not inside):
                own.append(Found(f"{name}: {operation.name}", of_kind, path, operation.x, operation))
        if own or inside:
            return own
    return [] if kind is None else [Found(name, kind, path, x)]


def _kind(function: Callable[[Tensor], Tensor], x: Tensor) -> str | None:
    """The way in which a gradient is useless; a function that fails away from its inputs is left alone."""
    try:
        return useless_gradient(function, x)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None


def _replaced(network: nn.Module, found: Found) -> tuple[nn.Module, str]:
    """The copy with a part replaced, and the surrogate's name."""
    module = network.get_submodule(found.path)
    if found.operation is not None:
        made = surrogate_of(found.operation.function, found.x, found.kind)
        new: nn.Module = with_replaced(module, found.operation.name, made)
    else:
        made = surrogate_of(module, found.x, found.kind)
        new = made
    if not found.path:
        return new, made.surrogate
    for path, each in list(network.named_modules(remove_duplicate=False)):  # it may be in several places
        if each is module:
            network.set_submodule(path, new)
    return network, made.surrogate


def _observed(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The input of each module's first call, by path; of those that read one float tensor and return one."""
    names = {module: path for path, module in model.named_modules()}
    inputs: dict[str, Tensor] = {}

    def before(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        tensors = list(tensors_in([args, kwargs]))
        if len(args) == 1 and len(tensors) == 1 and tensors[0] is args[0] and tensors[0].is_floating_point():
            inputs.setdefault(names[module], tensors[0].detach().clone())

    with preserved_state(model), torch.no_grad(), hooked(names, before=before):
        model(x.clone())
    return inputs


def _contains(outer: str, inner: str) -> bool:
    return outer != inner and (not outer or inner.startswith(f"{outer}."))
