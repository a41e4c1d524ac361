"""A pretended accelerator: tensors with real numbers that claim to lie on another device than the CPU.

`FakeTensorMode` cannot stand in for a GPU here: it has no numbers, so that nothing runs through that looks at
one, and torch's CPU build ends the process where autograd meets a pretended CUDA tensor. So the pretended
device is called "meta", which every build has, and its tensors wrap a tensor of the CPU. As on a GPU, an
operation on tensors of both devices is an error, but for single numbers of the CPU, and a value is read back
to the host only where Python asks for it; `reads` says where that was.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
_ATEN = torch.ops.aten
_READS = {
    _ATEN._local_scalar_dense.default,
    _ATEN.equal.default,
    _ATEN.nonzero.default,
    _ATEN.is_nonzero.default,
    _ATEN.masked_select.default,
    _ATEN._unique2.default,
    _ATEN.unique_dim.default,
    _ATEN.repeat_interleave.Tensor,
}
"""Operations whose result the host waits for: a value, or a shape that depends on values."""
_INDEXED = (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default)
"""Operations whose second argument are indices."""


class OnDevice(Tensor):
    """A tensor of the pretended device; `held` has its numbers."""

    held: Tensor
    is_meta = False  # it has numbers

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = held.detach()
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnDevice({self.held!r})"

    def __matmul__(self, other: Any) -> Tensor:
        """As of any tensor; torch squeezes the product of a vector and a matrix in place, which a wrapper cannot."""
        return torch.mv(other.mT, self) if (self.dim(), other.dim()) == (1, 2) else torch.matmul(self, other)

    def tolist(self) -> Any:
        """As of any tensor; one read."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as a GPU's tensor refuses it."""
        raise TypeError("can't convert a tensor of the device to NumPy; use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return carried_out(function, args, kwargs or {})


class MixedDevicesError(RuntimeError):
    """An operation on tensors of both devices."""


class PretendedDevice(TorchDispatchMode):
    """While it is active, tensors asked for on "meta" are `OnDevice`, and every read of a value is noted.

    Attributes:
        reads: the place in the package, as "room/file.py:function", of each value read back, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {}, self.reads)


def carried_out(function: Any, args: Any, kwargs: dict[str, Any], reads: list[str] | None = None) -> Any:
    """The result of an operation on held numbers, on the device that it is computed on."""
    tensors = list(tensors_among((*args, *kwargs.values())))
    inside = [one for one in tensors if isinstance(one, OnDevice)]
    wanted = kwargs.get("device")
    if inside and wanted is None and function not in (_ATEN.copy_.default, _ATEN._foreach_copy_.default):
        meeting = tensors
        if function in _INDEXED and isinstance(args[0], OnDevice):
            meeting = [args[0], *tensors_among(args[2:])]  # indices may be the CPU's, the values may not
        if any(one.dim() and not isinstance(one, OnDevice) for one in meeting):
            raise MixedDevicesError(f"{function}: tensors of the CPU and of the device")
    if inside and reads is not None:
        masks = function in (_ATEN.index.Tensor, _ATEN.index_put_.default) and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        leaves = wanted is not None and torch.device(wanted) != DEVICE
        if function in _READS or masks or leaves:
            reads.append(place())
    onto = torch.device(wanted) == DEVICE if wanted is not None else bool(inside)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = function(
        *changed(numbers_of, args), **{name: changed(numbers_of, one) for name, one in kwargs.items()}
    )
    if function._schema.is_mutable:
        return _returned(tensors, result)
    return changed(OnDevice, result) if onto else result


def _returned(arguments: list[Tensor], result: Any) -> Any:
    """What an operation in place returns: the tensor itself where it is an argument."""
    same = {id(one.held): one for one in arguments if isinstance(one, OnDevice)}
    return changed(lambda one: same.get(id(one), OnDevice(one) if same else one), result)


def tensors_among(values: Any) -> Iterator[Tensor]:
    """The tensors of arguments or results, in order; torch's `tree_flatten` takes ten times as long."""
    for one in values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, tuple | list):
            yield from tensors_among(one)


def changed(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same arguments or results with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)([changed(change, one) for one in value])
    return value


def numbers_of(tensor: Tensor) -> Tensor:
    """The numbers that a tensor of the pretended device holds; a tensor of the CPU as it is."""
    return tensor.held if isinstance(tensor, OnDevice) else tensor


def place() -> str:
    """The innermost function of the package that is at work."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "robustlens" in path.parts and "tests" not in path.parts:
            return f"{path.parent.name}/{path.name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


def moved(model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers on the pretended device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                on = nn.Parameter(OnDevice(parameter.data), requires_grad=parameter.requires_grad)
                module._parameters[name] = on
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    return model


@contextmanager
def pretended() -> Iterator[PretendedDevice]:
    """A block in which "meta" is the pretended device, and modules can be moved and converted.

    Forward differentiation is refused: on wrappers torch's ends the process.
    """
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # .data cannot change a wrapper's numbers
    try:
        with patch.object(torch.func, "jvp", side_effect=NotImplementedError), PretendedDevice() as mode:
            yield mode
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
