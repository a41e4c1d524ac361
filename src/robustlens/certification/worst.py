"""Worst-case logits over a box by intervals, differentiable in the weights: what networks are trained on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustlens.certification.affine import Affine
from robustlens.certification.bounds import Bounds
from robustlens.certification.graph import Graph, record
from robustlens.certification.operations import Rule, rules_of
from robustlens.errors import ModelError
from robustlens.models.hooks import hooked, input_of
from robustlens.models.whole_batch_norm import batch_statistics

_GRAPHS: WeakKeyDictionary[nn.Module, Graph] = WeakKeyDictionary()


def logits_and_worst(
    model: nn.Module, x: Float[Tensor, "n ..."], box: tuple[Tensor, Tensor], y: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Logits of x, and upper bounds of f_i - f_y over a box of images, 0 for y itself.

    Intervals as in Gowal et al. 2018, with the differences merged into the last layer ("elision", section 3).
    The model runs once, on x, in its mode; its BatchNorms normalise the bounds as they do x: in train mode
    with the statistics of x (Shi et al. 2021, section 4), or of the images of all processes where they span
    those. In the precision of the weights, and not outward.

    Raises:
        ModelError: an operation has no rule, or in train mode a BatchNorm runs twice in a pass.
    """
    network = model
    while isinstance(inside := getattr(network, "_orig_mod", getattr(network, "module", None)), nn.Module):
        network = inside
    tensors: dict[str, Tensor] = dict([*network.named_parameters(), *network.named_buffers()])
    with _batch_statistics(network, tensors):
        logits: Tensor = model(x)
    kind = x.device.type
    lowers = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if lowers else nullcontext():
        graph = _graph(network, tuple(x.shape[1:]))
        rules = rules_of(graph, graph.constants(tensors))
        return logits, -_margins(graph, rules, Bounds(*box), y)


def _graph(network: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The graph of a network, recorded once."""
    graph = _GRAPHS.get(network)
    if graph is None or graph.shape != shape:
        graph = _GRAPHS[network] = record(network, shape)
    return graph


@contextmanager
def _batch_statistics(network: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """In `tensors`, the mean and variance of the batch in place of the running ones, in train mode.

    Raises:
        ModelError: a BatchNorm runs twice in a pass, on statistics of which these are the first.
    """
    names: dict[nn.Module, str] = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.training
    }
    ran: set[nn.Module] = set()

    def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module in ran:
            raise ModelError(
                f"ibp: BatchNorm {names[module]!r} runs more than once in a pass, expected one for each place"
            )
        ran.add(module)
        mean, variance = batch_statistics(module, input_of(args, kwargs))
        prefix = f"{names[module]}." if names[module] else ""
        tensors[f"{prefix}running_mean"], tensors[f"{prefix}running_var"] = mean, variance

    with hooked(names, before=read):
        yield


def _margins(graph: Graph, rules: Mapping[int, Rule], box: Bounds, y: Tensor) -> Tensor:
    """Lower bounds of f_y - f_i by intervals."""
    tail = _affine_tail(graph, rules)
    bounds = {graph.input: box}
    for operation in graph.operations:
        if operation.number not in tail:
            rule = rules[operation.number]
            bounds[operation.number] = rule.interval([bounds[each] for each in rule.sources], outward=False)
    classes = torch.eye(graph.operations[-1].shape[1], dtype=box.lower.dtype, device=y.device)
    rows = classes[y][:, None] - classes
    pending, total = {graph.output: rows.flatten(0, 1)}, torch.zeros_like(rows[:, :, 0])
    for operation in reversed(graph.operations):
        here = pending.pop(operation.number, None)
        if here is None:
            continue
        if operation.number not in tail:
            pending[-operation.number] = here
            continue
        rule = tail[operation.number]
        if rule.offset is not None:
            total = total + (here * rule.offset).flatten(1).sum(1).view_as(total)
        for source, new in zip(rule.sources, rule.transpose(here), strict=True):
            pending[source] = pending[source] + new if source in pending else new
    for number, here in pending.items():
        low, high = (each.flatten(1)[:, :, None] for each in bounds[abs(number)])
        part = here.flatten(1).view(*total.shape, -1)
        total = total + (part.clamp_min(0) @ low + part.clamp_max(0) @ high).squeeze(2)
    return total


def _affine_tail(graph: Graph, rules: Mapping[int, Rule]) -> dict[int, Affine]:
    """The affine operations of which every way to the logits is affine."""
    readers: dict[int, list[int]] = {}
    for operation in graph.operations:
        for source in rules[operation.number].sources:
            readers.setdefault(source, []).append(operation.number)
    tail: dict[int, Affine] = {}
    for operation in reversed(graph.operations):
        rule = rules[operation.number]
        if isinstance(rule, Affine) and all(each in tail for each in readers.get(operation.number, [])):
            tail[operation.number] = rule
    return tail
