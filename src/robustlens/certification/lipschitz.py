"""Lipschitz constants in L2 of modules known by their type: how fast their outputs can change at most.

Types that are not in `CONSTANTS` are refused: a bound that guesses is none.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float64
from torch import Tensor, nn

from robustlens.errors import ModelError
from robustlens.models import Normalize, forward, preact_resnet, resnet, wide_resnet
from robustlens.models.folding import scale_and_shift
from robustlens.models.small import FlattenMap
from robustlens.spectra.circular import circular_singular_values
from robustlens.spectra.layers import replaced_methods

Shape = tuple[int, ...]
"""Of one image or activation, without the batch."""

Constant = Callable[..., float]
"""`(module, shape of what it reads) -> Lipschitz constant`; raises `_UnknownOptionError`."""


class _UnknownOptionError(Exception):
    """A module of a known type has an option that no rule covers."""


def flattened(module: nn.Module, name: str = "model") -> Iterator[tuple[str, nn.Module]]:
    """The modules of nested `nn.Sequential`s by name, one after another.

    Raises:
        ModelError: one is of a type that has no rule, or has hooks or a method that was put in the place of
            its class's, which may change its output.
    """
    if any(vars(module)[kind] for kind in ("_forward_hooks", "_forward_pre_hooks")):
        raise _refusal(name, module, "has hooks")
    for method in replaced_methods(module):
        raise _refusal(name, module, f"has a forward pass of its own ({method})")
    if type(module) is nn.Sequential:
        # A module in several places runs in each; named_children gives it once.
        for part_name, part in zip(module._modules, module, strict=True):
            yield from flattened(part, f"{name}.{part_name}")
    elif type(module) in CONSTANTS:
        yield name, module
    else:
        raise _refusal(name, module, "is of a type without a rule")


def shapes_in(chain: Iterable[tuple[str, nn.Module]], shape: Shape) -> list[Shape]:
    """Shapes of the inputs of a chain of modules in eval mode, and of the output of the last one."""
    shapes = [shape]
    for _, module in chain:
        tensor = next(module.parameters(), next(module.buffers(), torch.zeros(())))
        output = forward(module, tensor.new_zeros(1, *shapes[-1]))
        assert isinstance(output, Tensor)
        shapes.append(tuple(output.shape[1:]))
    return shapes


def log_constant(chain: Sequence[tuple[str, nn.Module]], shapes: Sequence[Shape]) -> float:
    """Log of the product of the constants of a chain, a BatchNorm counted with the layer before it.

    Raises:
        ModelError: a module has an option that no rule covers.
    """
    total, place = 0.0, 0
    while place < len(chain):
        name, module = chain[place]
        scale = diagonal(chain[place + 1][1]) if place + 1 < len(chain) else None
        try:
            if scale is not None and _takes_scale(module, shapes[place]):
                constant, place = _layer(module, shapes[place], scale), place + 2
            else:
                constant, place = CONSTANTS[type(module)](module, shapes[place]), place + 1
        except _UnknownOptionError as error:
            raise _refusal(name, module, str(error)) from error
        total += math.log(constant) if constant > 0 else -math.inf
    return total


def diagonal(module: nn.Module) -> Float64[Tensor, " c"] | None:
    """Factor of each channel under BatchNorm in eval mode, or `Normalize`; None for other modules."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
        return scale_and_shift(module)[0]
    if isinstance(module, Normalize):
        return module.std.detach().cpu().double().flatten().reciprocal()
    return None


def is_nonlinear(module: nn.Module) -> bool:
    """Whether a module is not affine in eval mode, as BatchNorm on the statistics of the batch is not."""
    on_batch = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is None
    return type(module) not in AFFINE or on_batch


def _refusal(name: str, module: nn.Module, why: str) -> ModelError:
    known = ", ".join(sorted({kind.__name__ for kind in (nn.Sequential, *CONSTANTS)}))
    return ModelError(f"certificate: {name} ({type(module).__name__}) {why}; expected a chain of {known}")


def _takes_scale(module: nn.Module, shape: Shape) -> bool:
    """Whether the channels that come next are the rows of this layer's weight."""
    return isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and len(shape) == 1)


def _layer(module: nn.Module, shape: Shape, scale: Float64[Tensor, " c"] | None = None) -> float:
    """The largest singular value of a layer; an upper bound of it for a convolution.

    A zero-padded convolution is a part of the circular one on any map that is larger by the reach of the
    kernel: its input fills a part of that map with zeros around it, and its outputs are some of the outputs
    there, fewer with a stride.
    """
    assert isinstance(module, nn.Conv2d | nn.Linear)
    weight = module.weight.detach().cpu().double()
    if scale is not None:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    if isinstance(module, nn.Linear):
        return float(torch.linalg.matrix_norm(weight, 2))
    if module.padding_mode != "zeros":
        raise _UnknownOptionError(f"pads with {module.padding_mode!r}")
    dilation, kernel = _pair(module.dilation), _pair(module.kernel_size)
    size = (shape[1] + dilation[0] * (kernel[0] - 1), shape[2] + dilation[1] * (kernel[1] - 1))
    return float(circular_singular_values(weight, size, dilation=dilation, groups=module.groups)[0])


def _diagonal(module: nn.Module, shape: Shape) -> float:
    scale = diagonal(module)
    if scale is None:
        raise _UnknownOptionError("has no running statistics")
    return float(scale.abs().max())


def _at_most_one(module: nn.Module, shape: Shape) -> float:
    return 1.0


def _max_pool(module: nn.MaxPool2d, shape: Shape) -> float:
    """A maximum moves no more than its window, and a pixel is in at most ceil(kernel / stride) a side."""
    if _pair(module.dilation) != (1, 1):
        raise _UnknownOptionError(f"has dilation {module.dilation}")
    sides = zip(_pair(module.kernel_size), _pair(module.stride), strict=True)
    return math.sqrt(math.prod(math.ceil(kernel / stride) for kernel, stride in sides))


def _average_pool(module: nn.AvgPool2d, shape: Shape) -> float:
    """Averages over windows are averages over columns of averages over rows: the norms multiply."""
    if module.divisor_override is not None:
        raise _UnknownOptionError("has a divisor_override")
    options = (_pair(value) for value in (module.kernel_size, module.stride, module.padding))
    rest: dict[str, Any] = {"ceil_mode": module.ceil_mode, "count_include_pad": module.count_include_pad}
    return math.prod(
        _pooling(partial(F.avg_pool1d, kernel_size=kernel, stride=stride, padding=padding, **rest), side)
        for side, kernel, stride, padding in zip(shape[1:], *options, strict=True)
    )


def _adaptive_pool(module: nn.AdaptiveAvgPool2d | FlattenMap, shape: Shape) -> float:
    size = module.size if isinstance(module, FlattenMap) else module.output_size
    wanted = size if isinstance(size, tuple) else (size, size)
    return math.prod(
        1.0 if count is None else _pooling(partial(F.adaptive_avg_pool1d, output_size=count), side)
        for side, count in zip(shape[1:], wanted, strict=True)
    )


def _pooling(pool: Callable[[Tensor], Tensor], side: int) -> float:
    """Norm of a linear map along one side of an image."""
    return float(torch.linalg.matrix_norm(pool(torch.eye(side, dtype=torch.float64)[None])[0], 2))


def _resnet_block(block: resnet.BasicBlock, shape: Shape) -> float:
    """The shortcut leaves out pixels and adds zeros, so it is no more than 1, as is the ReLU at the end."""
    branch = _branch([block.conv1, block.bn1, block.relu1, block.conv2, block.bn2], shape)
    return (1.0 + branch) * _branch([block.relu2], shape)


def _preact_block(block: preact_resnet.PreActBlock | wide_resnet.WideBlock, shape: Shape) -> float:
    """The branch starts from the activated input, the shortcut too, or from the input itself."""
    dropout = [block.dropout] if isinstance(block, wide_resnet.WideBlock) else []
    start = _branch([block.bn1, block.relu1], shape)
    branch = start * _branch([block.conv1, block.bn2, block.relu2, *dropout, block.conv2], shape)
    if block.shortcut is None:
        return branch + 1.0
    raw = isinstance(block, preact_resnet.PreActBlock) and block.raw_shortcut
    return branch + (1.0 if raw else start) * _branch([block.shortcut], shape)


def _branch(modules: Iterable[nn.Module], shape: Shape) -> float:
    """Constant of modules that a block runs one after another."""
    chain = [named for module in modules for named in flattened(module, "block")]
    return math.exp(log_constant(chain, shapes_in(chain, shape)))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


AFFINE: dict[type[nn.Module], Constant] = {
    nn.Conv2d: _layer,
    nn.Linear: _layer,
    nn.BatchNorm1d: _diagonal,
    nn.BatchNorm2d: _diagonal,
    Normalize: _diagonal,
    nn.Identity: _at_most_one,
    nn.Dropout: _at_most_one,
    nn.Flatten: _at_most_one,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    FlattenMap: _adaptive_pool,
}
"""Modules that are affine in eval mode, but for what `is_nonlinear` says."""

CONSTANTS: dict[type[nn.Module], Constant] = {
    **AFFINE,
    nn.ReLU: _at_most_one,
    nn.MaxPool2d: _max_pool,
    resnet.BasicBlock: _resnet_block,
    preact_resnet.PreActBlock: _preact_block,
    wide_resnet.WideBlock: _preact_block,
}
"""Every module that has a rule. To add one: the rule, and a line here, or in `AFFINE`."""
