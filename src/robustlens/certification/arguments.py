"""Arguments of recorded operations: activations, or constants."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robustlens.certification.graph import IMAGES, Operation, Ref

Constants = Mapping[int, Tensor]
"""Every tensor that does not depend on the images, by number."""


class NoRuleError(Exception):
    """An operation has arguments that its rule does not cover; the reason is the message."""


def input_shape(operation: Operation) -> tuple[int, ...]:
    """Shape of one image of the first tensor among the arguments."""
    return operation.shapes[operation.args[0].number][1:]


def factor(value: Any, constants: Constants, operation: Operation) -> Tensor | float:
    """A constant that broadcasts over images."""
    if not isinstance(value, Ref):
        return float(value)
    tensor = constants[value.number]
    if tensor.ndim == len(operation.shape) and len(tensor) == IMAGES:
        if not torch.equal(tensor, tensor[:1].expand_as(tensor)):
            raise NoRuleError("treats images of a batch differently")
        tensor = tensor[:1]
    return tensor


def constant(value: Any, constants: Constants) -> Tensor:
    """The constant that an argument is; `NoRuleError` where it depends on the images."""
    if not isinstance(value, Ref) or value.number not in constants:
        raise NoRuleError("has weights that depend on the images")
    return constants[value.number]


def data(value: Any, constants: Constants) -> int:
    """Number of the activations that an argument is; `NoRuleError` where it is something else."""
    if not is_data(value, constants):
        raise NoRuleError("reads activations at an unexpected place")
    number: int = value.number
    return number


def is_data(value: Any, constants: Constants) -> bool:
    """Whether an argument is activations."""
    return isinstance(value, Ref) and value.number not in constants


def aligned(value: Tensor | float, operation: Operation) -> Tensor | float:
    """A constant with as many dimensions as the operation's result."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.reshape(*[1] * (len(operation.shape) - value.ndim), *value.shape)
