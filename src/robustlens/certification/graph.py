"""A network in eval mode as a graph of operations, recorded while it runs once.

Which of torch's operations come after which is seen at the dispatcher, where every layer, function and
operator arrives as one of few. Unlike a symbolic trace this takes any Python that its forward functions are
made of; what depends on the values of activations is refused.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustlens.errors import ModelError
from robustlens.models import forward
from robustlens.models.hooks import hooked
from robustlens.registry import one_line

IMAGES = 3
"""Images that a network is recorded on: a first dimension of another size is no longer that of the images."""


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph among the arguments of an operation, by its number."""

    number: int


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of one of torch's operations.

    Attributes:
        number: of its result. place: of that among all the tensors that it returns.
        kind: name of the operation, without the mark of one in place: "convolution", "relu".
        args, kwargs: its arguments, tensors as `Ref`.
        shape: of its result, with the images first. shapes: of the tensors that it reads, by number.
        module: the module that calls it, by name and type.
        call: the operation itself.
    """

    number: int
    kind: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...]
    shapes: Mapping[int, tuple[int, ...]]
    module: str
    call: Any
    place: int = 0

    @property
    def sources(self) -> list[int]:
        """Numbers of the tensors that it reads."""
        return [ref.number for ref in _refs([self.args, self.kwargs])]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network as operations from images to logits.

    Attributes:
        input, output: numbers of the images and of the logits.
        shape: of one image.
        operations: those between them, in order. prelude: those on parameters and buffers alone.
        names: parameters and buffers by number. values: other tensors that the network makes.
    """

    input: int
    output: int
    shape: tuple[int, ...]
    operations: tuple[Operation, ...]
    prelude: tuple[Operation, ...]
    names: Mapping[int, str]
    values: Mapping[int, Tensor]

    def constants(self, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """Every tensor that does not depend on the images, made of these parameters and buffers."""
        known = {number: tensors[name] for number, name in self.names.items()}
        like = next(iter(known.values()), None)
        for number, value in self.values.items():
            number_type = like.dtype if like is not None and value.is_floating_point() else value.dtype
            known[number] = value if like is None else value.to(like.device, number_type)
        for operation in self.prelude:
            args, kwargs = (_filled(each, known) for each in (operation.args, dict(operation.kwargs)))
            if like is not None and "device" in kwargs:  # the forward pass made it where its images were
                kwargs["device"] = like.device
            result = operation.call(*args, **kwargs)
            made = [result] if isinstance(result, Tensor) else [e for e in result if isinstance(e, Tensor)]
            known[operation.number] = made[operation.place]
        return known


def record(model: nn.Module, shape: Sequence[int]) -> Graph:
    """The graph of `model` in eval mode, on images of a shape; the model itself does not run or change.

    Raises:
        ModelError: it cannot be copied or fails on float64 images, draws random numbers, or what it does
            depends on the values of its activations; the module is in the line.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError("certify: the model is compiled by TorchScript, expected the module it was made of")
    try:
        network = _structure(getattr(model, "_orig_mod", model))
    except Exception as error:
        raise ModelError(f"certify: the model cannot be copied: {one_line(error)}") from error
    x = torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    recorder = _Recorder(network, x)
    modules = [module for module in network.modules() if not isinstance(module, nn.Sequential)]
    with torch.no_grad(), hooked(modules, before=recorder.enter, after=recorder.leave), recorder:
        output = forward(network, x)
    if not isinstance(output, Tensor):
        raise ModelError(f"certify: the model returns {type(output).__name__}, expected a tensor of logits")
    return recorder.graph(output, tuple(shape))


def _structure(model: nn.Module) -> nn.Module:
    """A copy in eval mode and float64 on the CPU, with other numbers: no weight is read from a device."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        floats = tensor.is_floating_point()
        made = torch.full(tensor.shape, float(floats), dtype=torch.float64 if floats else tensor.dtype)
        memo[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
    return copy.deepcopy(model, memo).eval()


@dataclass(eq=False)
class _Recorder(TorchDispatchMode):
    network: nn.Module
    x: Tensor
    operations: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []  # a tensor kept alive keeps its id from another
        self.numbers: dict[int, int] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.stale: set[int] = set()
        self.values: dict[int, Tensor] = {}
        self.names: dict[int, str] = {}
        self.modules = {module: name for name, module in self.network.named_modules()}
        self.stack: list[str] = []
        self.count = 0
        for name, tensor in [*self.network.named_parameters(), *self.network.named_buffers()]:
            self.names[self._number(tensor)] = name
        self.input = self._number(self.x)
        self.dependent = {self.input}
        self.weighty = set(self.names)  # made of parameters and buffers, whose values are not recorded

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module begins."""
        self.stack.append(f"{self.modules.get(module) or 'model'} ({type(module).__name__})")

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module ends."""
        self.stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        refs, named = self._referred(args), self._referred(kwargs)
        shapes = {ref.number: self.shapes[ref.number] for ref in _refs([refs, named])}
        result = func(*args, **kwargs)
        depends = any(ref.number in self.dependent for ref in _refs([refs, named]))
        weighty = any(ref.number in self.weighty for ref in _refs([refs, named]))
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self._refusal(f"draws random numbers ({func})")
        tensors = [result] if isinstance(result, Tensor) else result
        if not isinstance(tensors, list | tuple):
            if depends:
                raise self._refusal(f"reads values of its activations ({func})")
            if weighty:
                raise self._refusal(f"reads values of its weights as Python numbers ({func})")
            return result
        if func._schema.is_mutable:
            self._check_written(func, args, result, depends)
        kind = func._overloadpacket.__name__.removesuffix("_")
        for place, tensor in enumerate(each for each in tensors if isinstance(each, Tensor)):
            number = self._number(tensor)
            label = kind if place == 0 else f"{kind}, its output {place + 1}"
            module = self.stack[-1] if self.stack else "model"
            shape = tuple(tensor.shape)
            self.operations.append(Operation(number, label, refs, named, shape, shapes, module, func, place))
            if depends:
                self.dependent.add(number)
            if weighty:
                self.weighty.add(number)
        return result

    def graph(self, output: Tensor, shape: tuple[int, ...]) -> Graph:
        """The operations that the output depends on."""
        last = self.numbers.get(id(output))
        if last is None or last not in self.dependent or id(output) in self.stale:
            raise ModelError("certify: the logits do not depend on the images in a way that can be followed")
        needed, kept = {last}, []
        for operation in reversed(self.operations):
            if operation.number in needed:
                kept.append(operation)
                needed.update(operation.sources)
        kept.reverse()
        return Graph(
            input=self.input,
            output=last,
            shape=shape,
            operations=tuple(each for each in kept if each.number in self.dependent),
            prelude=tuple(each for each in kept if each.number not in self.dependent),
            names={number: name for number, name in self.names.items() if number in needed},
            values={number: value for number, value in self.values.items() if number in needed},
        )

    def _number(self, tensor: Tensor) -> int:
        self.count += 1
        self.kept.append(tensor)
        self.numbers[id(tensor)] = self.count
        self.shapes[self.count] = tuple(tensor.shape)
        self.stale.discard(id(tensor))
        return self.count

    def _referred(self, value: Any) -> Any:
        """Arguments with `Ref` in place of each tensor; a tensor from outside is a constant of the graph."""
        if isinstance(value, Tensor):
            if id(value) in self.stale:
                raise self._refusal("reads a tensor after another that shares its memory was written to")
            if id(value) not in self.numbers:
                self.values[self._number(value)] = value.detach().clone()
            return Ref(self.numbers[id(value)])
        if isinstance(value, dict):
            return {key: self._referred(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return tuple(self._referred(each) for each in value)
        return value

    def _check_written(self, func: Any, args: tuple[Any, ...], result: Any, depends: bool) -> None:
        """An operation in place: whatever else shares the memory that it wrote to is not what it was."""
        if not args or result is not args[0] or not depends:
            raise self._refusal(f"writes to a tensor with {func}")
        memory = result.untyped_storage().data_ptr()
        others = (each for each in self.kept if each is not result)
        self.stale.update(id(each) for each in others if each.untyped_storage().data_ptr() == memory)

    def _refusal(self, why: str) -> ModelError:
        module = self.stack[-1] if self.stack else "model"
        return ModelError(f"certify: {module} {why}, expected a network that is a fixed chain of operations")


def _refs(value: Any) -> Iterable[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        yield from _refs(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _refs(each)


def _filled(value: Any, tensors: Mapping[int, Tensor]) -> Any:
    """Arguments with tensors in place of `Ref`."""
    if isinstance(value, Ref):
        return tensors[value.number]
    if isinstance(value, dict):
        return {key: _filled(each, tensors) for key, each in value.items()}
    return [_filled(each, tensors) for each in value] if isinstance(value, list | tuple) else value
