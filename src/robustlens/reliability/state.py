"""State of a model that a pass may change, to compare and to put back."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustlens.models.inference import identical


@dataclass(frozen=True, eq=False)
class _SavedTensor:
    """One parameter or buffer, its place, and the value that it had."""

    module: nn.Module
    name: str
    path: str
    tensor: Tensor
    value: Tensor
    wants_gradient: bool
    gradient: Tensor | None
    gradient_value: Tensor | None

    def has_changed(self) -> bool:
        now = getattr(self.module, self.name, None)
        return not (isinstance(now, Tensor) and identical(now, self.value))

    def restore(self) -> None:
        if getattr(self.module, self.name, None) is not self.tensor:
            setattr(self.module, self.name, self.tensor)
        if not identical(self.tensor, self.value):
            self.tensor.copy_(self.value)
        if self.tensor.is_leaf and self.tensor.requires_grad != self.wants_gradient:
            self.tensor.requires_grad_(self.wants_gradient)
        if self.tensor.is_leaf:
            self.tensor.grad = self.gradient
        if self.gradient is not None and self.gradient_value is not None:
            self.gradient.copy_(self.gradient_value)


class ModelState:
    """Parameters and buffers of a model, their gradients, and its modes, as they are now.

    Costs a copy of the model's tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modes = [(path, module, module.training) for path, module in model.named_modules()]
        self._entries = [
            _entry(module, name, f"{path}.{name}".lstrip("."), tensor)
            for path, module in model.named_modules()
            for name, tensor in [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]
        ]

    def changed(self) -> list[str]:
        """The names of parameters and buffers that have another value now, and of modules in another mode."""
        modes = [path or "the model" for path, module, mode in self._modes if module.training != mode]
        return [entry.path for entry in self._entries if entry.has_changed()] + modes

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back; what has not changed is not written."""
        for _, module, mode in self._modes:
            module.training = mode
        for entry in self._entries:
            entry.restore()


def _entry(module: nn.Module, name: str, path: str, tensor: Tensor) -> _SavedTensor:
    gradient = tensor.grad if tensor.is_leaf else None
    return _SavedTensor(
        module=module,
        name=name,
        path=path,
        tensor=tensor,
        value=tensor.detach().clone(),
        wants_gradient=tensor.requires_grad,
        gradient=gradient,
        gradient_value=None if gradient is None else gradient.detach().clone(),
    )
