"""Singular values of the linear map that each layer is.

A linear layer is its weight matrix. A convolution is a matrix too, which depends on the size of its feature
map. Two such matrices are offered, by name, and never mixed:

`"circular"`: the convolution with wrap-around borders, which the DFT makes block diagonal (Sedghi, Gupta and
Long 2019, "The singular values of convolutional layers"). Most of the literature uses it. It is cheap. On
large maps it is close to the layer, on small ones it is not (its largest value is off by some 10 % at 4x4).

`"zero"`: the layer as it is, zero padding and all, as a dense matrix: for small maps only.

BatchNorm is not folded into the layers. Where one follows, the scale of a weight is arbitrary, and so is the
raw spread of its singular values: read `std_over_mean` beside `std`.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float, Float64
from torch import Tensor, nn

from robustlens.errors import ConfigError, NumericsError
from robustlens.explain.measure import Measurement, Subject
from robustlens.models import device_of, forward, undisturbed

Pair = tuple[int, int]

OPERATORS = {"circular": "wrap-around", "zero": "zero-padded"}
"""The matrices that a convolution may stand for, and what its borders then are."""
MAX_ELEMENTS = 2**24
"""Largest dense matrix that is built unasked: 128 MB, and about a minute for its singular values."""
_CHUNK_BYTES = 2**26  # of frequency blocks that a worker holds at a time


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as a linear map, bias aside.

    Attributes:
        module: the layer. size: height and width of the feature map that it reads; None for a linear layer.
    """

    module: nn.Conv2d | nn.Linear
    size: Pair | None = None

    def __str__(self) -> str:
        """For people: kind, channels, kernel, stride and feature map."""
        module = self.module
        if not isinstance(module, nn.Conv2d):
            return f"linear {module.in_features} -> {module.out_features}"
        extras = {"stride": module.stride, "dilation": module.dilation, "groups": (module.groups,)}
        shown = [f"{name} {_short(value)}" for name, value in extras.items() if set(value) != {1}]
        kernel, size = "x".join(map(str, module.kernel_size)), "x".join(map(str, self.size or ("?",)))
        return ", ".join(
            [f"conv {module.in_channels} -> {module.out_channels}, {kernel}", *shown, f"on {size}"]
        )


def spectrum(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    operator: str = "circular",
    layers: Iterable[str] | None = None,
    max_elements: int = MAX_ELEMENTS,
) -> dict[str, np.ndarray]:
    """Singular values of every Conv2d and Linear layer that a forward pass calls.

    Weights are taken as they are in eval mode, in float64. The model is left as it was.

    Args:
        model: takes images (n, *input_shape).
        input_shape: of one image, (c, h, w): it decides the size of every feature map.
        operator: which matrix a convolution stands for, "circular" or "zero"; see the module's text.
        layers: names of the layers wanted, as in `model.named_modules()`; None for all.
        max_elements: largest dense matrix to build: for "zero", and for "circular" where the stride does
            not divide the feature map.

    Returns:
        For each layer, in the order of `model.named_modules()`, all min(rows, columns) singular values of
        its matrix, descending, float64.

    Raises:
        ConfigError: unknown operator or layer; a dense matrix would have more than `max_elements`; a layer
            sees feature maps of several sizes, or pads with something else than zeros where "zero" is
            asked for.
        ModelError: the model does not take images of that shape.
        NumericsError: a weight is not finite.
    """
    _check_operator(operator)
    with undisturbed(model):
        found = trace(model, input_shape)
        wanted = list(found) if layers is None else list(layers)
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise ConfigError(
                f"spectrum.layers: found {unknown[0]!r}, expected some of {', '.join(found)}, the Conv2d and "
                "Linear layers that a forward pass calls"
            )
        return {name: _values(name, found[name], operator, max_elements) for name in found if name in wanted}


def trace(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Layer]:
    """The Conv2d and Linear layers that one forward pass in eval mode calls, with their feature-map sizes.

    Raises:
        ConfigError: a convolution sees feature maps of several sizes.
        ModelError: the model does not take images of that shape.
    """
    named = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    sizes: dict[nn.Module, set[Pair | None]] = {module: set() for module in named.values()}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shape = inputs[0].shape
        sizes[module].add((shape[-2], shape[-1]) if isinstance(module, nn.Conv2d) else None)

    handles = [module.register_forward_pre_hook(note) for module in named.values()]
    try:
        with undisturbed(model):
            kind = next(model.parameters(), torch.zeros(())).dtype
            forward(model, torch.zeros((1, *input_shape), dtype=kind, device=device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    for name, module in named.items():
        if len(sizes[module]) > 1:
            found = ", ".join(sorted(map(str, sizes[module])))
            raise ConfigError(f"spectrum: layer {name!r} sees feature maps of {found}, expected one size")
    return {name: Layer(module, *sizes[module]) for name, module in named.items() if sizes[module]}


def circular_singular_values(
    weight: Float[Tensor, "outputs inputs kh kw"],
    size: Pair,
    *,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """Singular values of a circular convolution on an (h, w) map, descending, float64.

    In the orthonormal DFT basis, stride 1 maps each frequency f to itself by the (c_out, c_in) matrix
    K(f) = sum_k weight[k] exp(2 pi i <f, k>), where <f, k> = f_h k_h / h + f_w k_w / w. Keeping every s-th
    pixel folds the s_h * s_w frequencies that agree modulo (h / s_h, w / s_w) onto one, g, and scales by
    1 / sqrt(s_h s_w): the block of g is [K(f_1), K(f_2), ...] / sqrt(s_h s_w). Blocks of g and -g are
    conjugate, up to the order of their columns, so about half of them are decomposed, and counted twice.
    Padding shifts the input, which is orthogonal, and drops out. A kernel larger than the map wraps
    around by itself.

    Blocks are built and decomposed a few at a time, by as many workers as torch has threads.

    Args:
        weight: (c_out, c_in / groups, kh, kw).
        size: (h, w) of the input map, multiples of `stride`.
        stride: vertical and horizontal.
        dilation: vertical and horizontal.
        groups: of channels; each gives its own blocks.

    Raises:
        ConfigError: `stride` does not divide `size`.
    """
    if size[0] % stride[0] or size[1] % stride[1]:
        raise ConfigError(f"spectrum: found stride {stride} on a {size} feature map, expected a divisor")
    outputs, inputs, *kernel = weight.shape
    map_size, coarse = torch.tensor(size), (size[0] // stride[0], size[1] // stride[1])
    taps = _grid((kernel[0], kernel[1])) * torch.tensor(dilation) % map_size
    frequencies, counts = _half(coarse)
    if not taps.any():  # a 1x1 kernel has the same block at every frequency
        frequencies, counts = frequencies[:1], counts.sum(0, keepdim=True)
    aliases = _grid(stride) * torch.tensor(coarse)
    matrix = weight.detach().cpu().flatten(2).permute(2, 0, 1).flatten(1).to(torch.complex128)

    def decompose(some: Tensor) -> Tensor:
        folded = frequencies[some, None] + aliases
        # Reduced in integers first, so that the angles are good to the last bit.
        turns = (folded[:, :, None] * taps % map_size / map_size.double()).sum(-1)
        waves = torch.exp(2j * math.pi * turns) / math.sqrt(math.prod(stride))
        blocks = (waves @ matrix).unflatten(2, (groups, outputs // groups, inputs))
        blocks = blocks.permute(0, 2, 3, 1, 4).flatten(3)  # (some, groups, outputs, aliases * inputs)
        return torch.linalg.svdvals(blocks).flatten(1).repeat_interleave(counts[some], 0).flatten()

    fits = _CHUNK_BYTES // (16 * outputs * inputs * len(aliases))
    shared = math.ceil(len(frequencies) / (4 * torch.get_num_threads()))
    chunks = torch.arange(len(frequencies)).split(max(1, min(fits, shared)))
    with _workers() as pool:
        return _descending(torch.cat(list(pool.map(decompose, chunks))))


def dense_operator(
    layer: nn.Conv2d, size: Pair, padding: str = "circular", *, max_elements: int = MAX_ELEMENTS
) -> Float64[Tensor, "rows columns"]:
    """The matrix of a convolution on an (h, w) map, found by applying it to every basis image.

    Rows are outputs (c_out, h', w') and columns inputs (c_in, h, w), both flattened; the bias is left out.

    Args:
        layer: the convolution.
        size: (h, w) of its input.
        padding: "zero" is the layer as it is. "circular" wraps around, whatever the layer's padding, and has
            one output for every `stride` inputs, rounded up.
        max_elements: refuse to build a larger matrix.

    Raises:
        ConfigError: unknown padding; the matrix is larger than `max_elements`; "zero", where the layer pads
            otherwise.
    """
    _check_operator(padding)
    if padding == "zero" and layer.padding_mode != "zeros":
        mode = repr(layer.padding_mode)
        raise ConfigError(f"spectrum.operator: 'zero' needs padding_mode 'zeros', found {mode} in {layer}")
    weight = layer.weight.detach().cpu().double()
    places = [
        _wrapped(*sides) for sides in zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ]

    def apply(images: Tensor) -> Tensor:
        border: str | tuple[int, ...] = layer.padding
        if padding == "circular":
            images, border = images[:, :, places[0]][:, :, :, places[1]], (0, 0)
        return F.conv2d(images, weight, None, layer.stride, border, layer.dilation, layer.groups).flatten(1)

    columns = layer.in_channels * size[0] * size[1]
    rows = apply(torch.zeros(1, layer.in_channels, *size, dtype=torch.float64)).shape[1]
    if rows * columns > max_elements:
        raise ConfigError(
            f"spectrum: the dense matrix of {Layer(layer, size)} is {rows} x {columns}, expected at most "
            f"{max_elements} elements; raise max_elements ({rows * columns * 8 / 1e9:.1f} GB, and slow)"
        )
    matrix = torch.empty(rows, columns, dtype=torch.float64)
    for some in torch.arange(columns).split(max(1, 2**22 // max(rows, columns))):
        basis = F.one_hot(some, columns).double().view(-1, layer.in_channels, *size)
        matrix[:, some] = apply(basis).T
    return matrix


def summarize(singular_values: np.ndarray) -> dict[str, float]:
    """Spread and extent of a layer's singular values.

    `std` is that of all values (divided by their number), in the units of the weight; `std_over_mean` is free
    of the weight's scale, and 0 where all values are 0.

    Raises:
        ConfigError: there are no values.
    """
    if singular_values.size == 0:
        raise ConfigError("spectrum: found no singular values, expected at least 1")
    std, mean = float(singular_values.std()), float(singular_values.mean())
    return {
        "std": std,
        "mean": mean,
        "std_over_mean": std / mean if mean else 0.0,
        "max": float(singular_values.max()),
        "min": float(singular_values.min()),
        "count": int(singular_values.size),
    }


def measure_spectrum(subject: Subject, *, operator: str = "circular") -> Measurement:
    """Singular values of every layer, at the feature-map sizes of the test images."""
    shape = tuple(subject.test.images.shape[1:])
    shown = {name: {"shape": str(layer)} for name, layer in trace(subject.model, shape).items()}
    found = spectrum(subject.model, shape, operator=operator)
    return Measurement(
        {"operator": operator, "layers": {name: summarize(found[name]) | shown[name] for name in found}},
        unit="singular value",
        what=f"Singular values of each layer, {OPERATORS[operator]} at its borders, BatchNorm not folded.",
        source="Wen, Li and Jia 2020 (variance of singular values); Sedghi, Gupta and Long 2019 (circular)",
        arrays=found,
    )


def _values(name: str, layer: Layer, operator: str, max_elements: int) -> np.ndarray:
    """All singular values of one layer."""
    module, size = layer.module, layer.size
    weight = module.weight.detach().cpu().double()
    if not bool(weight.isfinite().all()):
        raise NumericsError(f"spectrum: layer {name!r} has a weight that is NaN or infinite; train it again")
    if not isinstance(module, nn.Conv2d) or size is None:
        return _dense_values(weight)
    stride, dilation = _pair(module.stride), _pair(module.dilation)
    divides = size[0] % stride[0] == 0 and size[1] % stride[1] == 0
    if operator == "circular" and divides:
        return circular_singular_values(weight, size, stride=stride, dilation=dilation, groups=module.groups)
    try:
        return _dense_values(dense_operator(module, size, operator, max_elements=max_elements))
    except ConfigError as error:
        why = "" if operator == "zero" else ", whose stride does not divide its feature map"
        raise ConfigError(f"layer {name!r}{why}: {error}") from error


def _check_operator(operator: str) -> None:
    if operator not in OPERATORS:
        raise ConfigError(f"spectrum.operator: found {operator!r}, expected 'circular' or 'zero'")


def _dense_values(matrix: Float64[Tensor, "rows columns"]) -> np.ndarray:
    with _workers() as pool:
        return _descending(pool.submit(torch.linalg.svdvals, matrix).result())


def _workers() -> ThreadPoolExecutor:
    """Threads that use one BLAS thread each.

    LAPACK with several threads gains little on small matrices, and loses a hundredfold where other
    processes want the cores. The setting holds in these threads only.
    """
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))


def _half(size: Pair) -> tuple[Tensor, Tensor]:
    """One frequency (m, 2) of each pair f, -f modulo `size`, and how many it stands for (1 or 2)."""
    frequencies = _grid(size)
    place = torch.arange(len(frequencies))
    mirror = (-frequencies % torch.tensor(size)) @ torch.tensor([size[1], 1])
    kept = place <= mirror
    return frequencies[kept], torch.where(place == mirror, 1, 2)[kept]


def _grid(size: Pair) -> Tensor:
    """All integer points of a rectangle in row order, (size[0] * size[1], 2)."""
    return torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1]))


def _wrapped(size: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Where a circular convolution reads along one side, centred as "same" padding centres it."""
    reach = dilation * (kernel - 1)
    outputs = math.ceil(size / stride)
    return (torch.arange((outputs - 1) * stride + reach + 1) - reach // 2) % size


def _descending(values: Tensor) -> np.ndarray:
    return values.sort(descending=True).values.numpy()


def _pair(sides: tuple[int, ...]) -> Pair:
    return sides[0], sides[1]


def _short(sides: tuple[int, ...]) -> str:
    """One number where all are equal."""
    return str(sides[0]) if len(set(sides)) == 1 else "x".join(map(str, sides))
