"""The rule of each operation that is affine in the activations."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from robustlens.certification import arguments
from robustlens.certification.affine import Affine, Map
from robustlens.certification.graph import IMAGES, Operation, Ref


def convolution(operation: Operation, constants: arguments.Constants) -> Affine:
    """A convolution of any stride, padding, dilation and groups, or a transposed one."""
    source, weight, bias, *options = (*operation.args,)
    w = arguments.constant(weight, constants)
    b = None if bias is None else arguments.constant(bias, constants)
    strides, paddings, dilations, transposed, output_paddings, groups = options
    rest = (list(strides), list(paddings), list(dilations), transposed, list(output_paddings), groups)
    spatial, shape = math.prod(w.shape[2:]), arguments.input_shape(operation)

    def apply(weight: Tensor) -> Map:
        return lambda inputs: torch.ops.aten.convolution(inputs[0], weight, None, *rest)

    def transpose(rows: Tensor) -> list[Tensor]:
        like = rows.new_zeros(()).expand(len(rows), *shape)
        back = torch.ops.aten.convolution_backward(rows, like, w, None, *rest, [True, False, False])
        return [back[0]]

    offset = None if b is None else b.view(1, -1, *[1] * (w.ndim - 2))
    terms = spatial * (w.shape[0] + w.shape[1])
    return Affine((arguments.data(source, constants),), apply(w), apply(w.abs()), transpose, offset, terms)


def matrix(operation: Operation, constants: arguments.Constants) -> Affine:
    """`addmm(b, x, W^T)` and `mm(x, W^T)`."""
    if operation.kwargs:
        raise arguments.NoRuleError(f"with {', '.join(operation.kwargs)}")
    *bias, source, matrix = operation.args
    w = arguments.constant(matrix, constants)
    offset = arguments.constant(bias[0], constants).view(1, -1) if bias else None
    return Affine(
        (arguments.data(source, constants),),
        lambda inputs: inputs[0] @ w,
        lambda inputs: inputs[0] @ w.abs(),
        lambda rows: [rows @ w.T],
        offset,
        sum(w.shape),
    )


def batch_norm(operation: Operation, constants: arguments.Constants) -> Affine:
    """BatchNorm on running statistics: a factor and a summand a channel."""
    source, weight, bias, mean, var, *options = operation.args
    training, eps = (options[0], options[-1]) if isinstance(options[0], bool) else (False, options[-1])
    if training or mean is None:
        raise arguments.NoRuleError("normalises with statistics of the batch")
    scale = (arguments.constant(var, constants) + eps).rsqrt()
    if weight is not None:
        scale = scale * arguments.constant(weight, constants)
    shift = -arguments.constant(mean, constants) * scale
    if bias is not None:
        shift = shift + arguments.constant(bias, constants)
    shape = (1, -1, *[1] * (len(operation.shape) - 2))
    return _diagonal(arguments.data(source, constants), scale.view(shape), shift.view(shape))


def scaling(operation: Operation, constants: arguments.Constants) -> Affine:
    """A product or quotient of activations and a constant."""
    left, right = operation.args[:2]
    if operation.kind == "div" and (operation.kwargs or arguments.is_data(right, constants)):
        raise arguments.NoRuleError("divides by activations or rounds")
    source, factor = (left, right) if arguments.is_data(left, constants) else (right, left)
    if arguments.is_data(factor, constants):
        raise arguments.NoRuleError("multiplies activations")
    value = arguments.factor(factor, constants, operation)
    if operation.shapes[source.number] != operation.shape:
        raise arguments.NoRuleError("broadcasts activations")
    scale = 1 / value if operation.kind == "div" else value
    return _diagonal(arguments.data(source, constants), scale, None)


def addition(operation: Operation, constants: arguments.Constants) -> Affine:
    """A sum or difference of activations, or of activations and a constant."""
    left, right = operation.args[:2]
    alpha = float(operation.kwargs.get("alpha", 1)) if len(operation.args) < 3 else float(operation.args[2])
    signs = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[operation.kind]
    pairs = list(zip((left, right), signs, strict=True))
    data = [(ref.number, sign) for ref, sign in pairs if arguments.is_data(ref, constants)]
    numbers = [
        arguments.factor(ref, constants, operation) * sign
        for ref, sign in pairs
        if not arguments.is_data(ref, constants)
    ]
    if len(data) == 1 and operation.shapes[data[0][0]] == operation.shape:
        return _diagonal(data[0][0], data[0][1], arguments.aligned(numbers[0], operation))

    def summed(factors: list[float]) -> Map:
        return lambda inputs: _sum(factor * each for factor, each in zip(factors, inputs, strict=True))

    factors = [sign for _, sign in data]
    plain = summed(factors)
    return _by_gradient(
        tuple(number for number, _ in data),
        plain,
        summed([abs(each) for each in factors]),
        operation,
        offset=numbers[0] if numbers else None,
    )


def structure(operation: Operation, constants: arguments.Constants) -> Affine:
    """An operation whose matrix has no negative entry: a selection of pixels, or an average of some.

    The first argument is the activations (a list of them for `cat`), the rest as they were, but for the
    number of images in the size that `view` is given.
    """
    _check_dimensions(operation)
    first = operation.args[0]
    sources = first if isinstance(first, tuple) else (first,)
    if any(not arguments.is_data(each, constants) for each in sources):
        raise arguments.NoRuleError("joins activations and constants")
    rest = [_plain(each) for each in operation.args[1:]]
    kwargs = {key: _plain(each) for key, each in operation.kwargs.items()}
    in_place = operation.call._schema.is_mutable

    def apply(inputs: list[Tensor]) -> Tensor:
        if operation.kind in ("view", "_unsafe_view", "reshape"):
            return inputs[0].reshape(len(inputs[0]), *operation.shape[1:])
        if operation.kind in ("alias", "clone", "detach"):
            return inputs[0]
        single = inputs[0].clone() if in_place else inputs[0]
        chosen = list(inputs) if isinstance(first, tuple) else single
        result: Tensor = operation.call(chosen, *rest, **kwargs)
        return result

    return _by_gradient(tuple(each.number for each in sources), apply, apply, operation)


def padding(operation: Operation, constants: arguments.Constants) -> Affine:
    """Padding with a constant, which enters as a summand where it is not zero."""
    source, sizes, *value = operation.args
    if len(sizes) > 2 * (len(operation.shape) - 1):
        raise arguments.NoRuleError("pads the images themselves")

    def apply(inputs: list[Tensor]) -> Tensor:
        return torch.nn.functional.pad(inputs[0], list(sizes))

    fill, offset = float(value[0]) if value else 0.0, None
    if fill:
        like = next(iter(constants.values()), torch.zeros((), dtype=torch.float64))
        ones = apply([like.new_ones(1, *arguments.input_shape(operation))])
        offset = fill * (1 - ones)
    return _by_gradient((arguments.data(source, constants),), apply, apply, operation, offset=offset)


def negation(operation: Operation, constants: arguments.Constants) -> Affine:
    """The activations with their signs changed."""
    return _diagonal(arguments.data(operation.args[0], constants), -1.0, None)


def _diagonal(source: int, scale: Tensor | float, offset: Tensor | float | None) -> Affine:
    size = scale.abs() if isinstance(scale, Tensor) else abs(scale)
    return Affine(
        (source,),
        lambda inputs: inputs[0] * scale,
        lambda inputs: inputs[0] * size,
        lambda rows: [rows * scale],
        offset,
    )


def _by_gradient(
    sources: tuple[int, ...],
    linear: Map,
    absolute: Map,
    operation: Operation,
    *,
    offset: Tensor | float | None = None,
) -> Affine:
    """An affine operation whose transpose is its gradient."""
    shapes = [operation.shapes[number][1:] for number in sources]

    def transpose(rows: Tensor) -> list[Tensor]:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = [rows.new_zeros(len(rows), *shape).requires_grad_() for shape in shapes]
            output = linear(inputs).expand(len(rows), *operation.shape[1:])
        towards = rows.expand_as(output)
        return list(torch.autograd.grad(output, inputs, towards, create_graph=differentiable))

    offset = None if offset is None else arguments.aligned(offset, operation)
    terms = max(math.prod(shape) for shape in shapes) + 1
    return Affine(sources, linear, absolute, transpose, offset, terms)


def _check_dimensions(operation: Operation) -> None:
    """Refuse what mixes images: the first dimension has to stay where and what it is."""
    kind, args = operation.kind, operation.args
    dims: tuple[int, ...] = ()
    if kind == "permute":
        dims = () if args[1][0] in (0, -len(args[1])) else (0,)
    elif kind in ("transpose", "cat", "slice", "select", "squeeze", "unsqueeze", "mean", "sum"):
        given = args[1:3] if kind == "transpose" else args[1:2] or (operation.kwargs.get("dim", 0),)
        dims = tuple(dim for each in given for dim in (each if isinstance(each, tuple) else (each,)))
    ranks = {len(operation.shapes[number]) for number in operation.sources}
    rank = max(ranks) + (kind == "unsqueeze")
    if any(dim is None or dim % rank == 0 for dim in dims) or operation.shape[:1] != (IMAGES,):
        raise arguments.NoRuleError("works across images")


def _plain(value: Any) -> Any:
    if isinstance(value, Ref):
        raise arguments.NoRuleError("takes a tensor among its options")
    return list(value) if isinstance(value, tuple) else value


def _sum(terms: Iterable[Tensor]) -> Tensor:
    total = None
    for term in terms:
        total = term if total is None else total + term
    assert total is not None
    return total
